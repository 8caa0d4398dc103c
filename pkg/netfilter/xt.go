package netfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The binary structures of xtables (linux/netfilter/xt_*.h) are in host byte order but for addresses
// and the ports of NAT. They come from the kernel, and are read as if they did not.

// decodeMatch turns one match of iptables into an expression. What it does not know stays unknown.
func decodeMatch(name string, rev uint32, info []byte) Expr {
	f, ok := xtMatches[name]
	if ok {
		if e, ok := f(rev, info); ok {
			return e
		}
	}
	return Expr{Op: OpUnknown, Text: fmt.Sprintf("-m %s (revision %d, not known)", name, rev)}
}

type xtDecoder func(rev uint32, b []byte) (Expr, bool)

var xtMatches = map[string]xtDecoder{
	"tcp": xtTCP, "udp": xtUDP, "icmp": xtICMP, "icmp6": xtICMP, "comment": xtComment, "conntrack": xtConntrack,
	"state": xtState, "mark": xtMark, "connmark": xtConnmark, "multiport": xtMultiport, "addrtype": xtAddrtype,
	"statistic": xtStatistic, "physdev": xtPhysdev, "mac": xtMAC, "iprange": xtIPRange, "length": xtLength,
	"ttl": xtTTL, "hl": xtTTL, "rpfilter": xtRPFilter, "limit": xtLimit, "hashlimit": xtLimit,
}

func u16(b []byte, o int) uint16 { return binary.NativeEndian.Uint16(b[o:]) }
func u32(b []byte, o int) uint32 { return binary.NativeEndian.Uint32(b[o:]) }

func bang(not bool) string {
	if not {
		return "! "
	}
	return ""
}

// portRange reads a range and leaves out the one that means any port.
func portRange(b []byte, o int) [][2]uint16 {
	lo, hi := u16(b, o), u16(b, o+2)
	if lo == 0 && hi == 0xffff {
		return nil
	}
	return [][2]uint16{{lo, hi}}
}

func xtPorts(proto string, b []byte, inv byte) Expr {
	m := &Match{SPorts: portRange(b, 0), DPorts: portRange(b, 4), NotSPorts: inv&1 != 0, NotDPorts: inv&2 != 0}
	text := "-m " + proto
	if len(m.SPorts) > 0 {
		text += " " + bang(m.NotSPorts) + "--sport " + portsText(m.SPorts)
	}
	if len(m.DPorts) > 0 {
		text += " " + bang(m.NotDPorts) + "--dport " + portsText(m.DPorts)
	}
	return Expr{Op: OpPorts, Tuple: m, Text: text}
}

func xtUDP(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 9 {
		return Expr{}, false
	}
	return xtPorts("udp", b, b[8]), true
}

func xtTCP(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 12 || b[8] != 0 { // an option is asked for
		return Expr{}, false
	}
	e := xtPorts("tcp", b, b[11])
	if b[9] == 0 {
		return e, true
	}
	if len(e.Tuple.SPorts)+len(e.Tuple.DPorts) > 0 {
		return Expr{}, false // both at once: one expression holds one
	}
	return Expr{Op: OpTCPFlags, Data: []byte{b[9], b[10]}, Invert: b[11]&4 != 0, Text: fmt.Sprintf("-m tcp --tcp-flags %#x %#x", b[9], b[10])}, true
}

func xtICMP(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 4 {
		return Expr{}, false
	}
	return Expr{Op: OpICMP, Data: bytes.Clone(b[:3]), Invert: b[3]&1 != 0, Text: fmt.Sprintf("-m icmp %s--icmp-type %d", bang(b[3]&1 != 0), b[0])}, true
}

func xtComment(_ uint32, b []byte) (Expr, bool) {
	c, _, _ := bytes.Cut(b, []byte{0})
	return Expr{Op: OpPass, Text: "--comment " + strconv.Quote(string(c))}, true
}

// Flags of xt_conntrack (XT_CONNTRACK_*).
const (
	xtctState     = 1 << 0
	xtctStatus    = 1 << 6
	xtctDirection = 1 << 12
	xtctAlias     = 1 << 13
)

