package listing

import (
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// Bits of xt_conntrack.h and of enum ip_conntrack_status.
var (
	ctStates   = map[string]uint32{"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "SNAT": 1 << 6, "DNAT": 1 << 7, "UNTRACKED": 1 << 8}
	ctStatuses = map[string]uint32{"NONE": 0, "EXPECTED": 1, "SEEN_REPLY": 2, "ASSURED": 4, "CONFIRMED": 8}
)

// Bits of xt_conntrack's inversions, as the model keeps them.
const (
	notState  = 1
	notStatus = 1 << 6
	notDir    = 1
)

// connSides are the tuples' addresses in the order of ConnMatch.
var connSides = map[string]int{"ctorigsrc": 0, "ctorigdst": 1, "ctreplsrc": 2, "ctrepldst": 3}

// stateMatch is -m conntrack and -m state.
func stateMatch(opts []option) []netfilter.Expr {
	e := netfilter.Expr{Op: netfilter.OpState, Data: []byte{0, 0, 0}}
	ok := len(opts) > 0
	for _, o := range opts {
		switch o.key {
		case "ctstate", "state":
			e.Flags, ok = bitsOf(ctStates, o.val())
			e.Data[0] = flagByte(o.not, notState)
		case "ctstatus":
			e.Mod, ok = bitsOf(ctStatuses, o.val())
			e.Data[1] = flagByte(o.not, notStatus)
		case "ctdir":
			e.Dir = 1
			e.Data[2] = flagByte(o.val() == "REPLY", notDir)
		default:
			if e.Track == nil {
				e.Track = &netfilter.ConnMatch{}
			}
			ok = trackOf(e.Track, o)
		}
		if !ok {
			return nil
		}
	}
	return []netfilter.Expr{e}
}

// trackOf reads what asks for protocol, addresses, ports and remaining time of the connection.
func trackOf(m *netfilter.ConnMatch, o option) bool {
	key, port := strings.CutSuffix(o.key, "port")
	side, sided := connSides[key]
	switch {
	case o.key == "ctproto":
		m.Proto, m.NotProto = ipProto(o.val()), o.not
		return m.Proto != 0
	case o.key == "ctexpire":
		m.Expires = true
		return true
	case sided && port:
		r, ok := portList(o.val())
		if !ok || len(r) != 1 {
			return false
		}
		m.Ports[side], m.NotPorts[side] = &r[0], o.not
		return true
	case sided:
		p := iptPrefix(o.val())
		m.Addrs[side], m.NotAddrs[side] = &p, o.not
		return p != (netip.Prefix{})
	}
	return false
}
