package netfilter

import (
	"encoding/binary"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
)

// meta gives a meta key's value (nft_meta_get_eval).
func (r *run) meta(key string) value {
	p := &r.p
	switch key {
	case "len":
		if p.Length == 0 || r.hook == HookEgress {
			return unknownValue(4) // there the Ethernet header counts as well
		}
		return exactly(host32(uint32(p.Length))) //nolint:gosec // at most a GSO packet's
	case "protocol":
		if p.EtherType == 0 {
			return unknownValue(2)
		}
		return exactly(binary.BigEndian.AppendUint16(nil, p.EtherType))
	case "mark":
		return exactly(host32(p.Mark))
	case "iif":
		return ifindex(p.In, p.InIndex)
	case "oif":
		return ifindex(p.Out, p.OutIndex)
	case "iifname":
		return exactly(ifname(p.In))
	case "oifname":
		return exactly(ifname(p.Out))
	case "iiftype":
		return r.deviceType(p.In)
	case "oiftype":
		return r.deviceType(p.Out)
	case "nfproto":
		return exactly([]byte{byte(r.nfproto())})
	case "l4proto":
		if p.Family == FamilyARP {
			return value{}
		}
		return exactly([]byte{p.Proto})
	case "skuid", "skgid", "cgroup":
		if r.hasSocket() {
			return unknownValue(4)
		}
		return value{}
	case "pkttype":
		return r.pkttype()
	default:
		return unknownValue(16)
	}
}

// nfproto is the family that the chain was called for; inet chains see ip and ip6.
func (r *run) nfproto() Family {
	switch {
	case r.fam != FamilyBridge && r.fam != FamilyNetdev:
		return r.fam
	case r.table != nil && r.table.Family == FamilyInet && r.p.Dst.Is6():
		return FamilyIPv6
	case r.table != nil && r.table.Family == FamilyInet:
		return FamilyIPv4
	default:
		return r.fam
	}
}

func ifindex(name string, index int) value {
	if name != "" && index == 0 {
		return unknownValue(4)
	}
	return exactly(host32(uint32(index))) //nolint:gosec // positive
}

// hasSocket: packets that a socket here sends or may receive. Others have none, and what asks for it does
// not match.
func (r *run) hasSocket() bool {
	return r.hook == HookOutput || r.hook == HookInput || r.hook == HookPostrouting && r.p.In == ""
}

func (r *run) deviceType(name string) value {
	if name == "" {
		return value{}
	}
	if d, ok := r.env.(DeviceEnv); ok {
		if t, ok := d.DeviceType(name); ok {
			return exactly(binary.NativeEndian.AppendUint16(nil, t))
		}
	}
	return unknownValue(2)
}

// Packet types (linux/if_packet.h).
const (
	pktHost = iota
	pktBroadcast
	pktMulticast
	pktOther
)

var broadcastMAC = ether.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// pkttype tells by the destination MAC how a frame came in; what is sent from here is PACKET_HOST.
func (r *run) pkttype() value {
	p := &r.p
	switch {
	case p.In == "" || r.hook == HookOutput || r.hook == HookEgress:
		return exactly([]byte{pktHost})
	case p.EthDst.IsZero():
		if p.Dst.IsMulticast() {
			return unknownValue(1)
		}
		return exactly([]byte{pktHost})
	case p.EthDst == broadcastMAC:
		return exactly([]byte{pktBroadcast})
	case p.EthDst.IsMulticast():
		return exactly([]byte{pktMulticast})
	case r.fam == FamilyBridge || r.fam == FamilyNetdev:
		return unknownValue(1) // may be another host's
	default:
		return exactly([]byte{pktHost})
	}
}

// Bits of the ct state key (NF_CT_STATE_BIT).
var stateBits = map[ConnState]uint32{
	ConnNone: 1, ConnInvalid: 1, ConnEstablished: 2, ConnRelated: 4, ConnNew: 8, ConnUntracked: 64,
}

// Bits of ct status (enum ip_conntrack_status).
const (
	statusExpected  = 1 << 0
	statusSeenReply = 1 << 1
	statusAssured   = 1 << 2
	statusConfirmed = 1 << 3
	statusSrcNAT    = 1 << 4
	statusDstNAT    = 1 << 5
	statusSrcDone   = 1 << 7
	statusDstDone   = 1 << 8
)

func (r *run) ctStatus() uint32 {
	e := &r.ct.Entry
	src, dst := e.translated()
	var s uint32
	for _, b := range []struct {
		on  bool
		bit uint32
	}{
		{e.Expected, statusExpected}, {e.Replied, statusSeenReply}, {e.Assured, statusAssured},
		{e.known || r.ct.State != ConnNew, statusConfirmed}, {src, statusSrcNAT}, {dst, statusDstNAT},
		{r.ct.srcDone, statusSrcDone}, {r.ct.dstDone, statusDstDone},
	} {
		if b.on {
			s |= b.bit
		}
	}
	return s
}

