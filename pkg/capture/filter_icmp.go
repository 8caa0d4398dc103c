package capture

import "golang.org/x/net/bpf"

// icmpTypes are the message types that the filter tells apart.
type icmpTypes struct {
	echo   []uint32 // request and reply
	errors []uint32 // quote the packet that they are about
	always []uint32 // accepted whatever the flow is
	v6     bool
}

var (
	icmpv4Types = icmpTypes{
		echo:   []uint32{8, 0},
		errors: []uint32{3, 4, 5, 11, 12}, // unreachable, source quench, redirect, time exceeded, parameter problem
	}
	icmpv6Types = icmpTypes{
		echo:   []uint32{128, 129},
		errors: []uint32{1, 2, 3, 4},              // unreachable, too big, time exceeded, parameter problem
		always: []uint32{133, 134, 135, 136, 137}, // neighbour discovery and redirect, RFC 4861
		v6:     true,
	}
)

// icmp judges the ICMP message at X.
func (w *filterWriter) icmp(l level, types icmpTypes) {
	echo, quote := w.newLabel(), w.newLabel()
	w.load(0, 1)
	for _, t := range types.always {
		w.jumpEq(t, w.accept)
	}
	for _, t := range types.echo {
		w.jumpEq(t, echo)
	}
	for _, t := range types.errors {
		w.jumpEq(t, quote)
	}
	w.jump(w.reject)

	w.place(echo)
	w.echo()
	w.place(quote)
	if !l.errors {
		w.jump(w.reject) // an ICMP error is never sent about one (RFC 1122 section 3.2.2)
		return
	}
	w.quoted(l, types)
}

// echo judges the echo at X: both addresses and any identifier (NAT rewrites it too), or one
// address and the right one.
func (w *filterWriter) echo() {
	switch {
	case w.flow.Proto == 0:
		w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellHits})
		w.jumpEq(2, w.accept)
		w.jump(w.reject)
		return
	case !w.isICMP():
		w.jump(w.reject)
		return
	}
	w.marker(icmpHeader)
	w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellHits})
	w.jumpEq(2, w.accept)
	w.jumpEq(0, w.reject)
	if id := w.flow.APort; id != 0 {
		w.load(4, 2)
		w.jumpEq(uint32(id), w.accept)
	}
	w.jump(w.reject)
}

// quoted judges the packet that the ICMP error at X quotes, as if it were on the wire itself; a
// quoted encapsulation is accepted by its port, for the quote need not hold the inner headers.
func (w *filterWriter) quoted(l level, types icmpTypes) {
	w.advance(icmpHeader)
	quote := level{encap: l.encap, inner: w.accept, innerIP: w.accept, only4: !types.v6, only6: types.v6}
	w.ip(w.newLabel(), w.newLabel(), quote) // nothing jumps there: the one block that is written follows
}
