package offline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/bundle"
	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/pcapfile"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

const doc = "../listing/testdata/doc000"

// recorded gives a recorded trace of the lab.
func recorded(t *testing.T, name string) *trace.Case {
	t.Helper()
	b, err := bundle.Read(filepath.Join("..", "bundle", "testdata", name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return b.Case
}

// split writes the capture of each point into a file as tcpdump would: without directions.
func split(t *testing.T, c *trace.Case) (out []Source) {
	t.Helper()
	dir := t.TempDir()
	for _, p := range c.Observed.Points {
		name := filepath.Join(dir, fmt.Sprintf("%d.pcapng", p.ID))
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w, err := pcapfile.NewWriter(f, "test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.AddInterface(pcapfile.Interface{LinkType: pcapfile.LinkEthernet}); err != nil {
			t.Fatal(err)
		}
		for _, fr := range c.Observed.Frames {
			if fr.Point != p.ID {
				continue
			}
			if err := w.Write(&pcapfile.Record{Time: fr.Time.UnixNano(), OrigLen: fr.WireLen, Data: fr.Data}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Flush(), f.Close()); err != nil {
			t.Fatal(err)
		}
		at := p.Node + "/" + p.Interface
		if p.Name != "host" {
			at = p.Node + "/" + p.Name + "/" + p.Interface
		}
		out = append(out, Source{Path: name, At: at})
	}
	return out
}

// TestDirections takes the directions off what the kernel said of real frames, and finds them again.
func TestDirections(t *testing.T) {
	for name, cause := range map[string]string{"healthy": "", "fdb-missing": "fdb-missing"} {
		t.Run(name, func(t *testing.T) {
			c := recorded(t, name)
			was := trace.Judge(c).Verdict
			type key struct {
				point int
				at    time.Time
				size  int
			}
			want := make(map[key]capture.Direction)
			for _, f := range c.Observed.Frames {
				want[key{f.Point, f.Time, f.WireLen}] = f.Dir
			}
			sources := split(t, c)
			if _, err := wire(c, nil, sources); err != nil {
				t.Fatal(err)
			}
			o := c.Observed
			for i, f := range o.Frames {
				if f.Data[12] == 8 && f.Data[13] == 6 { // a hairpin port gives ARP back to who sent it: nothing tells the two apart
					continue
				}
				p := c.Observed.Points[f.Point]
				if dir := want[key{p.ID, f.Time, f.WireLen}]; dir != f.Dir {
					t.Errorf("frame %d at %s %s goes %s, want %s: % x", i, p.Node, p.Interface, f.Dir, dir, f.Data[:14])
				}
			}
			if v := trace.Judge(c).Verdict; v.Status != was.Status || v.Cause != cause {
				t.Errorf("%+v, want %+v", v, was)
			}
			if f := c.Flow; f.Proto != 1 || f.ICMPType != 8 || f.SrcPort != 0 {
				t.Errorf("the flow is %+v", f)
			}
		})
	}
}

// TestOverlap: what one capture could not have seen is not judged.
func TestOverlap(t *testing.T) {
	s := func(a, b int64) span { return span{a * 1e9, b * 1e9} }
	for _, c := range []struct {
		name              string
		spans             []span
		begin, end, notes int
	}{
		{"at once", []span{s(10, 30), s(10, 30)}, 10, 30, 0},
		{"begun late", []span{s(10, 30), s(15, 30)}, 15, 30, 1},
		{"ended early", []span{s(10, 30), s(10, 28)}, 10, 28, 1},
		{"silent at the end", []span{s(10, 30), s(10, 12)}, 10, 0, 0},
		{"silent throughout", []span{s(10, 30), {}}, 10, 30, 0},
		{"another day", []span{s(10, 30), s(90, 99)}, 0, 0, 0},
	} {
		o := &trace.Observed{}
		notes := overlap(o, c.spans)
		if c.end != 0 {
			o.End -= underWay.Nanoseconds()
		}
		if o.Begin != int64(c.begin)*1e9 || o.End != int64(c.end)*1e9 || len(notes) != c.notes {
			t.Errorf("%s: from %d to %d, %q", c.name, o.Begin, o.End, notes)
		}
	}
}

func TestListingsAlone(t *testing.T) {
	q := Request{Paths: []string{doc}, Source: "coffee-67c6f7c5fd-2pfr4", Destination: "coffee-67c6f7c5fd-c2lpg", Namespace: "default"}
	c, _, _, err := read(q)
	if err != nil {
		t.Fatal(err)
	}
	if r := trace.Judge(c); r.Verdict.Status != report.Healthy || r.Capture != nil || len(r.Legs[0].Hops) != 10 {
		t.Errorf("%+v", r.Verdict)
	}
}

func TestErrors(t *testing.T) {
	c := recorded(t, "healthy")
	one := split(t, c)[0].Path
	ends := Request{Paths: []string{doc}, Source: "coffee-67c6f7c5fd-2pfr4", Destination: "coffee-67c6f7c5fd-c2lpg", Namespace: "default"}
	with := func(change func(*Request)) Request { q := ends; change(&q); return q }
	for _, e := range []struct {
		q    Request
		want string
	}{
		{with(func(q *Request) { q.Paths = []string{"no/such"} }), "no such file"},
		{with(func(q *Request) { q.Paths = []string{one} }), "there is no listing"},
		{with(func(q *Request) { q.Points = []string{"x"} }), `point "x" is not`},
		{with(func(q *Request) { q.Points = []string{"eth0=" + one} }), "is not NODE/INTERFACE"},
		{with(func(q *Request) { q.Points = []string{"nowhere/eth0=" + one} }), "no listing is of the namespace"},
		{with(func(q *Request) { q.Points = []string{"k8s-node01/eth9=" + one} }), `shows an interface "eth9"`},
		{with(func(q *Request) { q.Points = []string{"k8s-node01/cni0=" + one, "k8s-node01/host/cni0=" + one} }), "same interface"},
		{with(func(q *Request) { q.Source = "tea" }), `no pod "tea"`},
	} {
		if _, err := Judge(e.q); err == nil || !strings.Contains(err.Error(), e.want) {
			t.Errorf("%v, want %q", err, e.want)
		}
	}
}
