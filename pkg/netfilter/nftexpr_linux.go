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
