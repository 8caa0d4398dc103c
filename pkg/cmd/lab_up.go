package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/podtrace/podtrace/pkg/lab"
)

func newLabUpCmd(s *Streams, runF func(context.Context, *labOptions) error) *cobra.Command {
	o := &labOptions{streams: s}
	if runF == nil {
		runF = runLabUp
	}
	c := &cobra.Command{
		Use:   "up",
		Short: "Bring the lab up; harmless when it is up already",
		Long:  "Bring the lab up; harmless when it is up already.\n\nDatapaths:\n" + datapathList(),
		Example: `  podtrace lab up
  podtrace lab up --datapath flannel-host-gw
  podtrace lab up --services nftables
  podtrace lab up --nodes 10 --pods 50`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runF(c.Context(), o) },
	}
	f := c.Flags()
	addDatapathFlags(f, &o.lab.Spec)
	f.IntVar(&o.lab.Spec.VNI, "vni", 0, "VNI of flannel's VXLAN device, which is named after it (default 1)")
	f.IntVar(&o.lab.Spec.Port, "port", 0, "UDP port of flannel's VXLAN device (default 8472)")
	f.BoolVar(&o.lab.Spec.GBP, "gbp", false, "flannel's VXLAN device with the group-policy extension")
	f.BoolVar(&o.lab.Spec.Learning, "learning", false, "flannel's VXLAN device learns from what it receives")
	f.IntVar(&o.lab.Spec.MTU, "mtu", 0, "MTU of flannel's VXLAN device; uplinks get 50 more (default 1450)")
	f.StringSliceVar(&o.lab.Spec.With, "with", nil, "devices of other programs on the nodes: k3s, kind, libvirt (docker0 is always there)")
	f.IntVar(&o.lab.Spec.Nodes, "nodes", 0, "number of nodes (default what the datapath needs)")
	f.IntVar(&o.lab.Spec.Pods, "pods", 0, "number of pods of all nodes together (default what the datapath needs)")
	return c
}

// addDatapathFlags are the flags of the lab that decide which faults it can have.
func addDatapathFlags(f *pflag.FlagSet, s *lab.Spec) {
	f.StringVar(&s.Datapath, "datapath", "", "datapath of the lab (default "+lab.FlannelVXLAN+")")
	f.StringVar(&s.Services, "services", "", "kube-proxy's rules by iptables, iptables-legacy or nftables, and a client outside of the cluster")
}

func datapathList() string {
	var b strings.Builder
	for _, d := range lab.Datapaths() {
		fmt.Fprintf(&b, "  %-22s %s\n", d.Name, d.Summary)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func runLabUp(ctx context.Context, o *labOptions) error {
	if err := o.streams.enter(ctx, true); err != nil {
		return err
	}
	err := lab.Up(ctx, o.lab)
	if errors.Is(err, lab.ErrOther) {
		return withHint(err, "podtrace lab down")
	}
	if err != nil {
		return labHint(err)
	}
	state, err := lab.Status(ctx, o.lab)
	if err != nil {
		return err
	}
	printState(o.streams.Out, state)
	_, err = fmt.Fprintln(o.streams.Out, "try: podtrace path coffee-1 coffee-2")
	return err
}
