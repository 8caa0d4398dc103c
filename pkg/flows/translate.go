package flows

import "net/netip"

// translate links a new flow with its counterpart by a translation that is given, in either direction.
func (c *correlator) translate(n uint32) {
	t := c.flows.flows[n].raw.tuple()
	for _, pair := range c.cfg.Translations {
		// Replies are translated back: what was After comes out as Before.
		back := Translation{Before: pair.After.Reverse(), After: pair.Before.Reverse()}
		for _, p := range []Translation{pair, back} {
			if other := c.known(p.Before, p.After, t); other != 0 {
				c.flows.link(other, n)
			}
			if other := c.known(p.After, p.Before, t); other != 0 {
				c.flows.link(n, other)
			}
		}
	}
}

// known finds the flow that is want where t is as given, 0 if there is none.
func (c *correlator) known(want, given, t Tuple) uint32 {
	if !fits(given, t) {
		return 0
	}
	r := rawOf(fill(want, t))
	return c.flows.find(r.hash())
}

// fits reports whether t is pattern; an invalid address, protocol 0 or port 0 of the pattern is any.
func fits(pattern, t Tuple) bool {
	return (pattern.Proto == 0 || pattern.Proto == t.Proto) &&
		(!pattern.Src.IsValid() || pattern.Src == t.Src) && (pattern.SrcPort == 0 || pattern.SrcPort == t.SrcPort) &&
		(!pattern.Dst.IsValid() || pattern.Dst == t.Dst) && (pattern.DstPort == 0 || pattern.DstPort == t.DstPort)
}

// fill replaces what the pattern leaves open by that of t.
func fill(pattern, t Tuple) Tuple {
	if pattern.Proto == 0 {
		pattern.Proto = t.Proto
	}
	pattern.Src, pattern.SrcPort = fillEnd(pattern.Src, pattern.SrcPort, t.Src, t.SrcPort)
	pattern.Dst, pattern.DstPort = fillEnd(pattern.Dst, pattern.DstPort, t.Dst, t.DstPort)
	return pattern
}

func fillEnd(addr netip.Addr, port uint16, a netip.Addr, p uint16) (netip.Addr, uint16) {
	if !addr.IsValid() {
		addr = a
	}
	if port == 0 {
		port = p
	}
	return addr, port
}

func rawOf(t Tuple) raw {
	r := raw{srcPort: t.SrcPort, dstPort: t.DstPort, proto: t.Proto, v6: t.Src.Is6()}
	copy(r.src[:], t.Src.AsSlice())
	copy(r.dst[:], t.Dst.AsSlice())
	return r
}
