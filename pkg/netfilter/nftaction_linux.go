package netfilter

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// decodeStateful reads the expressions that ask for more than the packet.
func decodeStateful(name string, a attrs, fam Family) (Expr, error) {
	switch name {
	case "limit":
		return limitExpr(a), nil
	case "connlimit":
		inv := a.u32(2)&1 != 0
		return Expr{Op: OpLimit, Key: needsCT, Invert: inv, Text: "ct count " + over(inv) + fmt.Sprint(a.u32(1))}, nil
	case "quota":
		inv := a.u32(2)&1 != 0
		return Expr{Op: OpQuota, Quota: a.u64(1), Used: a.u64(4), Invert: inv, Text: fmt.Sprintf("quota %s%d bytes", over(inv), a.u64(1))}, nil
	case "numgen":
		kind := [...]string{"inc", "random"}[a.u32(3)&1]
		return Expr{Op: OpNumgen, Dreg: a.u32(1), Mod: a.u32(2), Offset: a.u32(4), Text: fmt.Sprintf("numgen %s mod %d", kind, a.u32(2)) + offsetText(a.u32(4))}, nil
	case "hash":
		e := Expr{Op: OpHash, Sreg: a.u32(1), Dreg: a.u32(2), Len: a.u32(3), Mod: a.u32(4), Seed: a.u32(5), Offset: a.u32(6)}
		if a.u32(7) == 1 {
			e.Op, e.Text = OpNumgen, fmt.Sprintf("symhash mod %d", e.Mod)
		} else if _, ok := a[5]; ok {
			e.Flags = 1 // the seed is the rule's
		}
		return e, nil
	case "fib":
		results := map[uint32]string{1: "oif", 2: "oifname", 3: "type"}
		return Expr{Op: OpFib, Dreg: a.u32(1), Key: results[a.u32(2)], Flags: a.u32(3)}, nil
	case "exthdr":
		return exthdrExpr(a), nil
	case "rt":
		return Expr{Op: OpLoad, Dreg: a.u32(1), Text: "rt " + map[uint32]string{0: "classid", 1: "nexthop", 2: "nexthop", 3: "mtu", 4: "ipsec"}[a.u32(2)]}, nil
	case "socket":
		return Expr{Op: OpLoad, Dreg: a.u32(2), Text: "socket " + map[uint32]string{0: "transparent", 1: "mark", 2: "wildcard", 3: "cgroupv2"}[a.u32(1)]}, nil
	case "osf":
		return Expr{Op: OpLoad, Dreg: a.u32(1), Text: "osf name"}, nil
	case "xfrm", "tunnel":
		return Expr{Op: OpLoad, Dreg: max(a.u32(1), a.u32(2)), Text: name}, nil
	case "dynset":
		return dynsetExpr(a, fam)
	case "objref":
		return Expr{Op: OpObjref, Object: a.str(2), Sreg: a.u32(3), Set: a.str(4), Flags: a.u32(1)}, nil
	default:
		return decodeAction(name, a, fam)
	}
}

func over(inv bool) string {
	if inv {
		return "over "
	}
	return ""
}

func limitExpr(a attrs) Expr {
	units := map[uint64]string{1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}
	inv := a.u32(5)&1 != 0
	what := ""
	if a.u32(4) == 1 {
		what = " bytes"
	}
	text := fmt.Sprintf("limit rate %s%d%s/%s", over(inv), a.u64(1), what, units[a.u64(2)])
	if burst := a.u32(3); burst != 0 {
		text += fmt.Sprintf(" burst %d", burst)
		if what == "" {
			what = " packets"
		}
		text += what
	}
	return Expr{Op: OpLimit, Invert: inv, Text: text}
}

// exthdrExpr reads an option, writes one (which nothing here looks at), or strips it.
func exthdrExpr(a attrs) Expr {
	kind := map[uint32]string{0: "exthdr", 1: "tcp option", 2: "ip option", 3: "sctp chunk", 4: "dccp option"}[a.u32(6)]
	var typ uint8
	if len(a[2]) == 1 {
		typ = a[2][0]
	}
	e := Expr{Op: OpExthdr, Key: kind, Dreg: a.u32(1), Offset: a.u32(3), Len: a.u32(4), Flags: a.u32(5), Text: fmt.Sprintf("%s %d", kind, typ)}
	if kind == "tcp option" && typ == 2 {
		e.Text = "tcp option maxseg size"
	}
	if e.Dreg == 0 {
		e.Op = OpPass
		e.Sreg = a.u32(7)
	}
	return e
}

