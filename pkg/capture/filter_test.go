package capture

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/net/bpf"
)

var (
	podA  = netip.MustParseAddr("10.244.1.32")
	podB  = netip.MustParseAddr("10.244.2.40")
	podC  = netip.MustParseAddr("10.244.9.9")
	podD  = netip.MustParseAddr("10.244.9.10")
	node1 = netip.MustParseAddr("10.1.11.91")
	node2 = netip.MustParseAddr("10.1.11.92")
	podA6 = netip.MustParseAddr("fd00:1::32")
	podB6 = netip.MustParseAddr("fd00:2::40")
	podC6 = netip.MustParseAddr("fd00:9::9")
)

type stack []gopacket.SerializableLayer

// bytes serializes; lengths and checksums are filled in.
func (s stack) bytes(t testing.TB) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true}
	if err := gopacket.SerializeLayers(buf, opts, s...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func eth(typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: typ,
	}
}

func ip4(src, dst netip.Addr, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), Protocol: proto}
}

func ip6(src, dst netip.Addr, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), NextHeader: next}
}

func tcp(src, dst uint16) *layers.TCP {
	return &layers.TCP{SrcPort: layers.TCPPort(src), DstPort: layers.TCPPort(dst), SYN: true}
}

func udp(src, dst uint16) *layers.UDP {
	return &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
}

func echo4(typ uint8, id uint16) *layers.ICMPv4 {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: id, Seq: 1}
}

// raw is ICMPv6 and quotes: bytes that gopacket need not know.
func raw(b ...byte) gopacket.Payload { return gopacket.Payload(b) }

func echo6(typ byte, id uint16) gopacket.Payload {
	return raw(typ, 0, 0, 0, byte(id>>8), byte(id), 0, 1, 'd', 'a', 't', 'a')
}

var payload = raw(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)

// plain4 is TCP from src to dst behind any layers given.
func plain4(src, dst netip.Addr, l4 ...gopacket.SerializableLayer) stack {
	proto := layers.IPProtocolTCP
	switch l4[0].(type) {
	case *layers.UDP:
		proto = layers.IPProtocolUDP
	case *layers.ICMPv4:
		proto = layers.IPProtocolICMPv4
	}
	return append(stack{eth(layers.EthernetTypeIPv4), ip4(src, dst, proto)}, append(l4, payload)...)
}

func plain6(src, dst netip.Addr, next layers.IPProtocol, l4 ...gopacket.SerializableLayer) stack {
	return append(stack{eth(layers.EthernetTypeIPv6), ip6(src, dst, next)}, append(l4, payload)...)
}

// vxlan puts a frame behind an outer header from node1 to node2.
func vxlan(t testing.TB, port uint16, inner stack, outer ...gopacket.SerializableLayer) stack {
	if outer == nil {
		outer = stack{eth(layers.EthernetTypeIPv4), ip4(node1, node2, layers.IPProtocolUDP)}
	}
	head := raw(8, 0, 0, 0, 0, 0, 1, 0)
	return append(append(stack{}, outer...), udp(40000, port), head, gopacket.Payload(inner.bytes(t)))
}

// icmpError is an ICMP error from src about the packet (without its link header), cut as routers may.
func icmpError(t testing.TB, src, dst netip.Addr, typ uint8, about stack, quote int) stack {
	b := about[1:].bytes(t)
	return stack{
		eth(layers.EthernetTypeIPv4), ip4(src, dst, layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 1)}, gopacket.Payload(b[:min(len(b), quote)]),
	}
}

func icmpError6(t testing.TB, src, dst netip.Addr, typ byte, about stack) stack {
	b := about[1:].bytes(t)
	return stack{
		eth(layers.EthernetTypeIPv6), ip6(src, dst, layers.IPProtocolICMPv6),
		raw(typ, 0, 0, 0, 0, 0, 0, 0), gopacket.Payload(b),
	}
}

func tagged(frame []byte, tags ...[4]byte) []byte {
	out := append([]byte{}, frame[:12]...)
	for _, tag := range tags {
		out = append(out, tag[:]...)
	}
	return append(out, frame[12:]...)
}

