package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/trace"
)

// captureOptions say what takes the frames, and which of them.
type captureOptions struct {
	Filter string
	Engine string
}

func (o *captureOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.Filter, "filter", "", "pcap-filter expression that packets have to match as well, e.g. \"tcp port 80\"; of what no hop changes")
	f.StringVar(&o.Engine, "engine", string(capture.EngineRing), "what captures: ring (podtrace's own), pcap (libpcap, where it is built in)")
}

// complete checks both before anything is touched.
func (o *captureOptions) complete(c *cobra.Command) error {
	if err := capture.CheckEngine(capture.Engine(o.Engine)); err != nil {
		return withHint(fmt.Errorf("flag --engine: %w", err), c.CommandPath()+" --help shows the usage")
	}
	if o.Filter == "" {
		return nil
	}
	if err := capture.CheckExpression(o.Filter); err != nil {
		return withHint(fmt.Errorf("flag --filter: %w", err), "pcap-filter(7) describes the language")
	}
	return nil
}

func (o *captureOptions) apply(to *trace.Options) {
	to.Filter, to.Engine = o.Filter, capture.Engine(o.Engine)
}