func dynsetExpr(a attrs, fam Family) (Expr, error) {
	e := Expr{Op: OpDynset, Set: a.str(1), Sreg: a.u32(4), Sreg2: a.u32(5), Invert: a.u32(9)&1 != 0, Key: map[uint32]string{0: "add", 1: "update", 2: "delete"}[a.u32(3)]}
	var nested [][]byte
	if b, ok := a[7]; ok {
		nested = append(nested, b)
	}
	if b, ok := a[10]; ok {
		list, err := decoder(b)
		if err != nil {
			return Expr{}, err
		}
		for list.Next() {
			nested = append(nested, list.Bytes())
		}
	}
	for _, b := range nested {
		x, err := readAttrs(b)
		if err != nil {
			return Expr{}, err
		}
		sub, err := decodeExpr(x.str(unix.NFTA_EXPR_NAME), x[unix.NFTA_EXPR_DATA], fam)
		if err != nil {
			return Expr{}, err
		}
		e.Sub = append(e.Sub, sub)
	}
	return e, nil
}

// decodeAction reads the expressions that do something.
func decodeAction(name string, a attrs, fam Family) (Expr, error) {
	switch name {
	case "nat", "masq", "redir":
		return natExpr(name, a), nil
	case "reject":
		return rejectExpr(a, fam), nil
	case "notrack":
		return Expr{Op: OpNotrack, Text: "notrack"}, nil
	case "counter", "last":
		return Expr{Op: OpPass, Text: name}, nil
	case "log":
		return logExpr(a), nil
	case "dup":
		return Expr{Op: OpPass, Text: "dup"}, nil
	case "flow_offload":
		return Expr{Op: OpPass, Text: "flow add @" + a.str(1)}, nil
	case "fwd":
		return Expr{Op: OpVerdict, Jump: &Jump{Code: JumpStolen}, Text: "fwd"}, nil
	case "queue":
		return Expr{Op: OpVerdict, Jump: &Jump{Code: JumpQueue}, Text: "queue"}, nil
	case "match":
		return decodeMatch(a.str(1), a.u32(2), a[3], fam == FamilyIPv6), nil
	case "target":
		return decodeTarget(a.str(1), a.u32(2), a[3], fam == FamilyIPv6), nil
	default:
		return Expr{}, errNotKnown
	}
}

func logExpr(a attrs) Expr {
	e := Expr{Op: OpPass, Text: "log"}
	if p := a.str(2); p != "" {
		e.Text += fmt.Sprintf(" prefix %q", p)
	}
	if g := a[1]; len(g) == 2 {
		e.Text += fmt.Sprintf(" group %d", binary.BigEndian.Uint16(g))
	}
	return e
}

func natExpr(name string, a attrs) Expr {
	n := &NAT{Kind: "snat"}
	var flags uint32
	switch name {
	case "nat":
		if a.u32(1) == 1 {
			n.Kind = "dnat"
		}
		n.Family = Family(a.u32(2)) //nolint:gosec // a byte
		n.AddrReg, n.AddrMaxReg, n.ProtoReg, n.ProtoMaxReg, flags = a.u32(3), a.u32(4), a.u32(5), a.u32(6), a.u32(7)
	case "masq":
		n.Kind, flags, n.ProtoReg, n.ProtoMaxReg = "masquerade", a.u32(1), a.u32(2), a.u32(3)
	default:
		n.Kind, n.ProtoReg, n.ProtoMaxReg, flags = "redirect", a.u32(1), a.u32(2), a.u32(3)
	}
	n.Random, n.Persistent, n.Netmap = flags&(natRandom|natRandomFully) != 0, flags&natPersistent != 0, flags&natNetmap != 0
	return Expr{Op: OpNAT, NAT: n, Flags: flags}
}

// rejectExpr reads type and code: ICMP of the table's family, a TCP reset, or icmpx.
func rejectExpr(a attrs, fam Family) Expr {
	var code uint8
	if len(a[2]) == 1 {
		code = a[2][0]
	}
	e := Expr{Op: OpReject}
	switch typ := a.u32(1); {
	case typ == 1:
		e.Answer = &Rejection{Reset: true}
	case typ == 2:
		e.Answer = &Rejection{Type: anyICMP, Code: code}
	case fam == FamilyIPv6:
		e.Answer = &Rejection{Type: 1, Code: code}
	case fam == FamilyIPv4:
		e.Answer = &Rejection{Type: 3, Code: code}
	default:
		e.Answer = &Rejection{Type: familyICMP, Code: code}
	}
	return e
}
