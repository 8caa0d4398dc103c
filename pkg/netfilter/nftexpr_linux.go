package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var errNotKnown = errors.New("not known")

// attrs are the attributes of one expression by type.
type attrs map[uint16][]byte

func readAttrs(b []byte) (attrs, error) {
	out := make(attrs)
	ad, err := decoder(b)
	if err != nil {
		return nil, err
	}
	for ad.Next() {
		out[ad.Type()] = ad.Bytes()
	}
	return out, ad.Err()
}

// u32 reads a big-endian number; absent ones are 0.
func (a attrs) u32(t uint16) uint32 {
	if len(a[t]) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a[t])
}

// u64 reads a big-endian number of eight bytes; absent ones are 0.
func (a attrs) u64(t uint16) uint64 {
	if len(a[t]) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(a[t])
}

func (a attrs) str(t uint16) string {
	b := a[t]
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// dataOf reads a nested NFTA_DATA_*: a value or a verdict.
func dataOf(b []byte) ([]byte, *Jump) {
	a, err := readAttrs(b)
	if err != nil {
		return nil, nil
	}
	if v, ok := a[unix.NFTA_DATA_VALUE]; ok {
		return v, nil
	}
	v, err := readAttrs(a[unix.NFTA_DATA_VERDICT])
	if err != nil || len(v) == 0 {
		return nil, nil
	}
	code, ok := jumpCodes[int32(v.u32(unix.NFTA_VERDICT_CODE))] //nolint:gosec // signed on the wire
	if !ok {
		code = JumpUnknown
	}
	return nil, &Jump{Code: code, Chain: v.str(unix.NFTA_VERDICT_CHAIN)}
}

// jumpCodes are the verdicts of nf_tables.h and netfilter.h.
var jumpCodes = map[int32]JumpCode{
	0: JumpDrop, 1: JumpAccept, 2: JumpStolen, 3: JumpQueue, -1: JumpContinue, -2: JumpContinue, -3: JumpJump, -4: JumpGoto, -5: JumpReturn,
}

var metaKeys = map[uint32]string{
	0: "len", 1: "protocol", 2: "priority", 3: "mark", 4: "iif", 5: "oif", 6: "iifname", 7: "oifname", 8: "iiftype",
	9: "oiftype", 10: "skuid", 11: "skgid", 12: "nftrace", 13: "rtclassid", 14: "secmark", 15: "nfproto", 16: "l4proto", 17: "ibrname",
	18: "obrname", 19: "pkttype", 20: "cpu", 21: "iifgroup", 22: "oifgroup", 23: "cgroup", 24: "random", 25: "ipsec", 26: "iifkind",
	27: "oifkind", 28: "ibrpvid", 29: "ibrvproto", 30: "time", 31: "day", 32: "hour", 33: "sdif", 34: "sdifname", 35: "broute",
}

var ctKeys = map[uint32]string{
	0: "state", 1: "direction", 2: "status", 3: "mark", 5: "expiration", 6: "helper", 7: "l3proto", 8: "src", 9: "dst", 10: "protocol",
	11: "sport", 12: "dport", 13: "label", 14: "packets", 15: "bytes", 16: "avgpkt", 17: "zone", 18: "event", 19: "src", 20: "dst",
	21: "src", 22: "dst", 23: "id",
}

// decodeExpr reads one expression of nf_tables.
func decodeExpr(name string, b []byte, fam Family) (Expr, error) {
	a, err := readAttrs(b)
	if err != nil {
		return Expr{}, err
	}
	switch name {
	case "meta":
		key, ok := metaKeys[a.u32(unix.NFTA_META_KEY)]
		if !ok {
			key = fmt.Sprintf("key %d", a.u32(unix.NFTA_META_KEY))
		}
		return Expr{Op: OpMeta, Key: key, Dreg: a.u32(unix.NFTA_META_DREG), Sreg: a.u32(unix.NFTA_META_SREG)}, nil
	case "payload":
		e := Expr{
			Op: OpPayload, Dreg: a.u32(unix.NFTA_PAYLOAD_DREG), Sreg: a.u32(unix.NFTA_PAYLOAD_SREG), Base: a.u32(unix.NFTA_PAYLOAD_BASE),
			Offset: a.u32(unix.NFTA_PAYLOAD_OFFSET), Len: a.u32(unix.NFTA_PAYLOAD_LEN),
		}
		if e.Sreg != 0 {
			e.Op = OpWrite
		}
		if e.Len > maxValue || e.Offset > 1<<16 {
			return Expr{}, errNotKnown
		}
		return e, nil
	case "cmp":
		v, _ := dataOf(a[unix.NFTA_CMP_DATA])
		return Expr{Op: OpCmp, Sreg: a.u32(unix.NFTA_CMP_SREG), Cmp: a.u32(unix.NFTA_CMP_OP), Data: v}, nil
	case "range":
		lo, _ := dataOf(a[3])
		hi, _ := dataOf(a[4])
		return Expr{Op: OpRange, Sreg: a.u32(1), Invert: a.u32(2) == 1, Data: lo, DataEnd: hi}, nil
	case "bitwise":
		return bitwiseExpr(a)
	case "byteorder":
		return Expr{Op: OpByteorder, Sreg: a.u32(1), Dreg: a.u32(2), Len: a.u32(4), Mod: a.u32(5)}, nil
	case "immediate":
		v, j := dataOf(a[unix.NFTA_IMMEDIATE_DATA])
		if j != nil {
			return Expr{Op: OpVerdict, Jump: j}, nil
		}
		return Expr{Op: OpImmediate, Dreg: a.u32(unix.NFTA_IMMEDIATE_DREG), Data: v}, nil
	case "lookup":
		return Expr{
			Op: OpLookup, Set: a.str(unix.NFTA_LOOKUP_SET), Sreg: a.u32(unix.NFTA_LOOKUP_SREG), Dreg: a.u32(unix.NFTA_LOOKUP_DREG),
			Invert: a.u32(5)&1 != 0,
		}, nil
	case "ct":
		return ctExpr(a), nil
	default:
		return decodeStateful(name, a, fam)
	}
}

// maxValue is what the registers hold.
const maxValue = 64

func bitwiseExpr(a attrs) (Expr, error) {
	e := Expr{Op: OpBitwise, Sreg: a.u32(unix.NFTA_BITWISE_SREG), Dreg: a.u32(unix.NFTA_BITWISE_DREG), Len: a.u32(unix.NFTA_BITWISE_LEN)}
	operand, _ := dataOf(a[7])
	switch op := a.u32(6); op {
	case 0:
		e.Data, _ = dataOf(a[unix.NFTA_BITWISE_MASK])
		e.DataEnd, _ = dataOf(a[unix.NFTA_BITWISE_XOR])
	case 1, 2:
		if len(operand) != 4 {
			return Expr{}, errNotKnown
		}
		e.Op, e.Mod, e.Invert = OpShift, binary.NativeEndian.Uint32(operand), op == 2
	case 3, 4, 5:
		e.Op, e.Key, e.Data, e.Sreg2 = OpBool, [...]string{"and", "or", "xor"}[op-3], operand, a.u32(8)
	default:
		return Expr{}, errNotKnown
	}
	return e, nil
}

// ctExpr reads ct; Data is the family that src and dst of one family ask for.
func ctExpr(a attrs) Expr {
	num := a.u32(unix.NFTA_CT_KEY)
	key, ok := ctKeys[num]
	if !ok {
		key = fmt.Sprintf("key %d", num)
	}
	e := Expr{Op: OpCT, Key: key, Dreg: a.u32(unix.NFTA_CT_DREG), Sreg: a.u32(unix.NFTA_CT_SREG)}
	switch num {
	case 19, 20:
		e.Data = []byte{byte(FamilyIPv4)}
	case 21, 22:
		e.Data = []byte{byte(FamilyIPv6)}
	}
	if d := a[unix.NFTA_CT_DIRECTION]; len(d) == 1 {
		e.Dir = int8(d[0]) + 1 //nolint:gosec // 0 or 1
	}
	return e
}

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

func offsetText(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" offset %d", n)
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
