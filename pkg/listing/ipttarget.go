package listing

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// passTargets change nothing that the model follows, and go on with the next rule.
var passTargets = []string{
	"LOG", "NFLOG", "ULOG", "TRACE", "CHECKSUM", "TCPMSS", "TCPOPTSTRIP", "AUDIT", "CLASSIFY", "RATEEST", "SET", "TEE", "IDLETIMER", "LED",
	"SECMARK", "CONNSECMARK", "ECN",
}

// iptTargets are the extensions that the model has; false where one asks for what it has not.
var iptTargets = map[string]func(name string, opts []option, v6 bool) (netfilter.Expr, bool){
	"REJECT": rejectTarget, "CT": ctTarget, "MARK": setMark, "CONNMARK": setMark, "TTL": setTTL, "HL": setTTL, "TOS": setTOS, "DSCP": setDSCP,
	"DNAT": natTarget, "SNAT": natTarget, "MASQUERADE": natTarget, "REDIRECT": natTarget, "NETMAP": natTarget,
	"NOTRACK": func(string, []option, bool) (netfilter.Expr, bool) {
		return netfilter.Expr{Op: netfilter.OpNotrack}, true
	},
}

// opaqueTargets are the extensions that the model does not have. Any other name is a chain's.
var opaqueTargets = []string{"TPROXY", "CLUSTERIP", "SYNPROXY", "NETFLOW", "HMARK", "DNPT", "SNPT", "SAME", "MIRROR"}

var iptVerdicts = map[string]netfilter.JumpCode{
	"ACCEPT": netfilter.JumpAccept, "DROP": netfilter.JumpDrop, "RETURN": netfilter.JumpReturn, "QUEUE": netfilter.JumpQueue,
	"NFQUEUE": netfilter.JumpQueue,
}

// targetExpr turns the target into an expression: a verdict, an extension, or a jump to a chain. One that is
// not known may do anything.
func targetExpr(name string, opts []option, text string, v6 bool) netfilter.Expr {
	e := netfilter.Expr{Op: netfilter.OpOpaque}
	if code, ok := iptVerdicts[name]; ok {
		e = netfilter.Expr{Op: netfilter.OpVerdict, Jump: &netfilter.Jump{Code: code}}
	} else if f, ok := iptTargets[name]; ok {
		if x, ok := f(name, opts, v6); ok {
			e = x
		}
	} else if slices.Contains(passTargets, name) {
		e = netfilter.Expr{Op: netfilter.OpPass}
	} else if !slices.Contains(opaqueTargets, name) {
		e = netfilter.Expr{Op: netfilter.OpVerdict, Jump: &netfilter.Jump{Code: netfilter.JumpJump, Chain: name}}
	}
	e.Text = text
	return e
}

// rejections are the answers of REJECT by name (enum ipt_reject_with, ip6t_reject_with).
var rejections = map[string]netfilter.Rejection{
	"icmp-net-unreachable": {Type: 3}, "icmp-host-unreachable": {Type: 3, Code: 1}, "icmp-proto-unreachable": {Type: 3, Code: 2},
	"icmp-port-unreachable": {Type: 3, Code: 3}, "icmp-net-prohibited": {Type: 3, Code: 9}, "icmp-host-prohibited": {Type: 3, Code: 10},
	"icmp-admin-prohibited": {Type: 3, Code: 13}, "tcp-reset": {Reset: true},
	"icmp6-no-route": {Type: 1}, "icmp6-adm-prohibited": {Type: 1, Code: 1}, "icmp6-not-neighbour": {Type: 1, Code: 2},
	"icmp6-addr-unreachable": {Type: 1, Code: 3}, "icmp6-port-unreachable": {Type: 1, Code: 4}, "icmp6-policy-fail": {Type: 1, Code: 5},
	"icmp6-reject-route": {Type: 1, Code: 6},
}

func rejectTarget(_ string, opts []option, v6 bool) (netfilter.Expr, bool) {
	with := "icmp-port-unreachable"
	if v6 {
		with = "icmp6-port-unreachable"
	}
	for _, o := range opts {
		if o.key == "reject-with" {
			with = o.val()
		}
	}
	e := netfilter.Expr{Op: netfilter.OpReject}
	if a, ok := rejections[with]; ok {
		e.Answer = &a
	}
	return e, true
}

// ctTarget: what sets neither a zone nor notrack still attaches a template, of zone 0.
func ctTarget(_ string, opts []option, _ bool) (netfilter.Expr, bool) {
	e := netfilter.Expr{Op: netfilter.OpZone}
	for _, o := range opts {
		switch o.key {
		case "notrack":
			return netfilter.Expr{Op: netfilter.OpNotrack}, true
		case "zone":
			if !isNumber(o.val()) {
				return e, false // by the mark
			}
			e.Mod = uint32(number[uint16](o.val()))
		case "helper", "timeout", "ctevents", "expevents":
		default:
			return e, false
		}
	}
	return e, true
}

// setTTL: the modes are IPT_TTL_* and IP6T_HL_*.
func setTTL(_ string, opts []option, _ bool) (netfilter.Expr, bool) {
	if len(opts) != 1 {
		return netfilter.Expr{}, false
	}
	_, word, _ := strings.Cut(opts[0].key, "-")
	mode, ok := map[string]uint32{"set": 0, "inc": 1, "dec": 2}[word]
	return netfilter.Expr{Op: netfilter.OpSetTTL, Flags: mode, Mod: uint32(number[uint8](opts[0].val()))}, ok && isNumber(opts[0].val())
}

