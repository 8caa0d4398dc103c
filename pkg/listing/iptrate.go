package listing

import (
	"bytes"
	"math"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// Matches that ask for more than the packet's headers: rates, sets, lists and sockets.

func just(e netfilter.Expr) []netfilter.Expr { return []netfilter.Expr{e} }

// hashlimitMatch matches up to the rate, or above it.
func hashlimitMatch(opts []option) []netfilter.Expr {
	e := netfilter.Expr{Op: netfilter.OpLimit}
	for _, o := range opts {
		e.Invert = e.Invert || o.key == "hashlimit-above"
	}
	return just(e)
}

func connlimitMatch(opts []option) []netfilter.Expr {
	for _, o := range opts {
		if o.key == "connlimit-above" || o.key == "connlimit-upto" {
			return just(netfilter.Expr{Op: netfilter.OpLimit, Key: needsCT, Invert: o.not != (o.key == "connlimit-above")})
		}
	}
	return nil
}

func quotaMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 || opts[0].key != "quota" {
		return nil
	}
	return just(netfilter.Expr{Op: netfilter.OpLimit, Invert: opts[0].not})
}

// statisticMatch: a probability is a part of 2^31, "every" counts from 0.
func statisticMatch(opts []option) []netfilter.Expr {
	e := netfilter.Expr{Op: netfilter.OpStatistic}
	for _, o := range opts {
		switch o.key {
		case "mode":
			e.Key = o.val()
		case "probability":
			p, ok := fraction(o.val())
			if !ok {
				return nil
			}
			e.Mod, e.Invert = uint32(math.Round(p*(1<<31))), o.not
		case "every":
			n := number[uint32](o.val())
			if n == 0 {
				return nil
			}
			e.Mod, e.Invert = n-1, o.not
		case "packet":
		default:
			return nil
		}
	}
	if e.Key != "random" && e.Key != "nth" {
		return nil
	}
	return just(e)
}

// setMatch names its set, whose index the ruleset gives it: see joinSets. The directions are bits from 1 on,
// bit 0 inverts.
func setMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 || opts[0].key != "match-set" || len(opts[0].vals) != 2 {
		return nil // what asks for counters, or for nomatch
	}
	e := netfilter.Expr{Op: netfilter.OpSet, Set: opts[0].vals[0], Invert: opts[0].not, Flags: uint32(flagByte(opts[0].not, 1))}
	for dir := range strings.SplitSeq(opts[0].vals[1], ",") {
		switch dir {
		case "src":
			e.Flags |= 2 << e.Len
		case "dst":
		default:
			return nil
		}
		if e.Len++; e.Len > 6 { // IPSET_DIM_MAX
			return nil
		}
	}
	return just(e)
}

// recentMatch: the operations are bits of XT_RECENT_*.
func recentMatch(opts []option) []netfilter.Expr {
	bits := map[string]uint32{"rcheck": 1, "set": 2, "update": 4, "remove": 8, "rttl": 16, "reap": 32}
	e := netfilter.Expr{Op: netfilter.OpRecent, Set: "DEFAULT", Key: "src"}
	for _, o := range opts {
		e.Invert = e.Invert || o.not
		switch o.key {
		case "rcheck", "set", "update", "remove", "rttl", "reap":
			e.Flags |= bits[o.key]
		case "seconds":
			e.Mod = number[uint32](o.val())
		case "hitcount":
			e.Len = number[uint32](o.val())
		case "name":
			e.Set = o.val()
		case "mask":
			mask := parseIP(o.val())
			if !mask.IsValid() {
				return nil
			}
			if b := mask.AsSlice(); bytes.Count(b, []byte{0xff}) < len(b) {
				e.Data = b
			}
		case "rsource":
		case "rdest":
			e.Key = "dst"
		default:
			return nil
		}
	}
	return just(e)
}

// ownerMatch: Mod has what is asked (XT_OWNER_*), Flags what of it is inverted.
func ownerMatch(opts []option) []netfilter.Expr {
	bits := map[string]byte{"uid-owner": 1, "gid-owner": 2, "socket-exists": 4, "suppl-groups": 8}
	e := netfilter.Expr{Op: netfilter.OpOwner}
	for _, o := range opts {
		bit, ok := bits[o.key]
		if !ok {
			return nil
		}
		e.Mod |= uint32(bit)
		e.Flags |= uint32(flagByte(o.not, bit))
	}
	if e.Mod == 0 {
		return nil
	}
	return just(e)
}

// pkttypeMatch: the values are PACKET_*.
func pkttypeMatch(opts []option) []netfilter.Expr {
	types := map[string]uint32{"unicast": 0, "broadcast": 1, "multicast": 2, "otherhost": 3}
	if len(opts) != 1 || opts[0].key != "pkt-type" {
		return nil
	}
	typ, ok := types[opts[0].val()]
	if !ok {
		return nil
	}
	return just(netfilter.Expr{Op: netfilter.OpPkttype, Mod: typ, Invert: opts[0].not})
}

// dscpMask are the bits of the TOS byte that are the DSCP.
const dscpMask = 0xfc

func dscpMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 || opts[0].key != "dscp" || !isNumber(opts[0].val()) {
		return nil
	}
	return just(netfilter.Expr{Op: netfilter.OpTOS, Flags: dscpMask, Mod: uint32(number[uint8](opts[0].val())) << 2 & dscpMask, Invert: opts[0].not})
}

func tosMatch(opts []option) []netfilter.Expr {
	if len(opts) != 1 || opts[0].key != "tos" {
		return nil
	}
	v, mask, ok := tosValue(opts[0].val())
	if !ok {
		return nil
	}
	return just(netfilter.Expr{Op: netfilter.OpTOS, Flags: mask, Mod: v, Invert: opts[0].not})
}

// tosValue reads VALUE or VALUE/MASK of eight bits.
func tosValue(s string) (v, mask uint32, ok bool) {
	a, b, masked := strings.Cut(s, "/")
	if !masked {
		b = "0xff"
	}
	return uint32(number[uint8](a)), uint32(number[uint8](b)), isNumber(a) && isNumber(b)
}
