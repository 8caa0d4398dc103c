package netfilter

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The binary structures of xtables (linux/netfilter/xt_*.h) are in host byte order but for addresses
// and the ports of NAT. They come from the kernel, and are read as if they did not.

// decodeMatch turns one match of iptables into an expression. What it does not know stays unknown.
func decodeMatch(name string, rev uint32, info []byte, v6 bool) Expr {
	f, ok := xtMatches[name]
	if ok {
		if e, ok := f(xtInfo{name: name, rev: rev, v6: v6}, info); ok {
			return e
		}
	}
	e := Expr{Op: OpUnknown, Text: fmt.Sprintf("-m %s (revision %d, not known)", name, rev)}
	switch name {
	case "connbytes", "connlabel", "connlimit", "helper", "cluster":
		e.Key = needsCT
	}
	return e
}

// xtInfo says what a structure belongs to.
type xtInfo struct {
	name string
	rev  uint32
	v6   bool
}

type xtDecoder func(x xtInfo, b []byte) (Expr, bool)

var xtMatches = map[string]xtDecoder{
	"tcp": xtTCP, "udp": xtUDP, "icmp": xtICMP, "icmp6": xtICMP, "comment": xtComment, "conntrack": xtConntrack,
	"state": xtState, "mark": xtMark, "connmark": xtConnmark, "multiport": xtMultiport, "addrtype": xtAddrtype,
	"statistic": xtStatistic, "physdev": xtPhysdev, "mac": xtMAC, "iprange": xtIPRange, "length": xtLength,
	"ttl": xtTTL, "hl": xtTTL, "rpfilter": xtRPFilter, "limit": xtLimit, "hashlimit": xtHashlimit, "connlimit": xtConnlimit,
	"set": xtSet, "recent": xtRecent, "owner": xtOwner, "pkttype": xtPkttype, "dscp": xtDSCP, "tos": xtTOS,
	"nfacct": xtNfacct, "quota": xtQuota,
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
func portRange(b []byte, o int, not bool) [][2]uint16 {
	lo, hi := u16(b, o), u16(b, o+2)
	if lo == 0 && hi == 0xffff && !not {
		return nil
	}
	return [][2]uint16{{lo, hi}}
}

func xtPorts(proto string, b []byte, inv byte) Expr {
	m := &Match{NotSPorts: inv&1 != 0, NotDPorts: inv&2 != 0}
	m.SPorts, m.DPorts = portRange(b, 0, m.NotSPorts), portRange(b, 4, m.NotDPorts)
	text := "-m " + proto
	if len(m.SPorts) > 0 {
		text += " " + bang(m.NotSPorts) + "--sport " + portsText(m.SPorts)
	}
	if len(m.DPorts) > 0 {
		text += " " + bang(m.NotDPorts) + "--dport " + portsText(m.DPorts)
	}
	return Expr{Op: OpPorts, Tuple: m, Text: text}
}

func xtUDP(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 9 {
		return Expr{}, false
	}
	return xtPorts("udp", b, b[8]), true
}

func xtTCP(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 12 || b[8] != 0 { // an option is asked for
		return Expr{}, false
	}
	e := xtPorts("tcp", b, b[11])
	if b[9] != 0 {
		m := e.Tuple
		m.TCPMask, m.TCPFlags, m.NotTCPFlags = b[9], b[10], b[11]&4 != 0
		e.Text += " " + bang(m.NotTCPFlags) + "--tcp-flags " + tcpFlagNames(b[9]) + " " + tcpFlagNames(b[10])
	}
	return e, true
}

func tcpFlagNames(f uint8) string {
	if f == 0 {
		return "NONE"
	}
	return bitNames(uint32(f), []bitName{{1, "FIN"}, {2, "SYN"}, {4, "RST"}, {8, "PSH"}, {16, "ACK"}, {32, "URG"}, {64, "ECE"}, {128, "CWR"}})
}

type bitName struct {
	bit  uint32
	name string
}

func bitNames(bits uint32, names []bitName) string {
	var out []string
	for _, n := range names {
		if bits&n.bit != 0 {
			out = append(out, n.name)
		}
	}
	return strings.Join(out, ",")
}

// flagWords joins the words of the bits that are set, each with the space before it.
func flagWords(bits uint32, names []bitName) string {
	var b strings.Builder
	for _, n := range names {
		if bits&n.bit != 0 {
			b.WriteString(n.name)
		}
	}
	return b.String()
}

func xtICMP(x xtInfo, b []byte) (Expr, bool) {
	if len(b) < 4 {
		return Expr{}, false
	}
	flag := "--icmp-type"
	if x.name == "icmp6" {
		flag = "--icmpv6-type"
	}
	what := strconv.Itoa(int(b[0]))
	switch {
	case b[0] == 0xff && x.name == "icmp":
		what = "any"
	case b[1] == b[2]:
		what += fmt.Sprintf("/%d", b[1])
	}
	inv := b[3]&1 != 0
	return Expr{Op: OpICMP, Data: bytes.Clone(b[:3]), Invert: inv, Text: fmt.Sprintf("-m %s %s%s %s", x.name, bang(inv), flag, what)}, true
}

func xtComment(_ xtInfo, b []byte) (Expr, bool) {
	c, _, _ := bytes.Cut(b, []byte{0})
	return Expr{Op: OpPass, Text: "-m comment --comment " + strconv.Quote(string(c))}, true
}

func xtNfacct(_ xtInfo, _ []byte) (Expr, bool) { return Expr{Op: OpPass, Text: "-m nfacct"}, true }

func markMatch(op Op, name string, b []byte) (Expr, bool) {
	if len(b) < 9 {
		return Expr{}, false
	}
	mark, mask, inv := u32(b, 0), u32(b, 4), b[8] != 0
	text := fmt.Sprintf("-m %s %s--mark %#x", name, bang(inv), mark)
	if mask != 0xffffffff {
		text += fmt.Sprintf("/%#x", mask)
	}
	return Expr{Op: op, Mod: mark, Flags: mask, Invert: inv, Text: text}, true
}

func xtMark(x xtInfo, b []byte) (Expr, bool) {
	if x.rev != 1 {
		return Expr{}, false
	}
	return markMatch(OpMark, "mark", b)
}

func xtConnmark(x xtInfo, b []byte) (Expr, bool) {
	if x.rev != 1 {
		return Expr{}, false
	}
	return markMatch(OpConnmark, "connmark", b)
}

func xtMultiport(x xtInfo, b []byte) (Expr, bool) {
	const ports = 15
	if x.rev != 1 || len(b) < 2+2*ports+ports+1 || b[1] > ports {
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

func xtAddrtype(x xtInfo, b []byte) (Expr, bool) {
	if len(b) < 8 || x.rev == 0 && len(b) < 12 || x.rev > 1 {
		return Expr{}, false
	}
	e := Expr{Op: OpAddrtype, Flags: uint32(u16(b, 0)), Mod: uint32(u16(b, 2)), Data: []byte{0, 0}, Text: "-m addrtype"}
	limit := ""
	if x.rev == 0 {
		e.Data = []byte{b[4], b[8]}
	} else {
		f := u32(b, 4)
		e.Data = []byte{byte(f & 1), byte(f & 2)}
		switch {
		case f&4 != 0:
			e.Key, limit = "iface-in", " --limit-iface-in"
		case f&8 != 0:
			e.Key, limit = "iface-out", " --limit-iface-out"
		}
	}
	if e.Flags != 0 {
		e.Text += " " + bang(e.Data[0] != 0) + "--src-type " + routeTypeNames(e.Flags)
	}
	if e.Mod != 0 {
		e.Text += " " + bang(e.Data[1] != 0) + "--dst-type " + routeTypeNames(e.Mod)
	}
	e.Text += limit
	return e, true
}

func routeTypeNames(mask uint32) string {
	var names []bitName
	for name, n := range routeTypes {
		names = append(names, bitName{1 << n, strings.ToUpper(name)})
	}
	slices.SortFunc(names, func(a, b bitName) int { return cmp.Compare(a.bit, b.bit) })
	return bitNames(mask, names)
}

func xtStatistic(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 8 {
		return Expr{}, false
	}
	inv := u16(b, 2)&1 != 0
	if u16(b, 0) == 0 {
		return Expr{Op: OpStatistic, Key: "random", Mod: u32(b, 4), Invert: inv,
			Text: fmt.Sprintf("-m statistic --mode random %s--probability %.11f", bang(inv), float64(u32(b, 4))/(1<<31))}, true
	}
	return Expr{Op: OpStatistic, Key: "nth", Mod: u32(b, 4), Invert: inv, Text: fmt.Sprintf("-m statistic --mode nth %s--every %d", bang(inv), u32(b, 4)+1)}, true
}
