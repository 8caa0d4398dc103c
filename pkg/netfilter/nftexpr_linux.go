package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

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
	if err != nil {
		return nil, nil
	}
	return nil, &Jump{Code: jumpCodes[int32(v.u32(unix.NFTA_VERDICT_CODE))], Chain: v.str(unix.NFTA_VERDICT_CHAIN)} //nolint:gosec // signed on the wire
}

// jumpCodes are the verdicts of nf_tables.h and netfilter.h.
var jumpCodes = map[int32]JumpCode{
	0: JumpDrop, 1: JumpAccept, 3: JumpQueue, -1: JumpContinue, -2: JumpContinue, -3: JumpJump, -4: JumpGoto, -5: JumpReturn,
}

func (j *Jump) text() string {
	if j.Chain != "" {
		return string(j.Code) + " " + j.Chain
	}
	return string(j.Code)
}

var metaKeys = map[uint32]string{
	0: "len", 1: "protocol", 2: "priority", 3: "mark", 4: "iif", 5: "oif", 6: "iifname", 7: "oifname", 8: "iiftype",
	9: "oiftype", 10: "skuid", 11: "skgid", 12: "nftrace", 13: "rtclassid", 15: "nfproto", 16: "l4proto", 17: "ibrname",
	18: "obrname", 19: "pkttype", 20: "cpu", 21: "iifgroup", 22: "oifgroup",
}

var ctKeys = map[uint32]string{
	0: "state", 1: "direction", 2: "status", 3: "mark", 8: "src", 9: "dst", 10: "protocol", 11: "sport", 12: "dport",
	19: "src", 20: "dst", 21: "src", 22: "dst",
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
		e := Expr{Op: OpMeta, Key: key, Dreg: a.u32(unix.NFTA_META_DREG), Sreg: a.u32(unix.NFTA_META_SREG), Text: "meta " + key}
		if e.Sreg != 0 {
			e.Text += " set"
		}
		return e, nil
	case "payload":
		if a[unix.NFTA_PAYLOAD_SREG] != nil {
			return Expr{}, errNotKnown
		}
		e := Expr{
			Op: OpPayload, Dreg: a.u32(unix.NFTA_PAYLOAD_DREG), Base: a.u32(unix.NFTA_PAYLOAD_BASE),
			Offset: a.u32(unix.NFTA_PAYLOAD_OFFSET), Len: a.u32(unix.NFTA_PAYLOAD_LEN),
		}
		e.Text = payloadText(e)
		return e, nil
	case "cmp":
		v, _ := dataOf(a[unix.NFTA_CMP_DATA])
		op := a.u32(unix.NFTA_CMP_OP)
		return Expr{Op: OpCmp, Sreg: a.u32(unix.NFTA_CMP_SREG), Cmp: op, Data: v, Text: cmpText(op) + valueText(v)}, nil
	case "range":
		lo, _ := dataOf(a[3])
		hi, _ := dataOf(a[4])
		return Expr{Op: OpRange, Sreg: a.u32(1), Invert: a.u32(2) == 1, Data: lo, DataEnd: hi, Text: valueText(lo) + "-" + valueText(hi)}, nil
	case "bitwise":
		return bitwiseExpr(a)
	case "immediate":
		v, j := dataOf(a[unix.NFTA_IMMEDIATE_DATA])
		if j != nil {
			return Expr{Op: OpVerdict, Jump: j, Text: j.text()}, nil
		}
		return Expr{Op: OpImmediate, Dreg: a.u32(unix.NFTA_IMMEDIATE_DREG), Data: v, Text: valueText(v)}, nil
	case "lookup":
		e := Expr{
			Op: OpLookup, Set: a.str(unix.NFTA_LOOKUP_SET), Sreg: a.u32(unix.NFTA_LOOKUP_SREG), Dreg: a.u32(unix.NFTA_LOOKUP_DREG),
			Invert: a.u32(5)&1 != 0,
		}
		e.Text = bang(e.Invert) + "@" + e.Set
		return e, nil
	case "ct":
		return ctExpr(a)
	default:
		return decodeAction(name, a, fam)
	}
}

func bitwiseExpr(a attrs) (Expr, error) {
	if a.u32(6) != 0 {
		return Expr{}, errNotKnown // shifts
	}
	mask, _ := dataOf(a[unix.NFTA_BITWISE_MASK])
	xor, _ := dataOf(a[unix.NFTA_BITWISE_XOR])
	return Expr{
		Op: OpBitwise, Sreg: a.u32(unix.NFTA_BITWISE_SREG), Dreg: a.u32(unix.NFTA_BITWISE_DREG), Len: a.u32(unix.NFTA_BITWISE_LEN),
		Data: mask, DataEnd: xor, Text: "& " + valueText(mask),
	}, nil
}

func ctExpr(a attrs) (Expr, error) {
	key, ok := ctKeys[a.u32(unix.NFTA_CT_KEY)]
	if !ok {
		key = fmt.Sprintf("key %d", a.u32(unix.NFTA_CT_KEY))
	}
	e := Expr{Op: OpCT, Key: key, Dreg: a.u32(unix.NFTA_CT_DREG), Sreg: a.u32(unix.NFTA_CT_SREG), Text: "ct " + key}
	if d := a[unix.NFTA_CT_DIRECTION]; len(d) == 1 {
		e.Dir = int8(d[0]) + 1 //nolint:gosec // 0 or 1
	}
	return e, nil
}