// ctKey gives a key of ct (nft_ct_get_eval); all but the state need a connection.
func (r *run) ctKey(e *Expr) value {
	if e.Key == "state" {
		return exactly(host32(stateBits[r.ct.State]))
	}
	if !r.ct.tracked() {
		return value{}
	}
	t, reply := r.ct.Entry.Orig, e.Dir == 2
	if reply {
		t = r.ct.Entry.Reply
	}
	addr := func(a netip.Addr) value {
		if len(e.Data) > 0 && a.Is6() != (e.Data[0] == byte(FamilyIPv6)) {
			return value{}
		}
		return exactly(a.AsSlice())
	}
	switch e.Key {
	case "direction":
		if r.ct.Reply {
			return exactly([]byte{1})
		}
		return exactly([]byte{0})
	case "status":
		return exactly(host32(r.ctStatus()))
	case "mark":
		return exactly(host32(r.ct.Entry.Mark))
	case "zone":
		return exactly(binary.NativeEndian.AppendUint16(nil, r.ct.zone))
	case "l3proto":
		if t.Src.Is6() {
			return exactly([]byte{byte(FamilyIPv6)})
		}
		return exactly([]byte{byte(FamilyIPv4)})
	case "protocol":
		return exactly([]byte{t.Proto})
	case "src":
		return addr(t.Src)
	case "dst":
		return addr(t.Dst)
	case "sport":
		return port(t.SrcPort, !(r.p.AnySrcPort && isICMP(t.Proto) && reply))
	case "dport":
		if isICMP(t.Proto) {
			return unknownValue(2)
		}
		return port(t.DstPort, !(r.p.AnySrcPort && reply))
	default:
		return unknownValue(16)
	}
}

func port(p uint16, known bool) value {
	if !known {
		return unknownValue(2)
	}
	return exactly(binary.BigEndian.AppendUint16(nil, p))
}

// routeTypes are RTN_* by name, for fib and addrtype.
var routeTypes = map[string]uint32{
	"unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9,
}

// Flags of nft_fib (enum nft_fib_flags).
const (
	fibSaddr = 1 << iota
	fibDaddr
	fibMark
	fibIif
	fibOif
	fibPresent
)

func (r *run) fib(e *Expr) value {
	a := r.p.Dst
	if e.Flags&fibSaddr != 0 {
		a = r.p.Src
	}
	dev, index := "", 0
	switch {
	case e.Flags&fibOif != 0 && e.Key != "type", e.Flags&fibIif == 0 && e.Flags&fibOif != 0:
		dev, index = r.p.Out, r.p.OutIndex
	case e.Flags&fibIif != 0:
		dev, index = r.p.In, r.p.InIndex
	}
	if e.Key == "type" {
		typ, ok := r.routeType(a, dev)
		if !ok {
			return unknownValue(4)
		}
		return exactly(host32(routeTypes[typ]))
	}
	return r.fibDevice(e, a, dev, index)
}

// routeType is the type of an address. IPv6 answers by a full lookup (nft_fib6_eval_type), so that an
// address without a route is unreachable.
func (r *run) routeType(a netip.Addr, dev string) (string, bool) {
	typ, ok := r.env.AddrType(a, dev)
	if ok && typ == "unicast" && a.Is6() && r.env.ReverseDevice(a, 0) == "" {
		if t, ok := r.env.AddrType(a, ""); ok && t == "unicast" {
			return "unreachable", true
		}
	}
	return typ, ok
}

// fibDevice answers oif and oifname: the device by which an address is reached, if it is the one asked for.
func (r *run) fibDevice(e *Expr, a netip.Addr, want string, index int) value {
	mark := uint32(0)
	if e.Flags&fibMark != 0 {
		mark = r.p.Mark
	}
	found := r.env.ReverseDevice(a, mark)
	switch {
	case r.hook == HookPrerouting && r.p.In == "lo":
		found, want, index = r.p.In, r.p.In, r.p.InIndex
	case e.Flags&(fibIif|fibOif) != 0 && found != want:
		found = ""
	}
	if e.Flags&fibPresent != 0 {
		if found == "" {
			return exactly([]byte{0})
		}
		return exactly([]byte{1})
	}
	if e.Key == "oifname" {
		return exactly(ifname(found))
	}
	switch {
	case found == "":
		return exactly(host32(0))
	case found == want && want != "":
		return ifindex(found, index)
	}
	if d, ok := r.env.(DeviceEnv); ok {
		if i, ok := d.DeviceIndex(found); ok {
			return exactly(host32(uint32(i))) //nolint:gosec // positive
		}
	}
	return unknownValue(4)
}
