package report

import (
	"net"
	"strconv"
)

// headers fills the address cells of the row c and returns the rows that belong below it.
func (p *printer) headers(c []cell, h *Hop, above *Headers, d detail) []row {
	f, want := h.frame(), h.Expected
	if above == nil {
		above = &Headers{}
	}
	if want == nil {
		want = &Headers{}
	}
	c[colEth] = p.pair(f.EthSrc, f.EthDst, above.EthSrc, above.EthDst, want.EthSrc, want.EthDst)
	ip := p.pair(
		addrPort(f.IPSrc, f.SrcPort), addrPort(f.IPDst, f.DstPort),
		addrPort(above.IPSrc, above.SrcPort), addrPort(above.IPDst, above.DstPort),
		wanted(want.IPSrc, want.SrcPort, f.SrcPort), wanted(want.IPDst, want.DstPort, f.DstPort))
	c[colTTL] = p.value(hopLimit(f.TTL), hopLimit(above.TTL), hopLimit(want.TTL))
	var rows []row
	if !d.stacked {
		c[colIP] = ip
	} else if p.color || ip.width() > 1 {
		rows = append(rows, row{cells: below(colEth, ip)})
	}
	if f.Outer != nil {
		rows = append(rows, p.outer(f.Outer, above.Outer, want.Outer, d)...)
	}
	return rows
}

// outer gives the row of the outer headers, each under the inner header of its kind. They are
// never shown as unchanged: two rows a leg, and where they appear is what one looks for.
func (p *printer) outer(o, above, want *Outer, d detail) []row {
	if above == nil {
		above = &Outer{}
	}
	if want == nil {
		want = &Outer{Kind: o.Kind, VNI: o.VNI}
	}
	c := make([]cell, columns)
	c[colIface] = text(p.branch+" ").add(o.name(), changed(o.name() == want.name(), o == above))
	c[colEth] = p.full(o.EthSrc, o.EthDst, above.EthSrc, above.EthDst, want.EthSrc, want.EthDst)
	// The source port is a hash of the inner flow (RFC 7348 section 5): noise to the reader.
	ip := p.full(o.IPSrc, addrPort(o.IPDst, o.DstPort), above.IPSrc, addrPort(above.IPDst, above.DstPort),
		want.IPSrc, wanted(want.IPDst, want.DstPort, o.DstPort))
	c[colTTL] = p.value(hopLimit(o.TTL), "", hopLimit(want.TTL))
	if !d.stacked {
		c[colIP] = ip
		return []row{{cells: c}}
	}
	return []row{{cells: c}, {cells: below(colEth, ip)}}
}

// name is the encapsulation with its network's number.
func (o *Outer) name() string {
	if o.Kind != "" {
		return o.Kind
	}
	return "vxlan " + strconv.FormatUint(uint64(o.VNI), 10)
}

func below(col int, c cell) []cell {
	cells := make([]cell, columns)
	cells[col] = c
	return cells
}

// changed picks the style of a value: wrong, as in the row above, or new.
func changed(asExpected, asAbove bool) style {
	switch {
	case !asExpected:
		return red
	case asAbove:
		return dim
	default:
		return bold
	}
}

// value shows one field: a ditto mark where it repeats the row above in plain text.
func (p *printer) value(v, above, want string) cell {
	if v == "" {
		return nil
	}
	as := changed(want == "" || want == v, v == above)
	if as == dim && !p.color && !p.wide {
		return text(p.ditto)
	}
	return styled(Clean(v), as)
}

// pair shows source and destination, or one ditto mark when neither changed.
func (p *printer) pair(src, dst, srcAbove, dstAbove, srcWant, dstWant string) cell {
	same := src == srcAbove && dst == dstAbove
	if same && agrees(src, srcWant) && agrees(dst, dstWant) && !p.color && !p.wide && src+dst != "" {
		return text(p.ditto)
	}
	return p.full(src, dst, srcAbove, dstAbove, srcWant, dstWant)
}

func (p *printer) full(src, dst, srcAbove, dstAbove, srcWant, dstWant string) cell {
	if src == "" && dst == "" {
		return nil
	}
	return styled(orAny(Clean(src)), changed(agrees(src, srcWant), src == srcAbove)).
		add(" "+p.arrow+" ", dim).
		add(orAny(Clean(dst)), changed(agrees(dst, dstWant), dst == dstAbove))
}

func agrees(v, want string) bool { return want == "" || v == want }

func orAny(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

func hopLimit(ttl uint8) string {
	if ttl == 0 {
		return ""
	}
	return strconv.Itoa(int(ttl))
}

func addrPort(ip string, port uint16) string {
	if port == 0 {
		return ip
	}
	return net.JoinHostPort(ip, strconv.Itoa(int(port)))
}

// wanted is addrPort of what is expected, where port 0 stands for any.
func wanted(ip string, port, seen uint16) string {
	if ip == "" {
		return ""
	}
	if port == 0 {
		port = seen
	}
	return addrPort(ip, port)
}
