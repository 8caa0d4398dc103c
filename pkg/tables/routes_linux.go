package tables

import (
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"
)

// rtaNHID is RTA_NH_ID of linux/rtnetlink.h.
const rtaNHID = 30

// parseRoute reads struct rtmsg and its attributes (rtnetlink(7)).
func parseRoute(b []byte) (Route, bool) {
	if len(b) < unix.SizeofRtMsg {
		return Route{}, false
	}
	family := b[0]
	r := Route{
		TOS: b[3], Table: uint32(b[4]), Protocol: b[5], Scope: b[6], Type: routeType(b[7]), Flags: u32(b[8:]),
		Dst: prefix(family, nil, 0),
	}
	hop := hopFlags(uint8(r.Flags))
	for t, v := range attrs(b[unix.SizeofRtMsg:]) {
		switch t {
		case unix.RTA_DST:
			r.Dst = prefix(family, v, b[1])
		case unix.RTA_SRC:
			r.Src = prefix(family, v, b[2])
		case unix.RTA_TABLE:
			r.Table = u32(v)
		case unix.RTA_MULTIPATH:
			r.NextHops = parseMultipath(v)
		default:
			parseRouteAttr(&r, t, v)
			parseHopAttr(&hop, t, v)
		}
	}
	if r.NextHops == nil && !leadsNowhere(r.Type) && (hop.Index != 0 || hop.Gateway.IsValid()) {
		hop.Weight = 1
		r.NextHops = []NextHop{hop}
	}
	return r, true
}

func parseRouteAttr(r *Route, t uint16, v []byte) {
	switch t {
	case unix.RTA_PRIORITY:
		r.Metric = u32(v)
	case unix.RTA_PREFSRC:
		r.PrefSrc = ip(v)
	case unix.RTA_METRICS:
		for t, v := range attrs(v) {
			switch t {
			case unix.RTAX_MTU:
				r.MTU = u32(v)
			case unix.RTAX_LOCK: // one bit a metric
				r.MTULock = u32(v)&(1<<unix.RTAX_MTU) != 0
			}
		}
	case rtaNHID:
		r.NexthopID = u32(v)
	case unix.RTA_PREF:
		r.Pref = u8(v)
	case unix.RTA_CACHEINFO: // struct rta_cacheinfo: clntref, lastuse, expires
		if e := int32(u32(after(v, 8))); e > 0 {
			r.Expires = uint32(e) / userHZ
		}
	}
}

// parseHopAttr reads what both a route and an element of its multipath may have.
func parseHopAttr(h *NextHop, t uint16, v []byte) {
	switch t {
	case unix.RTA_OIF:
		h.Index = index(v)
	case unix.RTA_GATEWAY:
		h.Gateway = ip(v)
	case unix.RTA_VIA: // struct rtvia: a gateway of the other family
		h.Gateway = ip(after(v, 2))
	case unix.RTA_ENCAP_TYPE:
		h.Encap = encapName(u16(v))
	}
}

func hopFlags(f uint8) NextHop {
	return NextHop{
		Onlink: f&unix.RTNH_F_ONLINK != 0, Dead: f&unix.RTNH_F_DEAD != 0, LinkDn: f&unix.RTNH_F_LINKDOWN != 0,
	}
}

// parseMultipath reads an array of struct rtnexthop, each with its attributes.
func parseMultipath(b []byte) []NextHop {
	var out []NextHop
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			break
		}
		h := hopFlags(b[2])
		h.Weight, h.Index = int(b[3])+1, index(b[4:]) // rtnh_hops counts from 0
		for t, v := range attrs(b[unix.SizeofRtNexthop:length]) {
			parseHopAttr(&h, t, v)
		}
		out = append(out, h)
		b = b[min(align4(length), len(b)):]
	}
	return out
}

// encapName is enum lwtunnel_encap_types as ip-route(8) names it.
func encapName(t uint16) string {
	names := [...]string{"", "mpls", "ip", "ila", "ip6", "seg6", "bpf", "seg6local", "rpl", "ioam6", "xfrm"}
	if int(t) < len(names) {
		return names[t]
	}
	return "encap-" + strconv.Itoa(int(t))
}

func routeType(t uint8) RouteType {
	names := [...]RouteType{
		"unspec", RouteUnicast, RouteLocal, RouteBroadcast, RouteAnycast, RouteMulticast,
		RouteBlackhole, RouteUnreachable, RouteProhibit, RouteThrow, "nat", "xresolve",
	}
	if int(t) < len(names) {
		return names[t]
	}
	return RouteType("type-" + strconv.Itoa(int(t)))
}

const sizeofNhMsg = 8 // struct nhmsg of linux/nexthop.h

// nexthop is a nexthop object with what Nexthop leaves out: the weights of a group.
type nexthop struct {
	Nexthop
	weights []int
}

func parseNexthop(b []byte) (nexthop, bool) {
	if len(b) < sizeofNhMsg {
		return nexthop{}, false
	}
	n := nexthop{Nexthop: Nexthop{Hop: hopFlags(uint8(u32(b[4:])))}}
	for t, v := range attrs(b[sizeofNhMsg:]) {
		switch t {
		case unix.NHA_ID:
			n.ID = u32(v)
		case unix.NHA_BLACKHOLE:
			n.Blackhole = true
		case unix.NHA_OIF:
			n.Hop.Index = index(v)
		case unix.NHA_GATEWAY:
			n.Hop.Gateway = ip(v)
		case unix.NHA_ENCAP_TYPE:
			n.Hop.Encap = encapName(u16(v))
		case unix.NHA_GROUP: // struct nexthop_grp: id, weight - 1 in 16 bits split over two bytes
			for ; len(v) >= 8; v = v[8:] {
				n.Group = append(n.Group, u32(v))
				n.weights = append(n.weights, (int(v[5])<<8|int(v[4]))+1)
			}
		}
	}
	if n.Group == nil && !n.Blackhole {
		n.Hop.Weight = 1
	}
	return n, n.ID != 0
}

// resolveNexthops gives routes that only name an object the next hops behind it: that is all the
// kernel says with the sysctl nexthop_compat_mode at 0.
func resolveNexthops(routes []Route, objects map[uint32]nexthop) {
	for i := range routes {
		r := &routes[i]
		if r.NexthopID == 0 || len(r.NextHops) > 0 {
			continue
		}
		o, ok := objects[r.NexthopID]
		switch {
		case !ok || o.Blackhole:
		case o.Group == nil:
			r.NextHops = []NextHop{o.Hop}
		default:
			for k, id := range o.Group {
				h := objects[id].Hop
				h.Weight = o.weights[k]
				r.NextHops = append(r.NextHops, h)
			}
		}
	}
}

// isException tells a cached route (a path MTU, a redirect) from a configured one.
func isException(r *Route) bool { return r.Flags&unix.RTM_F_CLONED != 0 }
