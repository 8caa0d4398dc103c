// e2e brings the cluster of the end-to-end tests up and down by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/podtrace/podtrace/test/e2e/cluster"
	"github.com/podtrace/podtrace/test/e2e/image"
)

const usage = `usage: e2e [flags] COMMAND
  images                  make the image archives in --bin of the programs there
  up                      bring the cluster up
  down                    take it down, or what is left of one; harmless where there is none
  run COMMAND…            run a command as the administrator: e2e run kubectl get nodes
  objects                 print the cluster file: objects, and where their namespaces are
  exec MACHINE COMMAND…   run a command on node1, node2, … or control
flags:
`

func main() {
	cluster.Main()
	dir := flag.String("dir", cluster.DefaultDir, "folder of the cluster's files")
	bin := flag.String("bin", "bin", "folder with the programs")
	nodes := flag.Int("nodes", 2, "how many nodes")
	proxy := flag.String("proxy", "iptables", "mode of kube-proxy: iptables, nftables")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	folder, err := filepath.Abs(*bin)
	if err == nil {
		err = run(ctx, cluster.Config{Dir: *dir, Bin: folder, Nodes: *nodes, Proxy: *proxy, Images: image.Archives, Wait: 90 * time.Second}, flag.Args())
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, cfg cluster.Config, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "images":
		return image.All(cfg.Bin)
	case len(args) == 1 && args[0] == "up":
		c, err := cluster.Up(ctx, cfg)
		if err != nil {
			return err
		}
		fmt.Printf("%d nodes ready after %.1f s\n", len(c.Nodes), time.Since(c.Started).Seconds())
		return nil
	case len(args) == 1 && args[0] == "down":
		return cluster.Down(cfg.Dir)
	case len(args) == 1 && args[0] == "objects":
		c, err := cluster.Open(cfg.Dir)
		if err != nil {
			return err
		}
		text, err := c.Objects(ctx)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(append(text, '\n'))
		return err
	case len(args) > 1 && args[0] == "run":
		return with(cfg.Dir, func(c *cluster.Cluster) *exec.Cmd { return c.Command(ctx, args[1:]...) })
	case len(args) > 2 && args[0] == "exec":
		return with(cfg.Dir, func(c *cluster.Cluster) *exec.Cmd { return c.Exec(ctx, args[1], args[2:]...) })
	}
	flag.Usage()
	return errors.New("no such command")
}

// with runs a command of the cluster on the caller's terminal.
func with(dir string, command func(*cluster.Cluster) *exec.Cmd) error {
	c, err := cluster.Open(dir)
	if err != nil {
		return err
	}
	cmd := command(c)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
