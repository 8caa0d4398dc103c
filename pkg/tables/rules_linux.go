package tables

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const sizeofFibRuleHdr = 12 // struct fib_rule_hdr of linux/fib_rules.h

// Attributes of rules that golang.org/x/sys/unix does not have (linux/fib_rules.h).
const (
	fraSportMask = 28
	fraDportMask = 29
)

// parseRule reads a policy rule.
func parseRule(b []byte) (Rule, bool) {
	if len(b) < sizeofFibRuleHdr {
		return Rule{}, false
	}
	r := Rule{
		Family: b[0], TOS: b[3], Table: uint32(b[4]), Action: ruleAction(b[7]),
		Invert: u32(b[8:])&unix.FIB_RULE_INVERT != 0, SuppressPrefixLen: -1, SuppressIfGroup: -1,
	}
	var unknown []string
	for t, v := range attrs(b[sizeofFibRuleHdr:]) {
		switch t {
		case unix.FRA_DST:
			r.Dst = prefix(r.Family, v, b[1])
		case unix.FRA_SRC:
			r.Src = prefix(r.Family, v, b[2])
		default:
			if !parseRuleSelector(&r, t, v) && !parseRuleAction(&r, t, v) {
				unknown = append(unknown, unknownRuleAttr(t, v))
			}
		}
	}
	r.Unknown = strings.Join(unknown, " ")
	return r, true
}

func parseRuleSelector(r *Rule, t uint16, v []byte) bool {
	switch t {
	case unix.FRA_IIFNAME:
		r.IIF = text(v)
	case unix.FRA_OIFNAME:
		r.OIF = text(v)
	case unix.FRA_FWMARK:
		r.Mark = u32(v)
	case unix.FRA_FWMASK:
		r.Mask = u32(v)
	case unix.FRA_TUN_ID: // big-endian, the one such attribute here
		for _, c := range v {
			r.TunID = r.TunID<<8 | uint64(c)
		}
	case unix.FRA_L3MDEV:
		r.L3MDev = flag(v)
	case unix.FRA_UID_RANGE:
		if u := (UIDRange{u32(v), u32(after(v, 4))}); u.Lo != 0 || u.Hi != ^uint32(0) {
			r.UIDRange = &u
		}
	case unix.FRA_IP_PROTO:
		r.IPProto = u8(v)
	case unix.FRA_SPORT_RANGE:
		r.SPort = &PortRange{u16(v), u16(after(v, 2))}
	case unix.FRA_DPORT_RANGE:
		r.DPort = &PortRange{u16(v), u16(after(v, 2))}
	case fraSportMask, fraDportMask: // all ones: the port as it stands
		return u16(v) == 0xffff
	default:
		return false
	}
	return true
}

func parseRuleAction(r *Rule, t uint16, v []byte) bool {
	switch t {
	case unix.FRA_PRIORITY:
		r.Priority = u32(v)
	case unix.FRA_TABLE:
		r.Table = u32(v)
	case unix.FRA_GOTO:
		r.Goto = u32(v)
	case unix.FRA_PROTOCOL:
		r.Protocol = u8(v)
	case unix.FRA_SUPPRESS_PREFIXLEN:
		r.SuppressPrefixLen = int(int32(u32(v)))
	case unix.FRA_SUPPRESS_IFGROUP:
		r.SuppressIfGroup = int(int32(u32(v)))
	case unix.FRA_FLOW, unix.FRA_PAD: // FRA_FLOW sets a realm for statistics and selects nothing
	default:
		return false
	}
	return true
}

// unknownRuleAttr shows an attribute that the model has no field for, by its name where there is one.
func unknownRuleAttr(t uint16, v []byte) string {
	names := map[uint16]string{
		25: "dscp", 26: "flowlabel", 27: "flowlabel_mask", fraSportMask: "sport_mask", fraDportMask: "dport_mask",
		30: "dscp_mask",
	}
	name, ok := names[t]
	if !ok {
		name = fmt.Sprintf("attr-%d", t)
	}
	return fmt.Sprintf("%s %#x", name, v)
}

// ruleAction is FR_ACT_* of linux/fib_rules.h.
func ruleAction(a uint8) RuleAction {
	switch a {
	case unix.FR_ACT_TO_TBL:
		return RuleTable
	case unix.FR_ACT_GOTO:
		return RuleGoto
	case unix.FR_ACT_NOP:
		return RuleNop
	case unix.FR_ACT_BLACKHOLE:
		return RuleBlackhole
	case unix.FR_ACT_UNREACHABLE:
		return RuleUnreachable
	case unix.FR_ACT_PROHIBIT:
		return RuleProhibit
	default:
		return RuleAction(fmt.Sprintf("action-%d", a))
	}
}
