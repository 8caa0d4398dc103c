package netfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strings"
)

// Flags of xt_conntrack (XT_CONNTRACK_*); those of addresses and ports follow each other.
const (
	xtctState     = 1 << 0
	xtctProto     = 1 << 1
	xtctAddr      = 1 << 2 // source, destination; of the reply
	xtctStatus    = 1 << 6
	xtctExpires   = 1 << 7
	xtctPort      = 1 << 8 // likewise
	xtctDirection = 1 << 12
	xtctAlias     = 1 << 13
)

// xtConntrack reads struct xt_conntrack_mtinfo1 to 3.
func xtConntrack(x xtInfo, b []byte) (Expr, bool) {
	if x.rev < 1 || x.rev > 3 || len(b) < 154 || x.rev == 3 && len(b) < 162 {
		return Expr{}, false
	}
	flags, inv := uint32(u16(b, 146)), uint32(u16(b, 148))
	state, status := uint32(u16(b, 150)), uint32(u16(b, 152))
	if x.rev == 1 {
		state, status = uint32(b[150]), uint32(b[151])
	}
	e := Expr{Op: OpState, Data: []byte{byte(inv & xtctState), byte(inv & xtctStatus), byte(inv & xtctDirection >> 12)}, Text: "-m conntrack"}
	if flags&xtctState != 0 {
		e.Flags = state
		e.Text += " " + bang(e.Data[0] != 0) + "--ctstate " + stateNames(state)
	}
	if flags&^(xtctState|xtctStatus|xtctDirection|xtctAlias) != 0 && !e.trackOf(x, b, flags, inv) {
		return Expr{}, false
	}
	if flags&xtctStatus != 0 {
		e.Mod = status
		e.Text += " " + bang(e.Data[1] != 0) + "--ctstatus " + bitNames(status, []bitName{{1, "EXPECTED"}, {2, "SEEN_REPLY"}, {4, "ASSURED"}, {8, "CONFIRMED"}})
	}
	if flags&xtctDirection != 0 {
		e.Dir = 1 // the original one; the inversion is REPLY
		e.Text += " --ctdir " + [...]string{"ORIGINAL", "REPLY"}[min(e.Data[2], 1)]
	}
	return e, true
}

// trackOf reads protocol, addresses, ports and the remaining time.
func (e *Expr) trackOf(x xtInfo, b []byte, flags, inv uint32) bool {
	names := [...]string{"--ctorigsrc", "--ctorigdst", "--ctreplsrc", "--ctrepldst"}
	m := &ConnMatch{Expires: flags&xtctExpires != 0}
	if flags&xtctProto != 0 {
		m.Proto, m.NotProto = uint8(u16(b, 136)), inv&xtctProto != 0 //nolint:gosec // one byte of the two is used
		e.Text += " " + bang(m.NotProto) + fmt.Sprintf("--ctproto %d", m.Proto)
	}
	size := 4
	if x.v6 {
		size = 16
	}
	for i := range names {
		bit := uint32(1) << i
		if flags&(xtctAddr*bit) != 0 {
			p, ok := prefixOf(b[32*i:32*i+size], b[32*i+16:32*i+16+size])
			if !ok {
				return false
			}
			m.Addrs[i], m.NotAddrs[i] = &p, inv&(xtctAddr*bit) != 0
			e.Text += " " + bang(m.NotAddrs[i]) + names[i] + " " + p.String()
		}
		if flags&(xtctPort*bit) != 0 {
			lo := binary.BigEndian.Uint16(b[138+2*i:])
			hi := lo
			if x.rev == 3 {
				lo, hi = u16(b, 138+2*i), u16(b, 154+2*i)
			}
			m.Ports[i], m.NotPorts[i] = &[2]uint16{lo, hi}, inv&(xtctPort*bit) != 0
			e.Text += " " + bang(m.NotPorts[i]) + names[i] + "port " + portsText([][2]uint16{{lo, hi}})
		}
	}
	if m.Expires {
		e.Text += fmt.Sprintf(" --ctexpire %d:%d", u32(b, 128), u32(b, 132))
	}
	e.Track = m
	return true
}