// decodeAction reads the expressions that do something.
func decodeAction(name string, a attrs, fam Family) (Expr, error) {
	switch name {
	case "nat":
		n := &NAT{Kind: "snat", AddrReg: a.u32(unix.NFTA_NAT_REG_ADDR_MIN), ProtoReg: a.u32(unix.NFTA_NAT_REG_PROTO_MIN)}
		if a.u32(unix.NFTA_NAT_TYPE) == 1 {
			n.Kind = "dnat"
		}
		return Expr{Op: OpNAT, NAT: n, Text: n.Kind}, nil
	case "masq":
		return Expr{Op: OpNAT, NAT: &NAT{Kind: "masquerade", ProtoReg: a.u32(2)}, Text: "masquerade"}, nil
	case "redir":
		return Expr{Op: OpNAT, NAT: &NAT{Kind: "redirect", ProtoReg: a.u32(1)}, Text: "redirect"}, nil
	case "reject":
		return Expr{Op: OpReject, Text: "reject"}, nil
	case "notrack":
		return Expr{Op: OpNotrack, Text: "notrack"}, nil
	case "log", "dynset", "objref", "quota", "last":
		return Expr{Op: OpPass, Text: name}, nil
	case "limit":
		return Expr{Op: OpAssume, Text: "limit (taken as within)"}, nil
	case "queue":
		return Expr{Op: OpVerdict, Jump: &Jump{Code: JumpQueue}, Text: "queue"}, nil
	case "numgen":
		return Expr{Op: OpNumgen, Dreg: a.u32(1), Mod: a.u32(2), Offset: a.u32(4), Text: fmt.Sprintf("numgen mod %d", a.u32(2))}, nil
	case "hash":
		return Expr{Op: OpNumgen, Dreg: a.u32(2), Mod: a.u32(4), Offset: a.u32(6), Text: fmt.Sprintf("hash mod %d", a.u32(4))}, nil
	case "fib":
		results := map[uint32]string{1: "oif", 2: "oifname", 3: "type"}
		e := Expr{Op: OpFib, Dreg: a.u32(1), Key: results[a.u32(2)], Flags: a.u32(3)}
		e.Text = "fib " + e.Key
		const present = 1 << 5
		if e.Flags&present != 0 {
			return Expr{}, errNotKnown
		}
		return e, nil
	case "match":
		return decodeMatch(a.str(1), a.u32(2), a[3]), nil
	case "target":
		return decodeTarget(a.str(1), a.u32(2), a[3], fam == FamilyIPv6), nil
	default:
		return Expr{}, errNotKnown
	}
}

// payloadText names the header field that is read.
func payloadText(e Expr) string {
	names := map[[3]uint32]string{
		{baseNetwork, 12, 4}: "ip saddr", {baseNetwork, 16, 4}: "ip daddr", {baseNetwork, 9, 1}: "ip protocol",
		{baseNetwork, 8, 1}: "ip ttl", {baseNetwork, 8, 16}: "ip6 saddr", {baseNetwork, 24, 16}: "ip6 daddr",
		{baseTransport, 0, 2}: "sport", {baseTransport, 2, 2}: "dport", {baseTransport, 0, 1}: "icmp type",
		{baseTransport, 13, 1}: "tcp flags", {baseLink, 0, 6}: "ether daddr", {baseLink, 6, 6}: "ether saddr", {baseLink, 12, 2}: "ether type",
	}
	if n, ok := names[[3]uint32{e.Base, e.Offset, e.Len}]; ok {
		return n
	}
	return fmt.Sprintf("@%d,%d,%d", e.Base, e.Offset*8, e.Len*8)
}

func cmpText(op uint32) string {
	words := [...]string{"", "!= ", "< ", "<= ", "> ", ">= "}
	if int(op) < len(words) {
		return words[op]
	}
	return "? "
}

// valueText prints a value as what its length suggests: names, addresses, numbers.
func valueText(v []byte) string {
	switch len(v) {
	case 1:
		return fmt.Sprint(v[0])
	case 2:
		return fmt.Sprint(binary.BigEndian.Uint16(v))
	case 4:
		if v[0] == 0 || v[3] == 0 && v[1] == 0 && v[2] == 0 || v[3] == 0 && v[2] == 0 {
			return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(v))
		}
		a, _ := netip.AddrFromSlice(v)
		return a.String()
	case 16:
		n := 0
		for n < 16 && v[n] >= 0x20 && v[n] < 0x7f {
			n++
		}
		if n > 1 && (n == 16 || v[n] == 0) {
			return fmt.Sprintf("%q", v[:n])
		}
		a, _ := netip.AddrFromSlice(v)
		return a.String()
	default:
		if len(v) > 1 && v[0] >= 0x20 && v[0] < 0x7f {
			return fmt.Sprintf("%q*", v)
		}
		return fmt.Sprintf("%#x", v)
	}
}