func xtConntrack(rev uint32, b []byte) (Expr, bool) {
	if rev < 1 || rev > 3 || len(b) < 154 || rev == 1 && len(b) < 152 {
		return Expr{}, false
	}
	flags, inv := uint32(u16(b, 146)), uint32(u16(b, 148))
	state, status := uint32(u16(b, 150)), uint32(u16(b, 152))
	if rev == 1 {
		state, status = uint32(b[150]), uint32(b[151])
	}
	if flags&^(xtctState|xtctStatus|xtctDirection|xtctAlias) != 0 {
		return Expr{}, false
	}
	e := Expr{Op: OpState, Data: []byte{byte(inv & xtctState), byte(inv & xtctStatus), byte(inv & xtctDirection >> 12)}, Text: "-m conntrack"}
	if flags&xtctState != 0 {
		e.Flags = state
		e.Text += " " + bang(e.Data[0] != 0) + "--ctstate " + stateNames(state)
	}
	if flags&xtctStatus != 0 {
		e.Mod = status
		e.Text += fmt.Sprintf(" --ctstatus %#x", status)
	}
	if flags&xtctDirection != 0 {
		e.Dir = 1 // "--ctdir ORIGINAL"; the inversion is REPLY
		e.Text += " --ctdir"
	}
	return e, true
}

func stateNames(bits uint32) string {
	var out []string
	for _, n := range []struct {
		bit  uint32
		name string
	}{{8, "NEW"}, {4, "RELATED"}, {2, "ESTABLISHED"}, {1, "INVALID"}, {1 << 8, "UNTRACKED"}, {ctSNAT, "SNAT"}, {ctDNAT, "DNAT"}} {
		if bits&n.bit != 0 {
			out = append(out, n.name)
		}
	}
	return strings.Join(out, ",")
}

func xtState(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 4 {
		return Expr{}, false
	}
	bits := u32(b, 0)
	if bits&(1<<6) != 0 { // XT_STATE_UNTRACKED
		bits = bits&^(1<<6) | 1<<8
	}
	return Expr{Op: OpState, Flags: bits, Data: []byte{0, 0, 0}, Text: "-m state --state " + stateNames(bits)}, true
}

func markMatch(op Op, name string, b []byte) (Expr, bool) {
	if len(b) < 9 {
		return Expr{}, false
	}
	mark, mask, inv := u32(b, 0), u32(b, 4), b[8] != 0
	return Expr{Op: op, Mod: mark, Flags: mask, Invert: inv, Text: fmt.Sprintf("-m %s %s--mark %#x/%#x", name, bang(inv), mark, mask)}, true
}

func xtMark(rev uint32, b []byte) (Expr, bool) {
	if rev != 1 {
		return Expr{}, false
	}
	return markMatch(OpMark, "mark", b)
}

func xtConnmark(rev uint32, b []byte) (Expr, bool) {
	if rev != 1 {
		return Expr{}, false
	}
	return markMatch(OpConnmark, "connmark", b)
}

func xtMultiport(rev uint32, b []byte) (Expr, bool) {
	const ports = 15
	if rev != 1 || len(b) < 2+2*ports+ports+1 || b[1] > ports {
		return Expr{}, false
	}
	var list [][2]uint16
	for i := 0; i < int(b[1]); i++ {
		lo := u16(b, 2+2*i)
		hi := lo
		if b[2+2*ports+i] != 0 && i+1 < int(b[1]) {
			i++
			hi = u16(b, 2+2*i)
		}
		list = append(list, [2]uint16{lo, hi})
	}
	inv := b[2+3*ports] != 0
	m := &Match{NotSPorts: inv, NotDPorts: inv}
	flag := ""
	switch b[0] {
	case 0:
		m.SPorts, flag = list, "--sports"
	case 1:
		m.DPorts, flag = list, "--dports"
	default:
		m.Either, flag = list, "--ports"
	}
	return Expr{Op: OpPorts, Tuple: m, Text: "-m multiport " + bang(inv) + flag + " " + portsText(list)}, true
}