func stateNames(mask uint32) string {
	return bitNames(mask, []bitName{{1, "INVALID"}, {8, "NEW"}, {4, "RELATED"}, {2, "ESTABLISHED"}, {ctUntracked, "UNTRACKED"}, {ctSNAT, "SNAT"}, {ctDNAT, "DNAT"}})
}

func xtState(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 4 {
		return Expr{}, false
	}
	mask := u32(b, 0)
	if mask&(1<<6) != 0 { // XT_STATE_UNTRACKED
		mask = mask&^(1<<6) | ctUntracked
	}
	return Expr{Op: OpState, Flags: mask, Data: []byte{0, 0, 0}, Text: "-m state --state " + stateNames(mask)}, true
}

// masked turns a device name and its mask into a pattern with a trailing + for a prefix: the mask covers
// the end of the string of an exact name.
func masked(name, mask []byte) string {
	n, _, _ := bytes.Cut(name, []byte{0})
	covered := 0
	for covered < len(mask) && mask[covered] == 0xff {
		covered++
	}
	switch {
	case covered == 0 && len(bytes.TrimSuffix(n, []byte("+"))) == 0:
		return ""
	case covered <= len(n) && covered < len(mask):
		return string(n[:covered]) + "+"
	}
	return string(n)
}

func xtPhysdev(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 66 {
		return Expr{}, false
	}
	inv, ask := b[64], uint32(b[65])
	m := &Match{NotIn: inv&physIn != 0, NotOut: inv&physOut != 0}
	text := "-m physdev"
	if ask&physIn != 0 {
		m.In = masked(b[:16], b[16:32])
		text += " " + bang(m.NotIn) + "--physdev-in " + m.In
	}
	if ask&physOut != 0 {
		m.Out = masked(b[32:48], b[48:64])
		text += " " + bang(m.NotOut) + "--physdev-out " + m.Out
	}
	words := []string{text}
	for _, f := range []bitName{{physIsIn, "--physdev-is-in"}, {physIsOut, "--physdev-is-out"}, {physBridged, "--physdev-is-bridged"}} {
		if ask&f.bit != 0 {
			words = append(words, bang(uint32(inv)&f.bit != 0)+f.name)
		}
	}
	return Expr{Op: OpPhysdev, Tuple: m, Flags: ask, Data: []byte{inv}, Text: strings.Join(words, " ")}, true
}

func xtMAC(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 12 {
		return Expr{}, false
	}
	inv := u32(b, 8) != 0
	return Expr{Op: OpMAC, Data: bytes.Clone(b[:6]), Invert: inv, Text: fmt.Sprintf("-m mac %s--mac-source %02x:%02x:%02x:%02x:%02x:%02x", bang(inv), b[0], b[1], b[2], b[3], b[4], b[5])}, true
}

// xtIPRange reads one side; a rule that asks for both is not known.
func xtIPRange(x xtInfo, b []byte) (Expr, bool) {
	if x.rev != 1 || len(b) < 65 {
		return Expr{}, false
	}
	flags, at, key, inv := b[64], 0, "src", byte(1<<4)
	switch flags & 3 {
	case 1:
	case 2:
		at, key, inv = 32, "dst", 1<<5
	default:
		return Expr{}, false
	}
	size := 4
	if x.v6 {
		size = 16
	}
	lo, hi := b[at:at+size], b[at+16:at+16+size]
	return Expr{Op: OpIPRange, Key: key, Data: bytes.Clone(lo), DataEnd: bytes.Clone(hi), Invert: flags&inv != 0,
		Text: fmt.Sprintf("-m iprange %s--%s-range %s-%s", bang(flags&inv != 0), key, addrOf(lo), addrOf(hi))}, true
}

func xtLength(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 5 {
		return Expr{}, false
	}
	lo, hi := u16(b, 0), u16(b, 2)
	return Expr{Op: OpLength, Offset: uint32(lo), Len: uint32(hi), Invert: b[4] != 0,
		Text: fmt.Sprintf("-m length %s--length %s", bang(b[4] != 0), portsText([][2]uint16{{lo, hi}}))}, true
}

