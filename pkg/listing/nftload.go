package listing

import (
	"encoding/binary"
	"slices"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// Bases of nft_payload.
const (
	baseLink      = 0
	baseNetwork   = 1
	baseTransport = 2
)

// headerField is where a field is in its header.
type headerField struct {
	base, offset uint32
	typ          string
}

var ports = map[string]headerField{"sport": {baseTransport, 0, "inet_service"}, "dport": {baseTransport, 2, "inet_service"}}

var headers = map[string]map[string]headerField{
	"ip": {"saddr": {baseNetwork, 12, "ipv4_addr"}, "daddr": {baseNetwork, 16, "ipv4_addr"}, "protocol": {baseNetwork, 9, "inet_proto"},
		"ttl": {baseNetwork, 8, "integer8"}, "length": {baseNetwork, 2, "integer16"}, "id": {baseNetwork, 4, "integer16"},
		"frag-off": {baseNetwork, 6, "integer16"}, "checksum": {baseNetwork, 10, "integer16"}, "dscp": {baseNetwork, 1, "ip_dscp"},
		"version": {baseNetwork, 0, "ip_version"}, "hdrlength": {baseNetwork, 0, "ip_hdrlength"}},
	"ip6": {"saddr": {baseNetwork, 8, "ipv6_addr"}, "daddr": {baseNetwork, 24, "ipv6_addr"}, "nexthdr": {baseNetwork, 6, "inet_proto"}, "hoplimit": {baseNetwork, 7, "integer8"},
		"length": {baseNetwork, 4, "integer16"}, "dscp": {baseNetwork, 0, "ip6_dscp"}, "version": {baseNetwork, 0, "ip_version"}},
	"ether": {"daddr": {baseLink, 0, "ether_addr"}, "saddr": {baseLink, 6, "ether_addr"}, "type": {baseLink, 12, "ether_type"}},
	"tcp": {"sport": ports["sport"], "dport": ports["dport"], "flags": {baseTransport, 13, "tcp_flag"}, "sequence": {baseTransport, 4, "integer32be"},
		"ackseq": {baseTransport, 8, "integer32be"}, "window": {baseTransport, 14, "integer16"}},
	"udp":  {"sport": ports["sport"], "dport": ports["dport"], "length": {baseTransport, 4, "integer16"}, "checksum": {baseTransport, 6, "integer16"}},
	"sctp": ports, "dccp": ports, "udplite": ports, "th": ports,
	"icmp": {"type": {baseTransport, 0, "icmp_type"}, "code": {baseTransport, 1, "icmp_code"}, "id": {baseTransport, 4, "integer16"},
		"sequence": {baseTransport, 6, "integer16"}, "mtu": {baseTransport, 6, "integer16"}},
	"icmpv6": {"type": {baseTransport, 0, "icmpv6_type"}, "code": {baseTransport, 1, "icmp_code"}, "id": {baseTransport, 4, "integer16"},
		"sequence": {baseTransport, 6, "integer16"}},
	"arp": {"htype": {baseNetwork, 0, "integer16"}, "ptype": {baseNetwork, 2, "ether_type"}, "hlen": {baseNetwork, 4, "integer8"}, "plen": {baseNetwork, 5, "integer8"},
		"operation": {baseNetwork, 6, "arp_op"}, "saddr ether": {baseNetwork, 8, "ether_addr"}, "saddr ip": {baseNetwork, 14, "ipv4_addr"},
		"daddr ether": {baseNetwork, 18, "ether_addr"}, "daddr ip": {baseNetwork, 24, "ipv4_addr"}},
}

var metaTypes = map[string]string{
	"iifname": "ifname", "oifname": "ifname", "iif": "ifname", "oif": "ifname", "ibrname": "ifname", "obrname": "ifname", "mark": "mark",
	"l4proto": "inet_proto", "nfproto": "nf_proto", "protocol": "ether_type", "length": "integer32", "skuid": "uid", "skgid": "uid", "pkttype": "pkt_type",
	"iiftype": "iface_type", "oiftype": "iface_type", "cpu": "integer32", "cgroup": "integer32", "iif index": "integer32", "oif index": "integer32",
}

// metaKeys are the keys that the model has by another name: an index is compared by the device's name.
var metaKeys = map[string]string{"iif": "iifname", "oif": "oifname", "length": "len", "iif index": "iif", "oif index": "oif"}

var ctTypes = map[string]string{
	"state": "ct_state", "status": "ct_status", "mark": "mark", "direction": "ct_dir", "protocol": "inet_proto", "proto-src": "inet_service",
	"proto-dst": "inet_service", "l3proto": "nf_proto", "zone": "zone", "bytes": "integer64", "packets": "integer64", "ip saddr": "ipv4_addr", "ip daddr": "ipv4_addr", "ip6 saddr": "ipv6_addr", "ip6 daddr": "ipv6_addr",
}

var ctModelKeys = map[string]string{
	"proto-src": "sport", "proto-dst": "dport", "ip saddr": "src", "ip daddr": "dst", "ip6 saddr": "src", "ip6 daddr": "dst",
}

// load puts an expression's value into a register, and says of which types it is.
func (n *nftRule) load(v any, reg uint32) ([]string, bool) {
	switch kind, x := object1(v); kind {
	case "payload":
		return n.loadPayload(x, reg)
	case "meta":
		key := str(get(x, "key"))
		typ, ok := metaTypes[key]
		if m, renamed := metaKeys[key]; renamed {
			key = m
		}
		n.add(netfilter.Expr{Op: netfilter.OpMeta, Key: key, Dreg: reg})
		return []string{typ}, ok
	case "ct":
		key := str(get(x, "key"))
		typ, ok := ctTypes[key]
		if m, renamed := ctModelKeys[key]; renamed {
			key = m
		}
		e := netfilter.Expr{Op: netfilter.OpCT, Key: key, Dir: map[string]int8{"original": 1, "reply": 2}[str(get(x, "dir"))], Dreg: reg}
		switch typ {
		case "ipv4_addr":
			e.Data = []byte{byte(netfilter.FamilyIPv4)}
		case "ipv6_addr":
			e.Data = []byte{byte(netfilter.FamilyIPv6)}
		}
		n.add(e)
		return []string{typ}, ok
	case "fib":
		return n.loadFib(x, reg)
	case "numgen", "symhash":
		e := netfilter.Expr{Op: netfilter.OpNumgen, Dreg: reg, Mod: number[uint32](str(get(x, "mod"))), Offset: number[uint32](str(get(x, "offset"))), Text: nftWords(v)}
		n.add(e)
		return []string{"integer32"}, e.Mod > 0
	case "jhash":
		return n.loadHash(v, x, reg)
	case "exthdr", "tcp option", "ip option":
		return n.loadOption(kind, x, reg)
	case "&":
		return n.loadMasked(list(x), reg)
	case "concat":
		return n.loadConcat(list(x))
	}
	return nil, false
}

// loadConcat puts the parts side by side, each in whole words.
func (n *nftRule) loadConcat(parts []any) ([]string, bool) {
	var out []string
	reg := uint32(word0)
	for _, p := range parts {
		types, ok := n.load(p, reg)
		if !ok || len(types) != 1 {
			return nil, false
		}
		out = append(out, types[0])
		reg += uint32((sizeOf(types[0]) + 3) / 4)
	}
	return out, len(out) > 1 && reg <= word0+12 // the last four words are the spare register
}

func (n *nftRule) loadMasked(args []any, reg uint32) ([]string, bool) {
	if len(args) != 2 {
		return nil, false
	}
	types, ok := n.load(args[0], reg)
	if !ok || len(types) != 1 {
		return nil, false
	}
	mask, ok := encode(types[0], args[1])
	if l := list(args[1]); l != nil {
		mask, ok = encode(types[0], obj{"|": l})
	}
	n.add(netfilter.Expr{Op: netfilter.OpBitwise, Sreg: reg, Dreg: reg, Len: uint32(len(mask)), Data: mask, DataEnd: make([]byte, len(mask))})
	return types, ok
}

// loadPayload reads a field of a header. nft leaves out of its listing what follows from it: that the packet
// has such a header.
func (n *nftRule) loadPayload(x any, reg uint32) ([]string, bool) {
	f, ok := n.field(x)
	if !ok {
		return nil, false
	}
	size := uint32(sizeOf(f.typ))
	n.add(netfilter.Expr{Op: netfilter.OpPayload, Base: f.base, Offset: f.offset, Len: size, Dreg: reg})
	if bits, ok := bitFields[f.typ]; ok {
		n.add(netfilter.Expr{Op: netfilter.OpBitwise, Sreg: reg, Dreg: reg, Len: size, Data: bits.bytes(bits.mask, size), DataEnd: make([]byte, size)})
	}
	return []string{f.typ}, true
}

// field finds a field of a header, or raw bytes at a place: {"base": "nh", "offset": 8, "len": 8}, in bits.
func (n *nftRule) field(x any) (headerField, bool) {
	proto, name := str(get(x, "protocol")), str(get(x, "field"))
	f, ok := headers[proto][name]
	if ok {
		n.depend(proto)
		return f, true
	}
	base, ok := map[string]uint32{"ll": baseLink, "nh": baseNetwork, "th": baseTransport}[str(get(x, "base"))]
	offset, size := number[uint32](str(get(x, "offset"))), number[uint32](str(get(x, "len")))
	typ, whole := map[uint32]string{8: "integer8", 16: "integer16", 32: "integer32be", 64: "integer64be"}[size]
	return headerField{base, offset / 8, typ}, ok && whole && offset%8 == 0 && offset < 1<<16
}

// loadHash is jhash; it needs the registers for itself.
func (n *nftRule) loadHash(v, x any, reg uint32) ([]string, bool) {
	types, ok := n.load(get(x, "expr"), reg1)
	if !ok || reg != reg1 {
		return nil, false
	}
	e := netfilter.Expr{Op: netfilter.OpHash, Sreg: reg1, Dreg: reg, Mod: number[uint32](str(get(x, "mod"))), Offset: number[uint32](str(get(x, "offset"))), Text: nftWords(v)}
	for _, t := range types {
		e.Len = (e.Len+3)&^3 + uint32(sizeOf(t))
	}
	if len(types) > 1 {
		e.Len = (e.Len + 3) &^ 3
	}
	if seed := get(x, "seed"); seed != nil {
		e.Flags, e.Seed = 1, number[uint32](str(seed))
	}
	n.add(e)
	return []string{"integer32"}, e.Mod > 0
}

// loadOption asks whether a header has an option, or for the size in the one of TCP that people ask for.
func (n *nftRule) loadOption(kind string, x any, reg uint32) ([]string, bool) {
	e := netfilter.Expr{Op: netfilter.OpExthdr, Key: kind, Dreg: reg, Len: 1, Flags: 1}
	typ := "boolean"
	if get(x, "field") != nil {
		if str(get(x, "name")) != "maxseg" {
			return nil, false
		}
		typ, e.Flags, e.Len = "integer16", 0, 2
	}
	n.add(e)
	return []string{typ}, true
}

// depend adds the check of the protocol, in a register that holds nothing else.
func (n *nftRule) depend(proto string) {
	if n.known[proto] {
		return
	}
	if n.known == nil {
		n.known = make(map[string]bool)
	}
	n.known[proto] = true
	check := func(key string, data []byte) {
		n.add(netfilter.Expr{Op: netfilter.OpMeta, Key: key, Dreg: reg4}, netfilter.Expr{Op: netfilter.OpCmp, Sreg: reg4, Data: data})
	}
	fam := n.table.Family
	frames := fam == netfilter.FamilyBridge || fam == netfilter.FamilyNetdev
	switch proto {
	case "ip", "ip6":
		six := proto == "ip6"
		switch {
		case fam == netfilter.FamilyInet:
			check("nfproto", map[bool][]byte{false: {2}, true: {10}}[six])
		case frames:
			check("protocol", map[bool][]byte{false: {0x08, 0x00}, true: {0x86, 0xdd}}[six])
		}
	case "arp":
		if frames {
			check("protocol", []byte{0x08, 0x06})
		}
	case "ether":
		if !frames {
			check("iiftype", binary.NativeEndian.AppendUint16(nil, 1)) // ARPHRD_ETHER
		}
	case "tcp", "udp", "sctp", "dccp", "udplite", "icmp", "icmpv6":
		check("l4proto", []byte{ipProtos[proto]})
	}
}

// fibPresent stands for "is there a route", which nft writes as a comparison with a truth value.
const fibPresent = "present"

// asAsked says by what the model compares: devices by name but where the listing has an index, routes by their
// being there.
func asAsked(left, right any) any {
	kind, x := object1(left)
	key, result := str(get(x, "key")), str(get(x, "result"))
	value := str(right)
	switch {
	case kind == "meta" && (key == "iif" || key == "oif") && isNumber(value):
		return obj{"meta": obj{"key": key + " index"}}
	case kind == "fib" && slices.Contains([]string{"true", "false", "exists", "missing"}, value):
		return obj{"fib": obj{"flags": get(x, "flags"), "result": fibPresent}}
	case kind == "fib" && result == "oif" && !isNumber(value):
		return obj{"fib": obj{"flags": get(x, "flags"), "result": "oifname"}}
	}
	return left
}

// loadFib: the flags are bits of enum nft_fib_flags.
func (n *nftRule) loadFib(x any, reg uint32) ([]string, bool) {
	bits := map[string]uint32{"saddr": 1, "daddr": 2, "mark": 4, "iif": 8, "oif": 16}
	e := netfilter.Expr{Op: netfilter.OpFib, Key: str(get(x, "result")), Dreg: reg}
	flags := list(get(x, "flags"))
	if s := str(get(x, "flags")); s != "" {
		flags = []any{s}
	}
	for _, f := range flags {
		bit, ok := bits[str(f)]
		if !ok {
			return nil, false
		}
		e.Flags |= bit
	}
	typ := map[string]string{"type": "fib_addrtype", "oif": "integer32", "oifname": "ifname", fibPresent: "boolean"}[e.Key]
	if e.Key == fibPresent {
		e.Key, e.Flags = "oif", e.Flags|1<<5
	}
	n.add(e)
	return []string{typ}, typ != ""
}