func xtAddrtype(rev uint32, b []byte) (Expr, bool) {
	if len(b) < 8 || rev == 0 && len(b) < 12 || rev > 1 {
		return Expr{}, false
	}
	e := Expr{Op: OpAddrtype, Flags: uint32(u16(b, 0)), Mod: uint32(u16(b, 2)), Data: []byte{0, 0}}
	if rev == 0 {
		e.Data = []byte{b[4], b[8]}
	} else {
		f := u32(b, 4)
		e.Data = []byte{byte(f & 1), byte(f & 2)}
		switch {
		case f&4 != 0:
			e.Key = "iface-in"
		case f&8 != 0:
			e.Key = "iface-out"
		}
	}
	e.Text = "-m addrtype"
	for name, n := range routeTypes {
		if e.Flags&(1<<n) != 0 {
			e.Text += " " + bang(e.Data[0] != 0) + "--src-type " + strings.ToUpper(name)
		}
		if e.Mod&(1<<n) != 0 {
			e.Text += " " + bang(e.Data[1] != 0) + "--dst-type " + strings.ToUpper(name)
		}
	}
	return e, true
}

func xtStatistic(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 8 {
		return Expr{}, false
	}
	if u16(b, 0) == 0 {
		return Expr{Op: OpStatistic, Text: fmt.Sprintf("-m statistic --mode random --probability %.5f", float64(u32(b, 4))/(1<<31))}, true
	}
	return Expr{Op: OpStatistic, Text: fmt.Sprintf("-m statistic --mode nth --every %d", u32(b, 4)+1)}, true
}

// masked turns a device name and its mask into a pattern with a trailing + for a prefix.
func masked(name, mask []byte) string {
	n, _, _ := bytes.Cut(name, []byte{0})
	if len(n) == 0 {
		return ""
	}
	if len(n) < len(mask) && mask[len(n)] == 0 {
		return string(n) + "+"
	}
	return string(n)
}

func xtPhysdev(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 66 {
		return Expr{}, false
	}
	inv, bits := b[64], b[65]
	m := &Match{NotIn: inv&1 != 0, NotOut: inv&2 != 0}
	if bits&1 != 0 {
		m.In = masked(b[:16], b[16:32])
	}
	if bits&2 != 0 {
		m.Out = masked(b[32:48], b[48:64])
	}
	return Expr{Op: OpPhysdev, Tuple: m, Flags: uint32(bits), Data: []byte{inv}, Text: fmt.Sprintf("-m physdev %s %s (%#x)", m.In, m.Out, bits)}, true
}

func xtMAC(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 12 {
		return Expr{}, false
	}
	return Expr{Op: OpMAC, Data: bytes.Clone(b[:6]), Invert: u32(b, 8) != 0, Text: fmt.Sprintf("-m mac %s--mac-source % x", bang(u32(b, 8) != 0), b[:6])}, true
}

func xtIPRange(rev uint32, b []byte) (Expr, bool) {
	if rev != 1 || len(b) < 65 {
		return Expr{}, false
	}
	flags, at, key, inv := b[64], 0, "src", byte(1<<4)
	switch flags & 3 {
	case 1:
	case 2:
		at, key, inv = 32, "dst", 1<<5
	default:
		return Expr{}, false
	}
	lo, hi := b[at:at+4], b[at+16:at+20]
	return Expr{Op: OpIPRange, Key: key, Data: bytes.Clone(lo), DataEnd: bytes.Clone(hi), Invert: flags&inv != 0,
		Text: fmt.Sprintf("-m iprange %s--%s-range %s-%s", bang(flags&inv != 0), key, addrOf(lo), addrOf(hi))}, true
}

func xtLength(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 5 {
		return Expr{}, false
	}
	lo, hi := uint32(u16(b, 0)), uint32(u16(b, 2))
	return Expr{Op: OpLength, Offset: lo, Len: hi, Invert: b[4] != 0, Text: fmt.Sprintf("-m length %s--length %d:%d", bang(b[4] != 0), lo, hi)}, true
}

func xtTTL(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 2 {
		return Expr{}, false
	}
	return Expr{Op: OpTTL, Flags: uint32(b[0]), Mod: uint32(b[1]), Text: fmt.Sprintf("-m ttl mode %d %d", b[0], b[1])}, true
}

