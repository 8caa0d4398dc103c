package listing

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// matchExprs turns one match into expressions. Options that the model has no place for make it unknown, and
// it prints itself.
func matchExprs(name string, opts []option, text string) []netfilter.Expr {
	unknown := []netfilter.Expr{{Op: netfilter.OpUnknown, Text: text}}
	if slices.Contains([]string{"connbytes", "connlabel", "connlimit", "helper", "cluster"}, name) {
		unknown[0].Key = needsCT
	}
	f, ok := iptMatches[name]
	if !ok {
		return unknown
	}
	es := f(opts)
	if len(es) == 0 {
		return unknown
	}
	es[0].Text = text
	return es
}

var iptMatches = map[string]func([]option) []netfilter.Expr{
	"comment": always(netfilter.OpPass), "nfacct": always(netfilter.OpPass), "limit": always(netfilter.OpLimit),
	"hashlimit": hashlimitMatch, "connlimit": connlimitMatch, "quota": quotaMatch, "statistic": statisticMatch,
	"tcp": portsMatch, "udp": portsMatch, "multiport": multiportMatch,
	"icmp": icmpMatch, "icmp6": icmpMatch, "ipv6-icmp": icmpMatch, "icmpv6": icmpMatch,
	"conntrack": stateMatch, "state": stateMatch,
	"mark":     func(o []option) []netfilter.Expr { return markMatch(netfilter.OpMark, o) },
	"connmark": func(o []option) []netfilter.Expr { return markMatch(netfilter.OpConnmark, o) },
	"addrtype": addrtypeMatch, "physdev": physdevMatch, "mac": macMatch, "iprange": rangeMatch, "length": lengthMatch,
	"ttl": ttlMatch, "hl": ttlMatch, "rpfilter": rpfilterMatch,
	"set": setMatch, "recent": recentMatch, "owner": ownerMatch, "pkttype": pkttypeMatch, "dscp": dscpMatch, "tos": tosMatch,
}

func always(op netfilter.Op) func([]option) []netfilter.Expr {
	return func([]option) []netfilter.Expr { return []netfilter.Expr{{Op: op}} }
}

// needsCT is the key by which the model knows that a match it has no meaning for turns conntrack on.
const needsCT = "conntrack"

// portList reads "53,1000:2000", and ranges that are open at one end.
func portList(s string) (out [][2]uint16, ok bool) {
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(part, ":")
		r := [2]uint16{0, 0xffff}
		for i, v := range []string{lo, hi} {
			if v == "" {
				continue
			}
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil {
				return nil, false
			}
			r[i] = uint16(n)
		}
		if !isRange {
			r[1] = r[0]
		}
		out = append(out, r)
	}
	return out, true
}

// portsOf reads a range, and leaves out the one that means any port.
func portsOf(o option) (out [][2]uint16, ok bool) {
	out, ok = portList(o.val())
	if ok && !o.not && len(out) == 1 && out[0] == [2]uint16{0, 0xffff} {
		out = nil
	}
	return out, ok
}

// portsMatch is -m tcp and -m udp.
func portsMatch(opts []option) []netfilter.Expr {
	m := &netfilter.Match{}
	ok := true
	for _, o := range opts {
		switch o.key {
		case "sport", "source-port":
			m.SPorts, ok = portsOf(o)
			m.NotSPorts = o.not
		case "dport", "destination-port":
			m.DPorts, ok = portsOf(o)
			m.NotDPorts = o.not
		case "tcp-flags":
			if len(o.vals) != 2 {
				return nil
			}
			m.TCPMask, m.TCPFlags, m.NotTCPFlags = tcpFlags(o.vals[0]), tcpFlags(o.vals[1]), o.not
		case "syn":
			m.TCPMask, m.TCPFlags, m.NotTCPFlags = tcpFlags("FIN,SYN,RST,ACK"), tcpFlags("SYN"), o.not
		default:
			return nil
		}
		if !ok {
			return nil
		}
	}
	return []netfilter.Expr{{Op: netfilter.OpPorts, Tuple: m}}
}

// tcpFlags reads names, or the number that iptables -L prints.
func tcpFlags(s string) (out byte) {
	names := map[string]byte{"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 0x3f}
	for f := range strings.SplitSeq(s, ",") {
		out |= names[strings.ToUpper(f)] | number[byte](f)
	}
	return out
}

func multiportMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 {
		return nil
	}
	list, ok := portList(opts[0].val())
	if !ok {
		return nil
	}
	m := &netfilter.Match{NotSPorts: opts[0].not, NotDPorts: opts[0].not}
	switch opts[0].key {
	case "sports", "source-ports":
		m.SPorts = list
	case "dports", "destination-ports":
		m.DPorts = list
	case "ports":
		m.Either = list
	default:
		return nil
	}
	return []netfilter.Expr{{Op: netfilter.OpPorts, Tuple: m}}
}

// icmpMatch: type and the codes from and to; type 255 is any.
func icmpMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 || opts[0].key != "icmp-type" && opts[0].key != "icmpv6-type" {
		return nil
	}
	typ, code, hasCode := strings.Cut(opts[0].val(), "/")
	data := []byte{0xff, 0, 0xff}
	switch {
	case typ == "any":
	case !isNumber(typ):
		return nil
	default:
		data[0] = number[uint8](typ)
	}
	if hasCode {
		data[1] = number[uint8](code)
		data[2] = data[1]
	}
	return []netfilter.Expr{{Op: netfilter.OpICMP, Data: data, Invert: opts[0].not}}
}

