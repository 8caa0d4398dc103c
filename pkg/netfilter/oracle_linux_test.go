package netfilter

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// envNumber reads a setting of the tests: NETFILTER_SEED the seed of the random rules (0: by the clock),
// CHAOS how many times as many cases as usual.
func envNumber(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	v := cmp.Or(os.Getenv(name), strconv.FormatUint(def, 10))
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, v, err)
	}
	return n
}

// tally counts what the comparison with the kernel said.
type tally struct {
	cases, unknown, delivered, stopped, answered, translated, marked, branched int
}

// compare sends one probe and holds what becomes of it against the evaluator's word.
func (w *router) compare(st State, q probe, n *tally, rules func() string, quiet bool) (got []seen, ok bool) {
	w.t.Helper()
	plays := w.predict(st, q)
	w.send(q)
	got = w.observe(q, 3*time.Millisecond)
	n.cases++
	if len(plays) > 1 {
		n.branched++
	}
	for _, p := range plays {
		if p.end == Unknown || p.end == Stolen {
			n.unknown++
			w.t.Logf("unknown: %s", p)
			return got, true
		}
	}
	match := func() bool {
		// the router's own rules may answer what it answers, to itself or to others
		quiet = quiet || q.from == "router"
		got = slices.DeleteFunc(got, func(s seen) bool { return (s.reset || s.errType != 0) && s.at != q.from })
		for _, p := range plays {
			if p.agrees(got, quiet) {
				n.count(p, q)
				return true
			}
		}
		return false
	}
	if match() {
		return got, true
	}
	got = append(got, w.observe(q, 150*time.Millisecond)...) // a busy machine
	if match() {
		return got, true
	}
	var b strings.Builder
	for _, p := range plays {
		b.WriteString("  model: " + p.String() + "\n")
	}
	for _, s := range got {
		b.WriteString("  kernel: " + s.String() + "\n")
	}
	w.t.Errorf("%s sends %+v\n%s%s", q.from, q.p, b.String(), rules())
	return got, false
}

func (n *tally) count(p play, q probe) {
	switch last := len(p.seen) - 1; {
	case p.end != Accept:
		n.stopped++
	default:
		n.delivered++
		if s := p.seen[last]; s.src != q.p.Src || s.dst != q.p.Dst || s.dport != q.p.DstPort && !isICMP(q.p.Proto) {
			n.translated++
		}
	}
	if p.answer != nil {
		n.answered++
	}
	for _, s := range p.seen {
		if s.mark != 0 {
			n.marked++
			break
		}
	}
}

// TestAgainstKernel loads random rules of both backends and nftables into a router, sends packets through
// it, to it and from it, and compares every hook's result and what arrives with the evaluator's word.
func TestAgainstKernel(t *testing.T) {
	w := newRouter(t)
	seed := envNumber(t, "NETFILTER_SEED", 1)
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (repeat with NETFILTER_SEED=%d)", seed, seed)
	g := &generator{r: rand.New(rand.NewPCG(seed, 3))}
	rounds, refused := int(80*envNumber(t, "CHAOS", 1)), 0
	var n tally
	for round := 0; round < rounds && !t.Failed(); round++ {
		scripts := g.ruleset()
		if err := w.load(scripts); err != nil {
			refused++
			t.Logf("round %d: refused: %v", round, err)
			continue
		}
		w.round(g, scripts, &n)
	}
	t.Logf("%d rulesets (%d refused): %+v", rounds, refused, n)
	if n.unknown*50 > n.cases {
		t.Errorf("%d of %d cases are unknown to the evaluator, more than 2 %%", n.unknown, n.cases)
	}
	if refused*10 > rounds {
		t.Errorf("%d of %d rulesets were refused: the generator is broken", refused, rounds)
	}
	if n.delivered < n.cases/10 || n.stopped < n.cases/10 || n.translated < n.cases/40 || n.answered < n.cases/100 || n.marked < n.cases/40 {
		t.Errorf("the cases say too little: %+v", n)
	}
}

// round sends a few packets under one set of rules, and answers some of those that arrive.
func (w *router) round(g *generator, scripts []script, n *tally) {
	rules := func() string {
		var b strings.Builder
		for _, s := range scripts {
			b.WriteString("# " + s.command + "\n" + s.text)
		}
		return b.String()
	}
	for range 5 {
		q := g.probe()
		st := NewState(w.read())
		plays := w.predict(st, q)
		got, ok := w.compare(st, q, n, rules, g.quiet)
		if !ok || len(got) == 0 || g.r.IntN(2) == 0 {
			continue
		}
		back, ok := q.reply(g, atEnd(got))
		if !ok {
			continue
		}
		if len(plays) == 1 && plays[0].end == Accept && !plays[0].anyPort() {
			w.sameByWalk(plays[0].state, NewState(w.read()), back)
		}
		w.compare(NewState(w.read()), back, n, rules, g.quiet)
	}
}

// sameByWalk: the connection that the evaluator made for the request takes the reply where the one that
// the kernel made does.
func (w *router) sameByWalk(walk, kernel State, back probe) {
	w.t.Helper()
	a, b := w.predict(walk, back), w.predict(kernel, back)
	if len(a) != len(b) || len(a) != 1 || a[0].end == Unknown || b[0].end == Unknown {
		return
	}
	if !a[0].agreesWith(b[0]) {
		w.t.Errorf("the reply %+v goes\n  by the walk's connection: %s\n  by the kernel's: %s", back.p, a[0], b[0])
	}
}

// anyPort reports whether a translation chose a port that the tables do not say: then the walk's
// connection does not know the reply.
func (p play) anyPort() bool {
	return slices.ContainsFunc(p.seen, func(s seen) bool { return s.anyPort })
}

func (p play) agreesWith(o play) bool {
	if p.end != o.end || len(p.seen) != len(o.seen) {
		return false
	}
	for i, s := range p.seen {
		e := o.seen[i]
		if s.at != e.at || s.src != e.src || s.dst != e.dst || s.sport != e.sport || s.dport != e.dport {
			return false
		}
	}
	return true
}

// atEnd is the sighting at the far end, whatever the order in which those of one packet were read.
func atEnd(got []seen) seen {
	for _, s := range got {
		if s.at == "server" || s.at == "client" {
			return s
		}
	}
	return got[len(got)-1]
}

// reply is what the one who got the packet would answer.
func (q probe) reply(g *generator, s seen) (probe, bool) {
	if s.at != "server" && s.at != "client" || s.reset || s.errType != 0 {
		return probe{}, false
	}
	b := probe{from: s.at, p: q.p, cookie: g.r.Uint32()}
	p := &b.p
	p.Src, p.Dst, p.SrcPort, p.DstPort, p.TTL, p.Mark = s.dst, s.src, s.dport, s.sport, 64, 0
	switch q.p.Proto {
	case protoTCP:
		if q.p.TCPFlags != tcpSYN {
			return probe{}, false
		}
		p.TCPFlags, b.ack = tcpSYN|tcpACK, q.cookie+1
	case protoICMP:
		p.ICMPType, p.ICMPID = 0, s.sport
	case protoICMPv6:
		p.ICMPType, p.ICMPID = 129, s.sport
	}
	if isICMP(q.p.Proto) {
		p.SrcPort, p.DstPort = 0, 0
	}
	b.ethernet()
	return b, true
}

// ethernet fills in the frame's addresses.
func (q *probe) ethernet() {
	switch q.from {
	case "client":
		q.p.EthSrc, q.p.EthDst = clientMAC, routerMACc
	case "server":
		q.p.EthSrc, q.p.EthDst = serverMAC, routerMACs
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
