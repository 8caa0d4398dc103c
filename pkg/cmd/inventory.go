package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
)

// inventoryOptions say where the Kubernetes objects come from.
type inventoryOptions struct {
	Namespace string
	Filename  string
}

func (o *inventoryOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&o.Namespace, "namespace", "n", "default", "namespace of pods that are named without one")
	f.StringVarP(&o.Filename, "filename", "f", "", "file with the cluster's objects; without it the running lab")
}

// load reads the file, or the objects of the running lab.
func (o *inventoryOptions) load(ctx context.Context, s *Streams) (*inventory.Inventory, error) {
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
			"bring a lab up with podtrace lab up, or give a cluster file with -f")
	}
	if err != nil {
		return nil, fmt.Errorf("objects of the running lab: %w", err)
	}
	return inv, nil
}