func xtTTL(x xtInfo, b []byte) (Expr, bool) {
	if len(b) < 2 || b[0] > 3 {
		return Expr{}, false
	}
	words := [...]string{"--%s-eq", "! --%s-eq", "--%s-lt", "--%s-gt"}
	return Expr{Op: OpTTL, Flags: uint32(b[0]), Mod: uint32(b[1]), Text: fmt.Sprintf("-m "+x.name+" "+words[b[0]]+" %d", x.name, b[1])}, true
}

func xtRPFilter(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 1 {
		return Expr{}, false
	}
	text := "-m rpfilter" + flagWords(uint32(b[0]), []bitName{{rpLoose, " --loose"}, {rpMark, " --validmark"}, {rpAcceptLocal, " --accept-local"}, {8, " --invert"}})
	return Expr{Op: OpRPFilter, Flags: uint32(b[0]), Invert: b[0]&8 != 0, Text: text}, true
}

// xtLimit reads struct xt_rateinfo: the average in ten-thousandths of a second.
func xtLimit(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 8 || u32(b, 0) == 0 {
		return Expr{}, false
	}
	avg, burst := u32(b, 0), u32(b, 4)
	units := []struct {
		mult uint32
		name string
	}{{864000000, "day"}, {36000000, "hour"}, {600000, "min"}, {10000, "sec"}}
	i := 1
	for ; i < len(units); i++ {
		if avg > units[i].mult || units[i].mult/avg < units[i].mult%avg {
			break
		}
	}
	text := fmt.Sprintf("-m limit --limit %d/%s", units[i-1].mult/avg, units[i-1].name)
	if burst != 5 {
		text += fmt.Sprintf(" --limit-burst %d", burst)
	}
	return Expr{Op: OpLimit, Text: text}, true
}

// xtHashlimit finds the mode, of which one bit inverts (XT_HASHLIMIT_INVERT).
func xtHashlimit(x xtInfo, b []byte) (Expr, bool) {
	at := 272
	if x.rev == 1 {
		at = 16
	}
	if x.rev < 1 || x.rev > 3 || len(b) < at+4 {
		return Expr{}, false
	}
	name, _, _ := bytes.Cut(b[:min(at, 255)], []byte{0})
	return Expr{Op: OpLimit, Invert: u32(b, at)&(1<<4) != 0, Text: "-m hashlimit --hashlimit-name " + string(name)}, true
}

// xtConnlimit matches above the limit, or up to it where it is inverted.
func xtConnlimit(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 24 {
		return Expr{}, false
	}
	word := "--connlimit-above"
	if u32(b, 20)&1 != 0 {
		word = "--connlimit-upto"
	}
	return Expr{Op: OpLimit, Key: needsCT, Invert: u32(b, 20)&1 == 0, Text: fmt.Sprintf("-m connlimit %s %d", word, u32(b, 16))}, true
}

func xtQuota(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 16 {
		return Expr{}, false
	}
	inv := u32(b, 0)&1 != 0
	return Expr{Op: OpLimit, Invert: inv, Text: fmt.Sprintf("-m quota %s--quota %d", bang(inv), binary.NativeEndian.Uint64(b[8:]))}, true
}

// xtSet reads struct xt_set_info and, of later revisions, refuses what asks for counters or nomatch.
func xtSet(x xtInfo, b []byte) (Expr, bool) {
	if x.rev < 1 || x.rev > 4 || len(b) < 4 {
		return Expr{}, false
	}
	if x.rev >= 3 {
		ops := [...]int{8, 24}
		if x.rev == 4 {
			ops = [...]int{16, 32}
		}
		if len(b) < 44 || b[ops[0]] != 0 || b[ops[1]] != 0 || u32(b, 40)&(1<<7) != 0 {
			return Expr{}, false
		}
	}
	e := Expr{Op: OpSet, Mod: uint32(u16(b, 0)), Len: uint32(b[2]), Flags: uint32(b[3]), Invert: b[3]&1 != 0}
	e.Text = e.setText(fmt.Sprintf("#%d", e.Mod))
	return e, true
}

// setText prints -m set with the name that the set's index has.
func (e *Expr) setText(name string) string {
	var dirs []string
	for i := range min(e.Len, 6) {
		if e.Flags&(2<<i) != 0 {
			dirs = append(dirs, "src")
		} else {
			dirs = append(dirs, "dst")
		}
	}
	return fmt.Sprintf("-m set %s--match-set %s %s", bang(e.Invert), name, strings.Join(dirs, ","))
}

