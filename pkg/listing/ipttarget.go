package listing

import (
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// targetExprs turns the target into expressions: a verdict, an extension, or a jump to a chain.
func targetExprs(name string, opts []option, text string) []netfilter.Expr {
	one := func(e netfilter.Expr) []netfilter.Expr {
		e.Text = text
		return []netfilter.Expr{e}
	}
	verdicts := map[string]netfilter.JumpCode{
		"ACCEPT": netfilter.JumpAccept, "DROP": netfilter.JumpDrop, "RETURN": netfilter.JumpReturn, "QUEUE": netfilter.JumpQueue,
		"NFQUEUE": netfilter.JumpQueue,
	}
	if v, ok := verdicts[name]; ok {
		return one(netfilter.Expr{Op: netfilter.OpVerdict, Jump: &netfilter.Jump{Code: v}})
	}
	switch name {
	case "REJECT":
		return one(netfilter.Expr{Op: netfilter.OpReject})
	case "LOG", "NFLOG", "ULOG", "TRACE", "CHECKSUM", "TCPMSS", "AUDIT", "TOS", "DSCP", "CLASSIFY", "RATEEST", "HL", "TTL":
		return one(netfilter.Expr{Op: netfilter.OpPass})
	case "NOTRACK":
		return one(netfilter.Expr{Op: netfilter.OpNotrack})
	case "CT":
		for _, o := range opts {
			if o.key == "notrack" {
				return one(netfilter.Expr{Op: netfilter.OpNotrack})
			}
		}
		return one(netfilter.Expr{Op: netfilter.OpPass})
	case "MARK", "CONNMARK":
		if e, ok := setMark(name, opts); ok {
			return one(e)
		}
	case "DNAT", "SNAT", "MASQUERADE", "REDIRECT":
		if n, ok := natTarget(name, opts); ok {
			return one(netfilter.Expr{Op: netfilter.OpNAT, NAT: n})
		}
	case "TPROXY", "SET", "NETMAP", "CLUSTERIP", "IDLETIMER", "TEE", "SYNPROXY", "SECMARK", "CONNSECMARK", "NETFLOW", "HMARK", "ECN", "DNPT", "SNPT", "LED":
	default:
		return one(netfilter.Expr{Op: netfilter.OpVerdict, Jump: &netfilter.Jump{Code: netfilter.JumpJump, Chain: name}})
	}
	return one(netfilter.Expr{Op: netfilter.OpUnknown})
}

// setMark is MARK and CONNMARK: mark = mark & ^mask ^ value.
func setMark(name string, opts []option) (netfilter.Expr, bool) {
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
			return e, false
		}
	}
	if moved {
		e.Data, e.DataEnd = native32(ct), native32(nf)
	}
	return e, len(e.Data) == 4
}

// natTarget reads "--to-destination 10.0.0.1:6443"; of a range the first stands for all.
func natTarget(name string, opts []option) (*netfilter.NAT, bool) {
	n := &netfilter.NAT{Kind: strings.ToLower(name)}
	for _, o := range opts {
		switch o.key {
		case "to-destination", "to-source":
			if n.AddrMin.IsValid() || n.PortMin != 0 {
				return nil, false // several destinations, of old kernels
			}
			var ok bool
			if n.AddrMin, n.PortMin, ok = natAddr(o.val()); !ok {
				return nil, false
			}
		case "to-ports":
			p, _, _ := strings.Cut(o.val(), "-")
			n.PortMin = number[uint16](p)
		case "random", "random-fully", "persistent":
		default:
			return nil, false
		}
	}
	return n, true
}

// natAddr reads ADDR, ADDR-ADDR, ADDR:PORT, ADDR:PORT-PORT, [ADDR]:PORT and :PORT.
func natAddr(s string) (a netip.Addr, port uint16, ok bool) {
	addr, ports := s, ""
	switch {
	case strings.HasPrefix(s, "["):
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return a, 0, false
		}
		addr, ports = s[1:end], strings.TrimPrefix(s[end+1:], ":")
	case strings.Count(s, ":") == 1:
		addr, ports, _ = strings.Cut(s, ":")
	}
	addr, _, _ = strings.Cut(addr, "-")
	ports, _, _ = strings.Cut(ports, "-")
	if addr != "" {
		if a = parseIP(addr); !a.IsValid() {
			return a, 0, false
		}
	}
	return a, number[uint16](ports), addr != "" || ports != ""
}
