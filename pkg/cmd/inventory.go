package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/kube"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/node"
)

// inventoryOptions say where the Kubernetes objects come from.
type inventoryOptions struct {
	kube.Flags
	Filename string
}

func (o *inventoryOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&o.Filename, "filename", "f", "", "file with the cluster's objects (-: standard input); without it the cluster of the kubeconfig, or else the running lab")
	o.Add(f)
}

// fromCluster reports whether the objects come from an API server.
func (o *inventoryOptions) fromCluster(s *Streams) bool {
	return o.Filename == "" && (s.Plugin || kube.Configured(&o.Flags))
}

// loadFile reads the file, or the objects of the running lab.
func (o *inventoryOptions) loadFile(ctx context.Context, s *Streams) (*inventory.Inventory, error) {
	if o.Filename == "-" {
		return inventory.Parse(s.In)
	}
	if o.Filename != "" {
		inv, err := inventory.ReadFile(o.Filename)
		if errors.Is(err, fs.ErrNotExist) {
			err = withHint(err, "-f wants what kubectl get nodes,pods,services,endpointslices -A -o yaml prints, see docs/inventory.md")
		}
		return inv, err
	}
	if err := s.enter(ctx, false); err != nil {
		return nil, err
	}
	inv, err := inventory.ReadFile(lab.Options{}.InventoryPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(errors.New("no cluster is given and no lab is running"),
			"name a cluster with --kubeconfig or --context, give a cluster file with -f, or bring a lab up with podtrace lab up")
	}
	if err != nil {
		return nil, fmt.Errorf("objects of the running lab: %w", err)
	}
	return inv, nil
}

// target is what endpoints are looked up in, and the way to their nodes.
type target struct {
	inv       *inventory.Inventory
	namespace string
	notes     []string // what should be known of the endpoints
	dial      node.Dialer
	// close gives back what was made on the way; it says by itself what it could not.
	close func()
}
