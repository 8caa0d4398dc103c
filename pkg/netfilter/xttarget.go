package netfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// passTargets have no effect on what is modelled of a packet, and go on with the next rule.
var passTargets = []string{
	"LOG", "NFLOG", "ULOG", "TRACE", "CHECKSUM", "TCPMSS", "TCPOPTSTRIP", "AUDIT", "CLASSIFY", "RATEEST", "SET", "TEE", "IDLETIMER", "LED",
	"SECMARK", "CONNSECMARK", "ECN", "notrack",
}

// decodeTarget turns one target into an expression. One that it does not know may do anything.
func decodeTarget(name string, rev uint32, b []byte, v6 bool) Expr {
	if slices.Contains(passTargets, name) {
		return Expr{Op: OpPass, Text: "-j " + name}
	}
	f, ok := xtTargets[name]
	if ok {
		if e, ok := f(xtInfo{name: name, rev: rev, v6: v6}, b); ok {
			return e
		}
	}
	return Expr{Op: OpOpaque, Text: fmt.Sprintf("-j %s (revision %d, not known)", name, rev)}
}

var xtTargets = map[string]xtDecoder{
	"REJECT": xtReject, "NOTRACK": xtNotrack, "CT": xtCT, "MARK": xtSetMark, "CONNMARK": xtSetConnmark, "NFQUEUE": xtQueue,
	"DNAT": xtNAT, "SNAT": xtNAT, "MASQUERADE": xtNAT, "REDIRECT": xtNAT, "NETMAP": xtNAT,
	"TTL": xtSetTTL, "HL": xtSetTTL, "TOS": xtSetTOS, "DSCP": xtSetDSCP,
}

// Answers of REJECT by enum ipt_reject_with and ip6t_reject_with: the word, then type and code.
var (
	rejects4 = []struct {
		name string
		a    *Rejection
	}{
		{"icmp-net-unreachable", &Rejection{Type: 3, Code: 0}}, {"icmp-host-unreachable", &Rejection{Type: 3, Code: 1}},
		{"icmp-proto-unreachable", &Rejection{Type: 3, Code: 2}}, {"icmp-port-unreachable", &Rejection{Type: 3, Code: 3}},
		{"echo-reply", nil}, {"icmp-net-prohibited", &Rejection{Type: 3, Code: 9}}, {"icmp-host-prohibited", &Rejection{Type: 3, Code: 10}},
		{"tcp-reset", &Rejection{Reset: true}}, {"icmp-admin-prohibited", &Rejection{Type: 3, Code: 13}},
	}
	rejects6 = []struct {
		name string
		a    *Rejection
	}{
		{"icmp6-no-route", &Rejection{Type: 1, Code: 0}}, {"icmp6-adm-prohibited", &Rejection{Type: 1, Code: 1}},
		{"icmp6-not-neighbour", &Rejection{Type: 1, Code: 2}}, {"icmp6-addr-unreachable", &Rejection{Type: 1, Code: 3}},
		{"icmp6-port-unreachable", &Rejection{Type: 1, Code: 4}}, {"icmp6-echo-reply", nil}, {"tcp-reset", &Rejection{Reset: true}},
		{"icmp6-policy-fail", &Rejection{Type: 1, Code: 5}}, {"icmp6-reject-route", &Rejection{Type: 1, Code: 6}},
	}
)

func xtReject(x xtInfo, b []byte) (Expr, bool) {
	list := rejects4
	if x.v6 {
		list = rejects6
	}
	if len(b) < 4 || u32(b, 0) >= uint32(len(list)) { //nolint:gosec // nine
		return Expr{}, false
	}
	w := list[u32(b, 0)]
	return Expr{Op: OpReject, Answer: w.a, Text: "-j REJECT --reject-with " + w.name}, true
}

func xtNotrack(xtInfo, []byte) (Expr, bool) {
	return Expr{Op: OpNotrack, Text: "-j NOTRACK"}, true
}

// xtCT reads struct xt_ct_target_info: flags, zone.
func xtCT(_ xtInfo, b []byte) (Expr, bool) {
	const notrack, zones = 1, 1<<2 | 1<<3 | 1<<4
	if len(b) < 4 {
		return Expr{}, false
	}
	flags, zone := u16(b, 0), uint32(u16(b, 2))
	switch {
	case flags&notrack != 0:
		return Expr{Op: OpNotrack, Text: "-j CT --notrack"}, true
	case flags&zones != 0:
		return Expr{}, false // a zone of one direction, or the mark
	}
	return Expr{Op: OpZone, Mod: zone, Text: fmt.Sprintf("-j CT --zone %d", zone)}, true
}

func xtSetMark(x xtInfo, b []byte) (Expr, bool) {
	if x.rev != 2 || len(b) < 8 {
		return Expr{}, false
	}
	return Expr{Op: OpSetMark, Data: bytes.Clone(b[4:8]), DataEnd: bytes.Clone(b[:4]), Text: fmt.Sprintf("-j MARK --set-xmark %#x/%#x", u32(b, 0), u32(b, 4))}, true
}

