// Package flowstest makes capture files of one path with known faults, and the truth about them, for
// the tests and the benchmark of pkg/flows.
//
// The path has five points: two of the first node, the wire between the nodes (encapsulated), two of
// the second. Half of the packets of each flow go forward, half backward. Everything is random but
// repeatable by Seed.
package flowstest

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"
)

const (
	// Points is the number of files; those of the second node start at secondNode.
	Points     = 5
	secondNode = 3
	wirePoint  = 2 // the encapsulated one

	vxlanPort = 4789
	// VNI is what encapsulated frames carry, wrongVNI what the wrong ones do.
	VNI      = 1
	wrongVNI = 77
)

// Config says what to make. Rates are shares of packets between 0 and 1.
type Config struct {
	Dir     string
	Packets int // of each file, about
	Flows   int // connections; each has two directions
	Seed    uint64

	Loss, Duplicates, WrongVNI, WrongAddress, Corrupt, Retransmit float64
	NAT                                                           float64 // share of flows to a service address
	IPv6                                                          float64 // share of flows
	VXLANPort                                                     uint16  // 0: 4789
	NoID                                                          float64 // share of UDP flows over IPv4 without identifications
	GSO                                                           bool    // offloads merge segments of some flows at the outer points
	Partial                                                       bool    // senders leave checksums to the hardware
	Fragments                                                     bool    // some flows send datagrams that are fragmented on the way
	Skew                                                          time.Duration
	Drift                                                         float64 // of the second node's clock, ns per s
	// Cut makes all captures begin and end at one moment, with packets under way.
	Cut bool

	SnapLen                 int // 0: whole frames
	BigEndian, Nano, PcapNG bool
}

// Generate writes the files hop0.pcap to hop4.pcap and truth.json to the folder of the configuration,
// and gives the truth.
func Generate(cfg Config) (*Truth, error) {
	g := &generator{
		cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0)),
		now: 1_700_000_000_000_000_000, noise: make([]byte, 1<<17),
	}
	for i := range g.noise {
		g.noise[i] = byte(g.rand.Uint32())
	}
	for i := range max(cfg.Flows, 1) {
		g.flows = append(g.flows, newFlow(g, i))
	}
	for i := range Points {
		f, err := create(&g.cfg, filepath.Join(cfg.Dir, FileName(i)))
		if err != nil {
			return nil, err
		}
		g.files = append(g.files, f)
	}
	if err := g.run(); err != nil {
		return nil, fmt.Errorf("write captures: %w", err)
	}
	truth := g.truth()
	return truth, truth.write(filepath.Join(cfg.Dir, "truth.json"))
}

// FileName is the name of the file of a point.
func FileName(point int) string { return fmt.Sprintf("hop%d.pcap", point) }

// generator is the state while files are made.
type generator struct {
	cfg    Config
	rand   *rand.Rand
	now    int64
	begin  int64
	end    int64
	flows  []*flow
	files  []*file
	counts [Points]PointTruth
	noise  []byte
	again  []resend
	faults bool // this packet may have one
	sent   int
}

// resend is a segment that will be sent again.
type resend struct {
	at int64
	p  packet
}

func (g *generator) chance(p float64) bool { return p > 0 && g.rand.Float64() < p }

// bytes gives n random bytes.
func (g *generator) bytes(n int) []byte {
	at := g.rand.IntN(len(g.noise) - n)
	return g.noise[at : at+n : at+n]
}

const (
	spacing = 10_000 // ns between two packets, on average
	// quiet is how many packets at the beginning and at the end have no faults, and are whole: there a
	// lost packet cannot be told from one that was under way.
	quiet = 400
)

func (g *generator) run() error {
	g.begin = g.now
	if g.cfg.Cut {
		g.begin += quiet / 4 * spacing
	}
	for g.sent < g.cfg.Packets {
		g.now += int64(g.rand.IntN(2 * spacing))
		g.faults = g.sent > quiet && g.sent < g.cfg.Packets-quiet
		if g.cfg.Cut && g.sent > g.cfg.Packets-quiet/4 && g.end == 0 {
			g.end = g.now
		}
		if len(g.again) > 0 && g.again[0].at <= g.now {
			p := g.again[0].p
			g.again = g.again[1:]
			p.id, p.stamp = p.flow.nextID(p.backward), uint32(g.sent)
			p.fault = fault{}
			p.flow.side(p.backward).Retransmissions++
			g.send(&p)
		} else {
			g.flows[g.rand.IntN(len(g.flows))].send(g)
		}
		for _, f := range g.files {
			if err := f.flush(g.now - int64(time.Second)/100); err != nil {
				return err
			}
		}
	}
	for _, f := range g.files {
		if err := f.flush(1 << 62); err != nil {
			return err
		}
		if err := f.close(); err != nil {
			return err
		}
	}
	return nil
}
