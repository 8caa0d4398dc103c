package realcni

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"
)

// report is what these tests read of podtrace's.
type report struct {
	Datapath string
	Legs     []struct {
		Name string
		Hops []struct {
			Node, Netns, Interface, State, Note string
			Packets                             int
		}
	}
	Findings []struct{ Cause, Node, Severity, Summary string }
	Kernel   struct {
		Differs []struct{ Node, Tables, Kernel string }
	}
	Verdict struct {
		Status, Cause, Leg, Node, Interface, Summary string
	}
}

// path runs podtrace and gives its report, the same as text, and the exit status.
func (w *world) path(args ...string) (report, string, int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	args = append([]string{"path", "-f", w.inv, "-o", "json"}, args...)
	cmd := exec.CommandContext(ctx, os.Getenv(envPodtrace), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	status := cmd.ProcessState.ExitCode()
	if status != 0 && status != 1 && status != 3 {
		w.t.Fatalf("podtrace %v: %v\n%s", args, err, &errs)
	}
	var r report
	w.must(json.Unmarshal(out.Bytes(), &r))
	return r, out.String(), status
}

// healthy traces all pairs of pods with every kind of probe: all of it has to be well.
func (w *world) healthy(datapaths map[string]string) {
	w.t.Helper()
	for _, to := range w.pods[1:] {
		targets := []string{to.name}
		if w.cfg.dual {
			targets = append(targets, to.ip6)
		}
		for _, target := range targets {
			for _, probe := range []string{"icmp", "tcp:" + echoPort, "udp:" + echoPort} {
				w.t.Run("healthy "+target+" "+probe, func(t *testing.T) {
					inner := *w
					inner.t = t
					inner.wellTo(target, probe, datapaths[to.name])
				})
			}
		}
	}
}

func (w *world) wellTo(target, probe, datapath string) {
	r, text, status := w.path("coffee-1", target, "--probe", probe)
	if status != 0 || r.Verdict.Status != "healthy" {
		w.t.Errorf("status %d, %+v\n%+v\n%s", status, r.Verdict, r.Findings, w.asText("coffee-1", target, "--probe", probe))
	}
	if len(r.Kernel.Differs) > 0 {
		w.t.Errorf("the kernel says otherwise: %+v", r.Kernel.Differs)
	}
	if r.Datapath != datapath {
		w.t.Errorf("datapath %q, want %q", r.Datapath, datapath)
	}
	if len(r.Legs) != 2 || len(r.Legs[0].Hops) < 5 || len(r.Legs[0].Hops) != len(r.Legs[1].Hops) {
		w.t.Errorf("not both ways whole:\n%s", text)
	}
	for _, leg := range r.Legs {
		for _, h := range leg.Hops {
			if h.State != "ok" {
				w.t.Errorf("%s: %s of %s is %s: %s", leg.Name, h.Interface, h.Node, h.State, h.Note)
			}
		}
	}
}

// asText is the same trace again for a person to read.
func (w *world) asText(args ...string) string {
	out, _ := exec.Command(os.Getenv(envPodtrace), append([]string{"path", "-f", w.inv}, args...)...).CombinedOutput()
	return string(out)
}