// xtRecent reads struct xt_recent_mtinfo and _v1. Data is set where the address is masked.
func xtRecent(x xtInfo, b []byte) (Expr, bool) {
	if len(b) < 211 || x.rev > 1 || x.rev == 1 && len(b) < 228 {
		return Expr{}, false
	}
	name, _, _ := bytes.Cut(b[10:210], []byte{0})
	e := Expr{Op: OpRecent, Set: string(name), Mod: u32(b, 0), Len: u32(b, 4), Flags: uint32(b[8]), Invert: b[9] != 0, Key: "src"}
	if x.rev == 1 {
		size := 4
		if x.v6 {
			size = 16
		}
		if mask := b[212 : 212+size]; !bytes.Equal(mask, bytes.Repeat([]byte{0xff}, size)) {
			e.Data = bytes.Clone(mask)
		}
	}
	e.Text = "-m recent " + bang(e.Invert)
	for _, f := range []bitName{{recentSet, "--set"}, {recentCheck, "--rcheck"}, {recentUpdate, "--update"}, {recentRemove, "--remove"}} {
		if e.Flags&f.bit != 0 {
			e.Text += f.name
		}
	}
	if e.Mod != 0 {
		e.Text += fmt.Sprintf(" --seconds %d", e.Mod)
	}
	if e.Len != 0 {
		e.Text += fmt.Sprintf(" --hitcount %d", e.Len)
	}
	e.Text += " --name " + e.Set
	side := " --rsource"
	if b[210] == 1 {
		e.Key, side = "dst", " --rdest"
	}
	e.Text += side
	return e, true
}

func xtOwner(x xtInfo, b []byte) (Expr, bool) {
	if x.rev != 1 || len(b) < 18 {
		return Expr{}, false
	}
	e := Expr{Op: OpOwner, Mod: uint32(b[16]), Flags: uint32(b[17]), Text: "-m owner"}
	if b[16]&1 != 0 {
		e.Text += fmt.Sprintf(" %s--uid-owner %d", bang(b[17]&1 != 0), u32(b, 0))
	}
	if b[16]&2 != 0 {
		e.Text += fmt.Sprintf(" %s--gid-owner %d", bang(b[17]&2 != 0), u32(b, 8))
	}
	if b[16]&4 != 0 {
		e.Text += " " + bang(b[17]&4 != 0) + "--socket-exists"
	}
	return e, true
}

func xtPkttype(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 8 {
		return Expr{}, false
	}
	names := [...]string{"unicast", "broadcast", "multicast", "otherhost"}
	typ, inv := u32(b, 0), u32(b, 4) != 0
	if typ > pktOther {
		return Expr{}, false
	}
	return Expr{Op: OpPkttype, Mod: typ, Invert: inv, Text: "-m pkttype " + bang(inv) + "--pkt-type " + names[typ]}, true
}

func xtDSCP(_ xtInfo, b []byte) (Expr, bool) {
	if len(b) < 2 {
		return Expr{}, false
	}
	return Expr{Op: OpTOS, Flags: 0xfc, Mod: uint32(b[0]) << 2 & 0xff, Invert: b[1] != 0, Text: fmt.Sprintf("-m dscp %s--dscp %#02x", bang(b[1] != 0), b[0])}, true
}

func xtTOS(x xtInfo, b []byte) (Expr, bool) {
	if x.rev != 1 || len(b) < 3 {
		return Expr{}, false
	}
	return Expr{Op: OpTOS, Flags: uint32(b[0]), Mod: uint32(b[1]), Invert: b[2] != 0, Text: fmt.Sprintf("-m tos %s--tos %#02x/%#02x", bang(b[2] != 0), b[1], b[0])}, true
}

// prefixOf reads an address and its mask; ok is false of a mask with holes.
func prefixOf(addr, mask []byte) (p netip.Prefix, ok bool) {
	n, ended := 0, false
	for _, m := range mask {
		k := bits.LeadingZeros8(^m)
		if ended && m != 0 || m<<k != 0 {
			return netip.Prefix{}, false
		}
		n += k
		ended = ended || k < 8
	}
	return netip.PrefixFrom(addrOf(addr), n), true
}
