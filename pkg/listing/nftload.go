package listing

import (
	"strconv"

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
		"ttl": {baseNetwork, 8, "integer8"}, "length": {baseNetwork, 2, "integer16"}},
	"ip6":   {"saddr": {baseNetwork, 8, "ipv6_addr"}, "daddr": {baseNetwork, 24, "ipv6_addr"}, "nexthdr": {baseNetwork, 6, "inet_proto"}, "hoplimit": {baseNetwork, 7, "integer8"}},
	"ether": {"daddr": {baseLink, 0, "ether_addr"}, "saddr": {baseLink, 6, "ether_addr"}, "type": {baseLink, 12, "ether_type"}},
	"tcp":   {"sport": ports["sport"], "dport": ports["dport"], "flags": {baseTransport, 13, "tcp_flag"}},
	"udp":   ports, "sctp": ports, "dccp": ports, "udplite": ports, "th": ports,
	"icmp":   {"type": {baseTransport, 0, "icmp_type"}, "code": {baseTransport, 1, "icmp_code"}},
	"icmpv6": {"type": {baseTransport, 0, "icmpv6_type"}, "code": {baseTransport, 1, "icmp_code"}},
}

var metaTypes = map[string]string{
	"iifname": "ifname", "oifname": "ifname", "iif": "ifname", "oif": "ifname", "ibrname": "ifname", "obrname": "ifname", "mark": "mark",
	"l4proto": "inet_proto", "nfproto": "nf_proto", "protocol": "ether_type", "length": "integer32", "skuid": "uid", "skgid": "uid", "pkttype": "pkt_type",
}

// metaKeys are the keys that the model has by another name: an index is compared by the device's name.
var metaKeys = map[string]string{"iif": "iifname", "oif": "oifname", "length": "len"}

var ctTypes = map[string]string{
	"state": "ct_state", "status": "ct_status", "mark": "mark", "direction": "ct_dir", "protocol": "inet_proto", "proto-src": "inet_service",
	"proto-dst": "inet_service", "ip saddr": "ipv4_addr", "ip daddr": "ipv4_addr", "ip6 saddr": "ipv6_addr", "ip6 daddr": "ipv6_addr",
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
		dir := map[string]int8{"original": 1, "reply": 2}[str(get(x, "dir"))]
		n.add(netfilter.Expr{Op: netfilter.OpCT, Key: key, Dir: dir, Dreg: reg})
		return []string{typ}, ok
	case "fib":
		return n.loadFib(x, reg)
	case "numgen", "jhash", "symhash":
		mod, _ := strconv.ParseUint(str(get(x, "mod")), 10, 32)
		off, _ := strconv.ParseUint(str(get(x, "offset")), 10, 32)
		n.add(netfilter.Expr{Op: netfilter.OpNumgen, Dreg: reg, Mod: uint32(mod), Offset: uint32(off), Text: kind + " mod " + str(get(x, "mod"))})
		return []string{"integer32"}, mod > 0
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
		reg += uint32((typeLen[types[0]] + 3) / 4)
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
	proto, field := str(get(x, "protocol")), str(get(x, "field"))
	f, ok := headers[proto][field]
	if !ok {
		return nil, false
	}
	n.depend(proto)
	n.add(netfilter.Expr{Op: netfilter.OpPayload, Base: f.base, Offset: f.offset, Len: uint32(typeLen[f.typ]), Dreg: reg})
	return []string{f.typ}, true
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
	const spare = 4
	check := func(key string, data []byte) {
		n.add(netfilter.Expr{Op: netfilter.OpMeta, Key: key, Dreg: spare}, netfilter.Expr{Op: netfilter.OpCmp, Sreg: spare, Data: data})
	}
	fam := n.table.Family
	switch proto {
	case "ip", "ip6":
		six := proto == "ip6"
		switch {
		case fam == netfilter.FamilyInet:
			check("nfproto", map[bool][]byte{false: {2}, true: {10}}[six])
		case fam == netfilter.FamilyBridge || fam == netfilter.FamilyNetdev:
			check("protocol", map[bool][]byte{false: {0x08, 0x00}, true: {0x86, 0xdd}}[six])
		}
	case "tcp", "udp", "sctp", "dccp", "udplite", "icmp", "icmpv6":
		check("l4proto", []byte{ipProtos[proto]})
	}
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
	typ := map[string]string{"type": "fib_addrtype", "oif": "integer32", "oifname": "ifname"}[e.Key]
	n.add(e)
	return []string{typ}, typ != ""
}
