// Package kdrop asks the kernel why it dropped a packet. It listens to the tracepoint skb:kfree_skb
// (include/trace/events/skb.h) with a BPF program that keeps everything but the packets of given
// flows inside the kernel, and gives each drop its reason (enum skb_drop_reason), the kernel
// function that dropped it, the interface, the network namespace and the packet's first bytes.
//
// Reasons came with Linux 5.17. Their numbers differ from kernel to kernel, so names are taken from
// the BTF of the running one, as are the places of all fields that the program reads (CO-RE).
//
// What it cannot see: packets that the kernel frees without calling it a drop (a bridge that has no
// port to forward to, a frame over a bridge port's MTU, a blackhole route) and those that a device
// or the world outside loses.
//
// Nothing outlives the process: program, maps and attachment are file descriptors, pinned nowhere.
package kdrop

// The objects are committed, so that who builds podtrace needs no clang; TestGenerated holds them to the
// source, and names the version of clang that made them.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package kdrop -output-suffix _linux -tags linux -target bpfel,bpfeb -type event -type key kfree bpf/kdrop.c -- -O2 -Wall -Wextra -Werror
