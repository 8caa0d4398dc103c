// Package lab builds the bundled overlay in network namespaces of this machine: the Flannel VXLAN
// cluster of the seed document 000, address by address, or one of another datapath (Spec). It needs no
// program: links, addresses, routes, neighbours and forwarding databases are written by rtnetlink(7),
// netfilter rules by nftables, tc programs by bpf(2). Only kube-proxy's rules and legacy iptables are
// left to nft(8) and iptables-restore(8).
//
// A Spec says which lab; the cluster (nodes, pods, services) follows from it, and from the cluster the
// plans of its namespaces and cluster.yaml.
//
// What a namespace should hold is one value (its plan), and making it so is one function
// (reconcile), which is run to build the lab as well as to mend it after a fault was put in. A
// fault is therefore only the damage; nobody has to write how it is undone.
//
// The lab never touches the namespace that it is called from: every device is created inside the
// lab's own namespaces. What it does leave in the file system while it is up is the mounts
// /run/netns/podtrace-* (as ip-netns(8) makes them) and the folder /run/podtrace/lab.
//
// Without root the whole lab lives in a user namespace kept by a resident process; see Enter.
package lab