func xtRPFilter(_ uint32, b []byte) (Expr, bool) {
	if len(b) < 1 {
		return Expr{}, false
	}
	return Expr{Op: OpRPFilter, Flags: uint32(b[0]), Invert: b[0]&8 != 0, Text: "-m rpfilter " + bang(b[0]&8 != 0)}, true
}

func xtLimit(uint32, []byte) (Expr, bool) {
	return Expr{Op: OpAssume, Text: "-m limit (taken as within)"}, true
}

// decodeTarget turns one target into an expression.
func decodeTarget(name string, rev uint32, b []byte, v6 bool) Expr {
	unknown := Expr{Op: OpUnknown, Text: fmt.Sprintf("-j %s (revision %d, not known)", name, rev)}
	switch name {
	case "REJECT":
		return Expr{Op: OpReject, Text: "-j REJECT"}
	case "LOG", "NFLOG", "ULOG", "TRACE", "CHECKSUM", "TCPMSS", "AUDIT", "TOS", "DSCP", "CLASSIFY", "RATEEST", "HL", "TTL":
		return Expr{Op: OpPass, Text: "-j " + name}
	case "NOTRACK":
		return Expr{Op: OpNotrack, Text: "-j NOTRACK"}
	case "CT":
		if len(b) >= 2 && u16(b, 0)&1 != 0 {
			return Expr{Op: OpNotrack, Text: "-j CT --notrack"}
		}
		return Expr{Op: OpPass, Text: "-j CT"}
	case "MARK":
		if rev != 2 || len(b) < 8 {
			return unknown
		}
		return Expr{Op: OpSetMark, Data: bytes.Clone(b[4:8]), DataEnd: bytes.Clone(b[:4]), Text: fmt.Sprintf("-j MARK --set-xmark %#x/%#x", u32(b, 0), u32(b, 4))}
	case "CONNMARK":
		return xtSetConnmark(rev, b, unknown)
	case "DNAT", "SNAT", "MASQUERADE", "REDIRECT":
		return xtNAT(name, rev, b, v6, unknown)
	}
	return unknown
}

func xtSetConnmark(rev uint32, b []byte, unknown Expr) Expr {
	if rev > 1 || len(b) < 13 {
		return unknown
	}
	modes := [...]string{"ct", "save", "restore"}
	if int(b[12]) >= len(modes) {
		return unknown
	}
	mark, ctmask, nfmask := b[:4], b[4:8], b[8:12]
	e := Expr{Op: OpSetMark, Key: modes[b[12]], Data: bytes.Clone(ctmask), DataEnd: bytes.Clone(nfmask), Text: "-j CONNMARK " + modes[b[12]]}
	if b[12] == 0 {
		e.DataEnd = bytes.Clone(mark)
	}
	return e
}

// Flags of nf_nat_range (NF_NAT_RANGE_*).
const (
	natMapIPs = 1 << 0
	natProto  = 1 << 1
)

func xtNAT(name string, rev uint32, b []byte, v6 bool, unknown Expr) Expr {
	n := &NAT{Kind: strings.ToLower(name)}
	var flags uint32
	switch {
	case rev == 0 && !v6: // nf_nat_ipv4_multi_range_compat: one range
		if len(b) < 20 {
			return unknown
		}
		flags = u32(b, 4)
		n.AddrMin, _ = netip.AddrFromSlice(b[8:12])
		n.PortMin = binary.BigEndian.Uint16(b[16:])
	case len(b) >= 40: // nf_nat_range and nf_nat_range2
		flags = u32(b, 0)
		size := 4
		if v6 {
			size = 16
		}
		n.AddrMin, _ = netip.AddrFromSlice(b[4 : 4+size])
		n.PortMin = binary.BigEndian.Uint16(b[36:])
	default:
		return unknown
	}
	text := "-j " + name
	if flags&natMapIPs == 0 {
		n.AddrMin = netip.Addr{}
	} else {
		text += " --to " + n.AddrMin.String()
	}
	if flags&natProto == 0 {
		n.PortMin = 0
	} else {
		text += fmt.Sprintf(":%d", n.PortMin)
	}
	return Expr{Op: OpNAT, NAT: n, Text: text}
}