// setTOS: TOS & ^Flags ^ Mod.
func setTOS(_ string, opts []option, _ bool) (netfilter.Expr, bool) {
	if len(opts) != 1 {
		return netfilter.Expr{}, false
	}
	v, mask, ok := tosValue(opts[0].val())
	switch opts[0].key {
	case "set-tos":
	case "and-tos":
		v, mask = 0, ^v&0xff
	case "or-tos":
		mask = v
	case "xor-tos":
		mask = 0
	default:
		ok = false
	}
	return netfilter.Expr{Op: netfilter.OpSetTOS, Flags: mask, Mod: v}, ok
}

func setDSCP(_ string, opts []option, _ bool) (netfilter.Expr, bool) {
	if len(opts) != 1 || opts[0].key != "set-dscp" || !isNumber(opts[0].val()) {
		return netfilter.Expr{}, false
	}
	return netfilter.Expr{Op: netfilter.OpSetTOS, Flags: dscpMask, Mod: uint32(number[uint8](opts[0].val())) << 2 & dscpMask}, true
}

// setMark is MARK and CONNMARK: mark = mark & ^mask ^ value, and marks that are moved from one to the other.
func setMark(name string, opts []option, _ bool) (netfilter.Expr, bool) {
	e := netfilter.Expr{Op: netfilter.OpSetMark}
	if name == "CONNMARK" {
		e.Key = "ct"
	}
	nf, ct := ^uint32(0), ^uint32(0)
	moved := false
	for _, o := range opts {
		v, mask := valueMask(o.val())
		switch o.key {
		case "set-xmark":
			e.Data, e.DataEnd = native32(mask), native32(v)
		case "set-mark":
			e.Data, e.DataEnd = native32(mask|v), native32(v)
		case "and-mark":
			e.Data, e.DataEnd = native32(^v), native32(0)
		case "or-mark":
			e.Data, e.DataEnd = native32(v), native32(v)
		case "xor-mark":
			e.Data, e.DataEnd = native32(0), native32(v)
		case "save-mark", "restore-mark":
			e.Key, moved = strings.TrimSuffix(o.key, "-mark"), true
		case "nfmask":
			nf = v
		case "ctmask":
			ct = v
		case "mask":
			nf, ct = v, v
		default:
			return e, false // shifted
		}
	}
	if moved {
		e.Data, e.DataEnd = native32(ct), native32(nf)
	}
	return e, len(e.Data) == 4
}

// natTarget reads "--to-destination 10.0.0.1-10.0.0.4:8000-8010/7000".
func natTarget(name string, opts []option, _ bool) (netfilter.Expr, bool) {
	key := strings.ToLower(name)
	n := &netfilter.NAT{Kind: key}
	ok := true
	for _, o := range opts {
		switch o.key {
		case "to-destination", "to-source":
			if n.AddrMin.IsValid() || n.PortMin != 0 {
				return netfilter.Expr{}, false // several destinations, of old kernels
			}
			ok = natRange(n, o.val())
		case "to": // of iptables -L, or a network: which side changes the hook decides
			if name != "NETMAP" {
				ok = natRange(n, o.val())
				break
			}
			p := iptPrefix(o.val())
			ok = p.IsValid()
			n.Kind, n.Netmap, n.AddrMin, n.AddrMax = "dnat", true, p.Masked().Addr(), lastAddr(p)
		case "to-ports":
			ok = natPorts(n, o.val())
		case "random", "random-fully":
			n.Random = true
		case "persistent":
			n.Persistent = true
		default:
			ok = false
		}
		if !ok {
			return netfilter.Expr{}, false
		}
	}
	if name == "NETMAP" && !n.Netmap || (name == "DNAT" || name == "SNAT") && !n.AddrMin.IsValid() && n.PortMin == 0 {
		return netfilter.Expr{}, false
	}
	return netfilter.Expr{Op: netfilter.OpNAT, Key: key, NAT: n}, true
}

// lastAddr is the last address of a network.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := max(p.Bits(), 0); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// natRange reads ADDR, ADDR-ADDR, ADDR:PORT, ADDR:PORT-PORT/BASE, [ADDR]:PORT and :PORT.
func natRange(n *netfilter.NAT, s string) bool {
	addr, ports := s, ""
	switch {
	case strings.HasPrefix(s, "["):
		end := strings.LastIndexByte(s, ']')
		if end < 0 {
			return false
		}
		addr, ports = strings.NewReplacer("[", "", "]", "").Replace(s[:end]), strings.TrimPrefix(s[end+1:], ":")
	case strings.Count(s, ":") == 1:
		addr, ports, _ = strings.Cut(s, ":")
	}
	if addr != "" {
		lo, hi, isRange := strings.Cut(addr, "-")
		if !isRange {
			hi = lo
		}
		n.AddrMin, n.AddrMax = parseIP(lo), parseIP(hi)
		if !n.AddrMin.IsValid() || !n.AddrMax.IsValid() {
			return false
		}
	}
	return ports == "" && addr != "" || natPorts(n, ports)
}

// natPorts reads PORT, PORT-PORT and PORT-PORT/BASE.
func natPorts(n *netfilter.NAT, s string) bool {
	s, base, _ := strings.Cut(s, "/")
	lo, hi, isRange := strings.Cut(s, "-")
	if !isRange {
		hi = lo
	}
	for _, p := range []string{lo, hi} {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil {
			return false
		}
	}
	n.PortMin, n.PortMax, n.PortBase = number[uint16](lo), number[uint16](hi), number[uint16](base)
	return true
}