func bitsOf(names map[string]uint32, s string) (out uint32, ok bool) {
	for f := range strings.SplitSeq(s, ",") {
		v, known := names[f]
		if !known {
			return 0, false
		}
		out |= v
	}
	return out, true
}

// flagByte is a bit of a structure, where it is set.
func flagByte(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

// valueMask reads VALUE or VALUE/MASK.
func valueMask(s string) (v, mask uint32) {
	a, b, ok := strings.Cut(s, "/")
	v, mask = number[uint32](a), ^uint32(0)
	if ok {
		mask = number[uint32](b)
	}
	return v, mask
}

func markMatch(op netfilter.Op, opts []option) []netfilter.Expr {
	if len(opts) != 1 || opts[0].key != "mark" {
		return nil
	}
	v, mask := valueMask(opts[0].val())
	return []netfilter.Expr{{Op: op, Mod: v, Flags: mask, Invert: opts[0].not}}
}

// addrTypes are the bits of RTN_* by the names of xt_addrtype.
var addrTypes = map[string]uint32{
	"UNSPEC": 1, "UNICAST": 1 << 1, "LOCAL": 1 << 2, "BROADCAST": 1 << 3, "ANYCAST": 1 << 4, "MULTICAST": 1 << 5,
	"BLACKHOLE": 1 << 6, "UNREACHABLE": 1 << 7, "PROHIBIT": 1 << 8, "THROW": 1 << 9, "NAT": 1 << 10, "XRESOLVE": 1 << 11,
}

func addrtypeMatch(opts []option) []netfilter.Expr {
	e := netfilter.Expr{Op: netfilter.OpAddrtype, Data: []byte{0, 0}}
	ok := true
	for _, o := range opts {
		switch o.key {
		case "src-type":
			e.Flags, ok = bitsOf(addrTypes, o.val())
			e.Data[0] = flagByte(o.not, 1)
		case "dst-type":
			e.Mod, ok = bitsOf(addrTypes, o.val())
			e.Data[1] = flagByte(o.not, 2)
		case "limit-iface-in":
			e.Key = "iface-in"
		case "limit-iface-out":
			e.Key = "iface-out"
		default:
			return nil
		}
		if !ok {
			return nil
		}
	}
	return []netfilter.Expr{e}
}

// physdevMatch: the bits are XT_PHYSDEV_OP_*.
func physdevMatch(opts []option) []netfilter.Expr {
	bits := map[string]byte{"physdev-in": 1, "physdev-out": 2, "physdev-is-bridged": 4, "physdev-is-in": 8, "physdev-is-out": 16}
	m := &netfilter.Match{}
	var set, inv byte
	for _, o := range opts {
		bit, ok := bits[o.key]
		if !ok {
			return nil
		}
		set |= bit
		if o.not {
			inv |= bit
		}
		switch bit {
		case 1:
			m.In, m.NotIn = o.val(), o.not
		case 2:
			m.Out, m.NotOut = o.val(), o.not
		}
	}
	return []netfilter.Expr{{Op: netfilter.OpPhysdev, Tuple: m, Flags: uint32(set), Data: []byte{inv}}}
}

func macMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 || opts[0].key != "mac-source" || !isMAC(opts[0].val()) {
		return nil
	}
	mac := parseMAC(opts[0].val())
	return []netfilter.Expr{{Op: netfilter.OpMAC, Data: bytes.Clone(mac[:]), Invert: opts[0].not}}
}

func rangeMatch(opts []option) (out []netfilter.Expr) {
	for _, o := range opts {
		lo, hi, ok := strings.Cut(o.val(), "-")
		if !ok {
			hi = lo
		}
		a, b := parseIP(lo), parseIP(hi)
		key := map[string]string{"src-range": "src", "dst-range": "dst"}[o.key]
		if key == "" || !a.IsValid() || !b.IsValid() {
			return nil
		}
		out = append(out, netfilter.Expr{Op: netfilter.OpIPRange, Key: key, Data: a.AsSlice(), DataEnd: b.AsSlice(), Invert: o.not})
	}
	return out
}

func lengthMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 || opts[0].key != "length" {
		return nil
	}
	r, ok := portList(opts[0].val())
	if !ok || len(r) != 1 {
		return nil
	}
	return []netfilter.Expr{{Op: netfilter.OpLength, Offset: uint32(r[0][0]), Len: uint32(r[0][1]), Invert: opts[0].not}}
}

// ttlMatch: the modes are IPT_TTL_* and IP6T_HL_*.
func ttlMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 {
		return nil
	}
	o := opts[0]
	modes := map[string]uint32{"eq": 0, "ne": 1, "lt": 2, "gt": 3}
	_, word, _ := strings.Cut(o.key, "-")
	mode, ok := modes[word]
	if !ok {
		return nil
	}
	if o.not && mode == 0 {
		mode = 1
	}
	return []netfilter.Expr{{Op: netfilter.OpTTL, Flags: mode, Mod: number[uint32](o.val())}}
}

func rpfilterMatch(opts []option) []netfilter.Expr {
	bits := map[string]uint32{"loose": 1, "validmark": 2, "accept-local": 4, "invert": 8}
	e := netfilter.Expr{Op: netfilter.OpRPFilter}
	for _, o := range opts {
		bit, ok := bits[o.key]
		if !ok {
			return nil
		}
		e.Flags |= bit
	}
	e.Invert = e.Flags&8 != 0
	return []netfilter.Expr{e}
}