var (
	cTag = [4]byte{0x81, 0x00, 0x00, 0x05}
	sTag = [4]byte{0x88, 0xa8, 0x00, 0x07}
)

func options(ip *layers.IPv4) *layers.IPv4 {
	ip.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
	return ip
}

func fragment(ip *layers.IPv4) *layers.IPv4 {
	ip.FragOffset = 185
	return ip
}

type filterCase struct {
	name  string
	frame []byte
	want  bool
}

var (
	tcpFlow  = Flow{Proto: 6, A: []netip.Addr{podA, podA6}, B: []netip.Addr{podB, podB6}, APort: 40001, BPort: 8080}
	icmpFlow = Flow{Proto: 1, A: []netip.Addr{podA, podA6}, B: []netip.Addr{podB, podB6}, APort: 77}
	udpFlow  = Flow{
		Proto: 17, A: []netip.Addr{podA, podA6}, B: []netip.Addr{podB, podB6}, APort: 40001, BPort: 53,
		Marker: [8]byte{'p', 'o', 'd', 1, 2, 3, 4, 5},
	}
)

func tcpCases(t testing.TB) []filterCase {
	v4 := plain4(podA, podB, tcp(40001, 8080))
	v6 := plain6(podA6, podB6, layers.IPProtocolTCP, tcp(40001, 8080))
	opt := stack{eth(layers.EthernetTypeIPv4), options(ip4(podA, podB, layers.IPProtocolTCP)), tcp(40001, 8080)}
	optOther := stack{eth(layers.EthernetTypeIPv4), options(ip4(podA, podB, layers.IPProtocolTCP)), tcp(1, 2)}
	frag := stack{eth(layers.EthernetTypeIPv4), fragment(ip4(podA, podB, layers.IPProtocolTCP)), payload}
	fragOther := stack{eth(layers.EthernetTypeIPv4), fragment(ip4(podC, podD, layers.IPProtocolTCP)), payload}
	frag6 := plain6(podA6, podB6, layers.IPProtocolIPv6Fragment, raw(6, 0, 0x05, 0xc8, 0, 0, 0, 1))
	first6 := plain6(podA6, podB6, layers.IPProtocolIPv6Fragment, raw(6, 0, 0, 1, 0, 0, 0, 1), tcp(40001, 8080))
	first6Other := plain6(podA6, podB6, layers.IPProtocolIPv6Fragment, raw(6, 0, 0, 1, 0, 0, 0, 1), tcp(1, 2))
	hop6 := plain6(podA6, podB6, layers.IPProtocolIPv6HopByHop, raw(6, 0, 5, 2, 0, 0, 1, 0), tcp(40001, 8080))
	hop6Other := plain6(podA6, podB6, layers.IPProtocolIPv6HopByHop, raw(6, 0, 5, 2, 0, 0, 1, 0), tcp(1, 2))
	routing6 := plain6(podA6, podB6, 43, raw(6, 0, 4, 0, 0, 0, 0, 0))
	return []filterCase{
		{"request", v4.bytes(t), true},
		{"reply", plain4(podB, podA, tcp(8080, 40001)).bytes(t), true},
		{"IPv6 request", v6.bytes(t), true},
		{"IPv6 reply", plain6(podB6, podA6, layers.IPProtocolTCP, tcp(8080, 40001)).bytes(t), true},
		{"both addresses, DNAT of the port", plain4(podA, podB, tcp(40001, 80)).bytes(t), true},
		{"both addresses, other connection", plain4(podA, podB, tcp(1, 2)).bytes(t), false},
		{"source rewritten to a stranger", plain4(podC, podB, tcp(40001, 8080)).bytes(t), true},
		{"reply to the stranger", plain4(podB, podC, tcp(8080, 40001)).bytes(t), true},
		{"another client of B", plain4(podC, podB, tcp(40002, 8080)).bytes(t), false},
		{"same ports, both strangers", plain4(podC, podD, tcp(40001, 8080)).bytes(t), false},
		{"UDP on the ports", plain4(podA, podB, udp(40001, 8080)).bytes(t), false},
		{"ping between them", plain4(podA, podB, echo4(8, 77)).bytes(t), false},
		{"IPv4 options", opt.bytes(t), true},
		{"IPv4 options, other ports", optOther.bytes(t), false},
		{"later fragment", frag.bytes(t), true},
		{"later fragment of strangers", fragOther.bytes(t), false},
		{"IPv6 later fragment", frag6.bytes(t), true},
		{"IPv6 first fragment", first6.bytes(t), true},
		{"IPv6 first fragment, other ports", first6Other.bytes(t), false},
		{"IPv6 hop-by-hop", hop6.bytes(t), true},
		{"IPv6 hop-by-hop, other ports", hop6Other.bytes(t), false},
		{"IPv6 header that is not followed", routing6.bytes(t), true},
		{"IPv6 stranger", plain6(podC6, podB6, layers.IPProtocolTCP, tcp(1, 8080)).bytes(t), false},
		{"VLAN", tagged(v4.bytes(t), cTag), true},
		{"two tags", tagged(v4.bytes(t), sTag, cTag), true},
		{"two tags, IPv6", tagged(v6.bytes(t), sTag, cTag), true},
		{"three tags", tagged(v4.bytes(t), sTag, cTag, cTag), false},
		{"VLAN, other ports", tagged(plain4(podA, podB, tcp(1, 2)).bytes(t), cTag), false},
		{"ARP", stack{eth(layers.EthernetTypeARP), payload, payload, payload}.bytes(t), true},
		{"VLAN ARP", tagged(stack{eth(layers.EthernetTypeARP), payload, payload, payload}.bytes(t), cTag), true},
		{"neighbour solicitation", plain6(podC6, podB6, 58, raw(135, 0, 0, 0, 0, 0, 0, 0)).bytes(t), true},
		{"neighbour advertisement", plain6(podC6, podB6, 58, raw(136, 0, 0, 0, 0, 0, 0, 0)).bytes(t), true},
		{"router unreachable, 8 bytes quoted", icmpError(t, node1, podA, 3, v4, 28).bytes(t), true},
		{"time exceeded", icmpError(t, node1, podA, 11, v4, 100).bytes(t), true},
		{"error about options", icmpError(t, node1, podA, 3, opt, 100).bytes(t), true},
		{"error about another flow", icmpError(t, node1, podA, 3, plain4(podA, podB, tcp(1, 2)), 100).bytes(t), false},
		{"error about strangers", icmpError(t, node1, podA, 3, plain4(podC, podD, tcp(40001, 8080)), 100).bytes(t), false},
		{"too big", icmpError6(t, podC6, podA6, 2, v6).bytes(t), true},
		{"IPv6 error about another flow", icmpError6(t, podC6, podA6, 1, plain6(podA6, podB6, 6, tcp(1, 2))).bytes(t), false},
		{"LLDP", stack{eth(0x88cc), payload, payload}.bytes(t), false},
		{"runt", []byte{1, 2, 3}, false},
		{"header cut off", v4.bytes(t)[:20], false},
		{"VXLAN where none is expected", vxlan(t, 8472, v4).bytes(t), false},
	}
}

