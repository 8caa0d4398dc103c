// Command gencap makes capture files of a path with known faults, and truth.json beside them, for
// comparing what podtrace finds in them with what was done.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/podtrace/podtrace/pkg/flows/flowstest"
)

func main() {
	cfg := flowstest.Config{}
	flag.StringVar(&cfg.Dir, "dir", ".", "folder for the files")
	flag.IntVar(&cfg.Packets, "packets", 3_000_000, "packets of each file, about")
	flag.IntVar(&cfg.Flows, "flows", 1000, "connections")
	flag.Uint64Var(&cfg.Seed, "seed", 1, "of the random numbers")
	flag.Float64Var(&cfg.Loss, "loss", 0.001, "share of packets that are lost")
	flag.Float64Var(&cfg.Duplicates, "duplicates", 0.0005, "share that one point sees twice")
	flag.Float64Var(&cfg.WrongVNI, "wrong-vni", 0.0005, "share that is encapsulated with a wrong VNI")
	flag.Float64Var(&cfg.WrongAddress, "wrong-address", 0, "share whose destination is rewritten wrongly")
	flag.Float64Var(&cfg.Corrupt, "corrupt", 0, "share whose payload is corrupted on the way")
	flag.Float64Var(&cfg.Retransmit, "retransmit", 0, "share of TCP segments that are sent again")
	flag.Float64Var(&cfg.NAT, "nat", 0.1, "share of flows that go to a service address")
	flag.Float64Var(&cfg.IPv6, "ipv6", 0, "share of flows")
	flag.Float64Var(&cfg.NoID, "no-id", 0, "share of UDP flows without IPv4 identifications")
	flag.BoolVar(&cfg.GSO, "gso", false, "offloads merge segments at the outer points")
	flag.BoolVar(&cfg.Partial, "partial", false, "senders leave checksums to the hardware")
	flag.BoolVar(&cfg.Fragments, "fragments", false, "some flows are fragmented on the way")
	flag.BoolVar(&cfg.Cut, "cut", false, "begin and end all captures at one moment")
	flag.DurationVar(&cfg.Skew, "skew", 0, "by which the second node's clock is ahead")
	flag.Float64Var(&cfg.Drift, "drift", 0, "ns by which it gets further ahead each second")
	flag.IntVar(&cfg.SnapLen, "snaplen", 0, "bytes to capture of each frame (0: all)")
	flag.BoolVar(&cfg.BigEndian, "big-endian", false, "byte order of the files")
	flag.BoolVar(&cfg.Nano, "nano", false, "times in nanoseconds")
	flag.BoolVar(&cfg.PcapNG, "pcapng", false, "write pcapng")
	flag.Parse()
	if _, err := flowstest.Generate(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "gencap:", err)
		os.Exit(1)
	}
}