// xtSetConnmark reads struct xt_connmark_tginfo1 and 2: mark, masks, shift and mode.
func xtSetConnmark(x xtInfo, b []byte) (Expr, bool) {
	at := 12
	if x.rev == 2 {
		at = 14
	}
	modes := [...]string{"ct", "save", "restore"}
	if x.rev < 1 || x.rev > 2 || len(b) <= at || int(b[at]) >= len(modes) {
		return Expr{}, false
	}
	mark, ctmask, nfmask := b[:4], b[4:8], b[8:12]
	e := Expr{Op: OpSetMark, Key: modes[b[at]], Data: bytes.Clone(ctmask), DataEnd: bytes.Clone(nfmask)}
	if x.rev == 2 && b[13] != 0 {
		e.Sreg, e.Dir = uint32(b[13]), 1+int8(b[12]&1) //nolint:gosec // 1 or 2
	}
	if e.Key == "ct" {
		e.DataEnd = bytes.Clone(mark)
		e.Text = fmt.Sprintf("-j CONNMARK --set-xmark %#x/%#x", u32(mark, 0), u32(ctmask, 0))
	} else {
		e.Text = fmt.Sprintf("-j CONNMARK --%s-mark --nfmask %#x --ctmask %#x", e.Key, u32(nfmask, 0), u32(ctmask, 0))
	}
	return e, true
}

func xtQueue(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 2 {
		return Expr{}, false
	}
	return Expr{Op: OpVerdict, Jump: &Jump{Code: JumpQueue}, Text: fmt.Sprintf("-j NFQUEUE --queue-num %d", u16(b, 0))}, true
}

func xtSetTTL(x xtInfo, b []byte) (Expr, bool) {
	if len(b) < 2 || b[0] > 2 {
		return Expr{}, false
	}
	word := strings.ToLower(x.name)
	return Expr{Op: OpSetTTL, Flags: uint32(b[0]), Mod: uint32(b[1]),
		Text: fmt.Sprintf("-j %s --%s-%s %d", x.name, word, [...]string{"set", "inc", "dec"}[b[0]], b[1])}, true
}

func xtSetTOS(x xtInfo, b []byte) (Expr, bool) {
	if x.rev != 1 || len(b) < 2 {
		return Expr{}, false
	}
	return Expr{Op: OpSetTOS, Flags: uint32(b[1]), Mod: uint32(b[0]), Text: fmt.Sprintf("-j TOS --set-tos %#02x/%#02x", b[0], b[1])}, true
}

func xtSetDSCP(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 1 {
		return Expr{}, false
	}
	return Expr{Op: OpSetTOS, Flags: 0xfc, Mod: uint32(b[0]) << 2 & 0xff, Text: fmt.Sprintf("-j DSCP --set-dscp %#02x", b[0])}, true
}

// Flags of nf_nat_range (NF_NAT_RANGE_*).
const (
	natMapIPs      = 1 << 0
	natProto       = 1 << 1
	natRandom      = 1 << 2
	natPersistent  = 1 << 3
	natRandomFully = 1 << 4
	natOffset      = 1 << 5
	natNetmap      = 1 << 6
)

func xtNAT(x xtInfo, b []byte) (Expr, bool) {
	n := &NAT{Kind: strings.ToLower(x.name)}
	if x.name == "NETMAP" {
		n.Kind, n.Netmap = "dnat", true // which side the hook decides
	}
	flags, ok := n.fromRange(x, b)
	if !ok {
		return Expr{}, false
	}
	n.Random, n.Persistent = flags&(natRandom|natRandomFully) != 0, flags&natPersistent != 0
	n.Netmap = n.Netmap || flags&natNetmap != 0
	if flags&natMapIPs == 0 {
		n.AddrMin, n.AddrMax = netip.Addr{}, netip.Addr{}
	}
	if flags&natProto == 0 {
		n.PortMin, n.PortMax = 0, 0
	}
	if flags&natOffset == 0 {
		n.PortBase = 0
	}
	if n.Netmap && !n.AddrMin.IsValid() {
		return Expr{}, false
	}
	return Expr{Op: OpNAT, NAT: n, Key: strings.ToLower(x.name), Text: n.xtText(x.name, flags)}, true
}

// fromRange reads nf_nat_ipv4_multi_range_compat, nf_nat_range or nf_nat_range2.
func (n *NAT) fromRange(x xtInfo, b []byte) (flags uint32, ok bool) {
	port := binary.BigEndian.Uint16
	if x.rev == 0 && !x.v6 {
		if len(b) < 20 {
			return 0, false
		}
		n.AddrMin, n.AddrMax = addrOf(b[8:12]), addrOf(b[12:16])
		n.PortMin, n.PortMax = port(b[16:]), port(b[18:])
		return u32(b, 4), true
	}
	if len(b) < 40 {
		return 0, false
	}
	size := 4
	if x.v6 {
		size = 16
	}
	n.AddrMin, n.AddrMax = addrOf(b[4:4+size]), addrOf(b[20:20+size])
	n.PortMin, n.PortMax = port(b[36:]), port(b[38:])
	if x.rev >= 2 && len(b) >= 42 {
		n.PortBase = port(b[40:])
	}
	return u32(b, 0), true
}

// xtText prints the target as iptables -S does.
func (n *NAT) xtText(name string, flags uint32) string {
	to := ""
	if n.AddrMin.IsValid() {
		to = n.AddrMin.String()
		if n.AddrMin.Is6() && n.PortMin != 0 {
			to = "[" + to + "]"
		}
		if n.AddrMax != n.AddrMin {
			to += "-" + n.AddrMax.String()
		}
	}
	ports := ""
	if n.PortMin != 0 {
		ports = fmt.Sprint(n.PortMin)
		if n.PortMax != n.PortMin {
			ports += fmt.Sprintf("-%d", n.PortMax)
		}
	}
	text := "-j " + name
	switch name {
	case "DNAT", "SNAT":
		if ports != "" {
			to += ":" + ports
		}
		text += map[string]string{"DNAT": " --to-destination ", "SNAT": " --to-source "}[name] + to
	case "NETMAP":
		text += " --to " + to
	default:
		if ports != "" {
			text += " --to-ports " + ports
		}
	}
	return text + flagWords(flags, []bitName{{natRandom, " --random"}, {natRandomFully, " --random-fully"}, {natPersistent, " --persistent"}})
}