// passes runs the program in the library's machine.
func passes(t testing.TB, prog []bpf.RawInstruction, frame []byte) bool {
	t.Helper()
	ins, ok := bpf.Disassemble(prog)
	if !ok {
		t.Fatal("program does not disassemble")
	}
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func mustFilter(t testing.TB, flow Flow, encap []Encap, opts FilterOptions) []bpf.RawInstruction {
	t.Helper()
	prog, err := Filter(flow, encap, opts)
	if err != nil {
		t.Fatal(err)
	}
	return prog
}

func runFilterCases(t *testing.T, prog []bpf.RawInstruction, cases []filterCase) {
	t.Helper()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			if got := passes(t, prog, tt.frame); got != tt.want {
				t.Errorf("passes = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestFilterTCP(t *testing.T) {
	runFilterCases(t, mustFilter(t, tcpFlow, nil, FilterOptions{}), tcpCases(t))
}

func icmpCases(t testing.TB) []filterCase {
	v4 := plain4(podA, podB, echo4(8, 77))
	return []filterCase{
		{"request", v4.bytes(t), true},
		{"reply", plain4(podB, podA, echo4(0, 77)).bytes(t), true},
		{"both addresses, id rewritten", plain4(podA, podB, echo4(8, 78)).bytes(t), true},
		{"one address, the id", plain4(podC, podB, echo4(8, 77)).bytes(t), true},
		{"one address, another id", plain4(podC, podB, echo4(8, 78)).bytes(t), false},
		{"strangers", plain4(podC, podD, echo4(8, 77)).bytes(t), false},
		{"IPv6 request", plain6(podA6, podB6, 58, echo6(128, 77)).bytes(t), true},
		{"IPv6 reply", plain6(podB6, podA6, 58, echo6(129, 77)).bytes(t), true},
		{"IPv6 one address, another id", plain6(podB6, podC6, 58, echo6(129, 78)).bytes(t), false},
		{"unreachable", icmpError(t, node1, podA, 3, v4, 28).bytes(t), true},
		{"unreachable about another", icmpError(t, node1, podC, 3, plain4(podC, podB, echo4(8, 78)), 28).bytes(t), false},
		{"IPv6 unreachable", icmpError6(t, podC6, podA6, 1, plain6(podA6, podB6, 58, echo6(128, 77))).bytes(t), true},
		{"TCP between them", plain4(podA, podB, tcp(1, 77)).bytes(t), false},
		{"timestamp request", plain4(podA, podB, echo4(13, 77)).bytes(t), false},
	}
}

func TestFilterICMP(t *testing.T) {
	runFilterCases(t, mustFilter(t, icmpFlow, nil, FilterOptions{}), icmpCases(t))
}

func TestFilterMarker(t *testing.T) {
	mark := raw(append(udpFlow.Marker[:], 0, 0)...)
	withMark := func(s stack) []byte { return append(s[:len(s)-1], mark).bytes(t) }
	icmp := icmpFlow
	icmp.Marker = udpFlow.Marker
	runFilterCases(t, mustFilter(t, udpFlow, nil, FilterOptions{}), []filterCase{
		{"strangers with the marker", withMark(plain4(podC, podD, udp(1, 2))), true},
		{"IPv6 strangers with the marker", withMark(plain6(podC6, podC6, 17, udp(1, 2))), true},
		{"strangers", plain4(podC, podD, udp(40001, 53)).bytes(t), false},
		{"request without the marker", plain4(podA, podB, udp(40001, 53)).bytes(t), true},
		{"empty datagram", plain4(podA, podB, udp(40001, 53))[:3].bytes(t), true},
	})
	runFilterCases(t, mustFilter(t, icmp, nil, FilterOptions{}), []filterCase{
		{"echo of strangers with the marker", withMark(plain4(podC, podD, echo4(8, 1))), true},
		{"echo of strangers", plain4(podC, podD, echo4(8, 77)).bytes(t), false},
	})
}

func TestFilterAnyProtocol(t *testing.T) {
	flow := Flow{A: []netip.Addr{podA}, B: []netip.Addr{podB}}
	runFilterCases(t, mustFilter(t, flow, nil, FilterOptions{}), []filterCase{
		{"TCP", plain4(podA, podB, tcp(1, 2)).bytes(t), true},
		{"ping", plain4(podB, podA, echo4(8, 1)).bytes(t), true},
		{"GRE", stack{eth(layers.EthernetTypeIPv4), ip4(podA, podB, 47), payload}.bytes(t), true},
		{"stranger", plain4(podC, podB, tcp(1, 2)).bytes(t), false},
		{"stranger's ping", plain4(podC, podB, echo4(8, 1)).bytes(t), false},
		{"error", icmpError(t, node1, podA, 11, plain4(podA, podB, tcp(1, 2)), 28).bytes(t), true},
	})
}

func TestFilterNoLink(t *testing.T) {
	prog := mustFilter(t, tcpFlow, nil, FilterOptions{NoLink: true})
	for _, tt := range tcpCases(t) {
		if len(tt.frame) < 14 || tt.frame[12] != 8 && tt.frame[12] != 0x86 || tt.frame[13] == 6 {
			continue // link-layer matters
		}
		if got := passes(t, prog, tt.frame[14:]); got != tt.want {
			t.Errorf("%s: passes = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// encapCases has each frame of the plain cases behind VXLAN, and what is special to the outside.
func encapCases(t testing.TB, plain []filterCase) []filterCase {
	var out []filterCase
	for _, tt := range plain {
		if tt.name == "VXLAN where none is expected" {
			continue
		}
		inner := stack{gopacket.Payload(tt.frame)}
		out6 := stack{eth(layers.EthernetTypeIPv6), ip6(podC6, podC6, layers.IPProtocolUDP)}
		opt := stack{eth(layers.EthernetTypeIPv4), options(ip4(node1, node2, layers.IPProtocolUDP))}
		out = append(out,
			tt,
			filterCase{"VXLAN/" + tt.name, vxlan(t, 8472, inner).bytes(t), tt.want},
			filterCase{"VXLAN over IPv6/" + tt.name, vxlan(t, 8472, inner, out6...).bytes(t), tt.want},
			filterCase{"VXLAN, outer options/" + tt.name, vxlan(t, 8472, inner, opt...).bytes(t), tt.want},
			filterCase{"VXLAN, outer VLAN/" + tt.name, tagged(vxlan(t, 8472, inner).bytes(t), cTag), tt.want},
			filterCase{"second port/" + tt.name, vxlan(t, 4789, inner).bytes(t), tt.want},
		)
	}
	carrier := vxlan(t, 8472, plain4(podA, podB, tcp(40001, 8080)))
	frag := stack{eth(layers.EthernetTypeIPv4), fragment(ip4(node1, node2, layers.IPProtocolUDP)), payload}
	return append(out,
		filterCase{"not the port", vxlan(t, 8473, plain4(podA, podB, tcp(40001, 8080))).bytes(t), false},
		filterCase{"port unreachable between VTEPs", icmpError(t, node2, node1, 3, carrier, 28).bytes(t), true},
		filterCase{"unreachable about other UDP", icmpError(t, node2, node1, 3, plain4(node1, node2, udp(1, 2)), 28).bytes(t), false},
		filterCase{"later fragment of the outside", frag.bytes(t), true},
	)
}

var bothPorts = []Encap{{UDPPort: 8472}, {UDPPort: 4789}}

func TestFilterEncap(t *testing.T) {
	for name, in := range map[string]struct {
		flow  Flow
		cases []filterCase
	}{"tcp": {tcpFlow, tcpCases(t)}, "icmp": {icmpFlow, icmpCases(t)}} {
		t.Run(name, func(t *testing.T) {
			prog := mustFilter(t, in.flow, bothPorts, FilterOptions{})
			t.Logf("%d instructions", len(prog))
			runFilterCases(t, prog, encapCases(t, in.cases))
		})
	}
}

// TestFilterManyAddresses needs jumps beyond the 255 instructions of a conditional one.
func TestFilterManyAddresses(t *testing.T) {
	flow := tcpFlow
	for i := range 30 {
		flow.B = append(flow.B, netip.MustParseAddr(fmt.Sprintf("fd00:2::%x", 0x100+i)), netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}))
	}
	prog := mustFilter(t, flow, bothPorts, FilterOptions{})
	t.Logf("%d instructions", len(prog))
	last6, last4 := flow.B[len(flow.B)-2], flow.B[len(flow.B)-1]
	cases := append(encapCases(t, tcpCases(t)),
		filterCase{"last IPv4 address", plain4(podA, last4, tcp(40001, 80)).bytes(t), true},
		filterCase{"last IPv6 address", plain6(podA6, last6, 6, tcp(40001, 80)).bytes(t), true},
		filterCase{"inside VXLAN", vxlan(t, 8472, plain6(last6, podA6, 6, tcp(80, 40001))).bytes(t), true},
	)
	for _, tt := range cases {
		if got := passes(t, prog, tt.frame); got != tt.want {
			t.Errorf("%s: passes = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestFilterErrors(t *testing.T) {
	if _, err := Filter(Flow{Proto: 6}, nil, FilterOptions{}); err == nil {
		t.Error("a flow without addresses gives no error")
	}
	flow := Flow{Proto: 6}
	for i := range 3000 {
		flow.A = append(flow.A, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	if _, err := Filter(flow, nil, FilterOptions{}); err == nil {
		t.Error("a program that the kernel would refuse gives no error")
	}
}

func TestSnapped(t *testing.T) {
	prog := snapped(mustFilter(t, tcpFlow, nil, FilterOptions{}), 100)
	ins, _ := bpf.Disassemble(prog)
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := vm.Run(plain4(podA, podB, tcp(40001, 8080)).bytes(t)); err != nil || n == 0 || n > 100 {
		t.Errorf("Run = %d, %v, want at most 100", n, err)
	}
	if p := snapped(nil, 64); len(p) != 1 || p[0].K != 64 {
		t.Errorf("snapped(nil) = %v, want ret 64", p)
	}
}

func FuzzFilter(f *testing.F) {
	for _, tt := range encapCases(f, tcpCases(f)) {
		f.Add(tt.frame)
	}
	prog := mustFilter(f, tcpFlow, bothPorts, FilterOptions{})
	ins, _ := bpf.Disassemble(prog)
	vm, err := bpf.NewVM(ins)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if _, err := vm.Run(frame); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestFilterIPInUDP: flannel's proxy sends the packet without its Ethernet header.
func TestFilterIPInUDP(t *testing.T) {
	flow := Flow{Proto: protoTCP, A: []netip.Addr{podA}, B: []netip.Addr{podB}, APort: 40000, BPort: 8080}
	both := []Encap{{UDPPort: 8472}, {UDPPort: 8285, IP: true}}
	carry := func(port uint16, inner stack) []byte {
		return stack{
			eth(layers.EthernetTypeIPv4), ip4(node1, node2, layers.IPProtocolUDP), udp(8285, port), gopacket.Payload(inner[1:].bytes(t)),
		}.bytes(t)
	}
	ours, other := plain4(podA, podB, tcp(40000, 8080)), plain4(podA, podB, tcp(40001, 8081))
	six := plain6(podA6, podB6, layers.IPProtocolTCP, tcp(40000, 8080))
	prog := mustFilter(t, flow, both, FilterOptions{})
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"the flow":                 {carry(8285, ours), true},
		"another flow":             {carry(8285, other), false},
		"behind another port":      {carry(9999, ours), false},
		"behind a VXLAN port":      {carry(8472, ours), false},
		"the flow of other family": {carry(8285, six), false},
		"in VXLAN":                 {vxlan(t, 8472, ours).bytes(t), true},
		"as it is":                 {ours.bytes(t), true},
	} {
		if got := passes(t, prog, c.frame); got != c.want {
			t.Errorf("%s: passes %v", name, got)
		}
	}
}

// TestFilterTranslatedPorts: between the two ends, a port that a rule put in the place of the flow's passes.
func TestFilterTranslatedPorts(t *testing.T) {
	flow := Flow{Proto: protoTCP, A: []netip.Addr{podA, node1}, B: []netip.Addr{podB}, APort: 40000, BPort: 80, Ports: []uint16{8080}}
	prog := mustFilter(t, flow, nil, FilterOptions{})
	for name, c := range map[string]struct {
		s    stack
		want bool
	}{
		"both ports translated": {plain4(node1, podB, tcp(51234, 8080)), true},
		"and the answer":        {plain4(podB, node1, tcp(8080, 51234)), true},
		"neither port known":    {plain4(node1, podB, tcp(51234, 8081)), false},
		"one end is another's":  {plain4(podC, podB, tcp(51234, 8080)), false},
		"as it was sent":        {plain4(podA, podB, tcp(40000, 80)), true},
	} {
		if got := passes(t, prog, c.s.bytes(t)); got != c.want {
			t.Errorf("%s: passes %v", name, got)
		}
	}
}
