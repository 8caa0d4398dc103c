package netfilter

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// recorded is a ruleset that a kernel gave.
func recorded(t *testing.T, name string) *Ruleset {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var rs Ruleset
	if err := json.Unmarshal(b, &rs); err != nil {
		t.Fatal(err)
	}
	return &rs
}

func tcp(src, dst string, port uint16) Packet {
	return Packet{
		Family: FamilyIPv4, EtherType: etherIPv4, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: protoTCP,
		TCPFlags: tcpSYN, SrcPort: 4000, DstPort: port, In: "eth0", InIndex: 2, Length: 60, TTL: 64,
	}
}

// TestKubeProxy plays packets through recorded rules of kube-proxy, in both modes.
func TestKubeProxy(t *testing.T) {
	for _, c := range []struct {
		name  string
		p     Packet
		dests []string // one outcome each
		mark  uint32
	}{
		{"service of two endpoints", tcp("10.1.0.2", "10.96.0.1", 80), []string{"10.2.0.2:8080", "10.2.0.3:8080"}, 0x4000},
		{"from a pod", tcp("10.2.0.9", "10.96.0.1", 80), []string{"10.2.0.2:8080", "10.2.0.3:8080"}, 0},
		{"session affinity", tcp("10.1.0.2", "10.96.0.1", 443), []string{"10.2.0.2:9443", "10.2.0.3:9443"}, 0},
		{"no service", tcp("10.1.0.2", "10.96.0.9", 80), []string{"10.96.0.9:80"}, 0},
	} {
		for _, file := range []string{"kube-proxy-iptables.json", "kube-proxy-nft.json"} {
			t.Run(c.name+"/"+file, func(t *testing.T) {
				var dests []string
				for _, o := range NewState(recorded(t, file)).Run(FamilyIPv4, HookPrerouting, c.p, Conn{}, plainEnv{}) {
					dests = append(dests, netip.AddrPortFrom(o.Packet.Dst, o.Packet.DstPort).String())
					if o.Verdict != Accept || o.Packet.Mark != c.mark {
						t.Errorf("%s with mark %#x by %v", o.Verdict, o.Packet.Mark, o.Trail)
					}
					if len(c.dests) > 1 && (o.Chance == "" || !slices.ContainsFunc(o.Trail, Ref.IsNAT)) {
						t.Errorf("chance %q, trail %v", o.Chance, o.Trail)
					}
				}
				slices.Sort(dests)
				if !slices.Equal(dests, c.dests) {
					t.Errorf("goes to %v, want %v", dests, c.dests)
				}
			})
		}
	}
}

// TestNoEndpoints: a service without endpoints answers with an ICMP error, and the rule is named.
func TestNoEndpoints(t *testing.T) {
	for _, file := range []string{"kube-proxy-iptables.json", "kube-proxy-nft.json"} {
		p := tcp("10.1.0.2", "10.96.0.2", 80)
		st := NewState(recorded(t, file))
		o := st.Run(FamilyIPv4, HookPrerouting, p, Conn{}, plainEnv{})[0]
		o = o.State.Run(FamilyIPv4, HookForward, o.Packet, o.Conn, plainEnv{})[0]
		if o.Verdict != Reject || o.Answer == nil || *o.Answer != (Rejection{Type: 3, Code: 3}) {
			t.Errorf("%s: %s, answer %+v", file, o.Verdict, o.Answer)
		}
		if last := o.Trail[len(o.Trail)-1]; last.What != WhatReject || last.Rule == 0 || last.Text == "" || last.Command == "" {
			t.Errorf("%s: by %+v", file, last)
		}
	}
}

// TestOpaque: an action that nobody knows is never taken for one without effect.
func TestOpaque(t *testing.T) {
	for _, e := range []Expr{decodeTarget("MYSTERY", 7, nil, false), {Op: OpLookup, Set: "gone"}} {
		tab := legacy("filter", chain("FORWARD", HookForward, 0, "filter", false, Rule{Exprs: []Expr{e, verdict(JumpDrop, "")}}))
		outs := NewState(&Ruleset{Tables: []Table{tab}}).Run(FamilyIPv4, HookForward, udp("10.9.1.1", 53), Conn{}, plainEnv{})
		if len(outs) != 1 || outs[0].Verdict != Unknown || !strings.Contains(outs[0].Trail[len(outs[0].Trail)-1].Text, e.Text) {
			t.Errorf("%q gives %+v", e.Text, outs)
		}
	}
}

// TestDoubtBesideChance: an unknown match that makes no difference leaves the random outcomes alone, one that
// does makes all unknown.
func TestDoubtBesideChance(t *testing.T) {
	half := Expr{Op: OpStatistic, Key: "random", Mod: 1 << 30, Text: "half"}
	for want, code := range map[int]JumpCode{2: JumpAccept, 1: JumpDrop} {
		tab := legacy("filter", chain("FORWARD", HookForward, 0, "filter", false,
			Rule{Exprs: []Expr{half, {Op: OpSetMark, Data: []byte{1, 0, 0, 0}, DataEnd: []byte{1, 0, 0, 0}}}},
			Rule{Exprs: []Expr{{Op: OpUnknown, Text: "-m mystery"}, verdict(code, "")}}))
		outs := NewState(&Ruleset{Tables: []Table{tab}}).Run(FamilyIPv4, HookForward, udp("10.9.1.1", 53), Conn{}, plainEnv{})
		if len(outs) != want || (outs[0].Verdict == Unknown) != (want == 1) {
			t.Errorf("%s: %+v", code, outs)
		}
	}
}

// TestUnknownBits: a comparison needs only the bits that it looks at.
func TestUnknownBits(t *testing.T) {
	load := Expr{Op: OpPayload, Base: baseNetwork, Offset: 0, Len: 4, Dreg: 9} // TOS, and a length
	for _, c := range []struct {
		name string
		es   []Expr
		want Verdict
	}{
		{"id masked out", []Expr{{Op: OpPayload, Base: baseNetwork, Offset: 4, Len: 4, Dreg: 9}, {Op: OpBitwise, Sreg: 9, Dreg: 9, Len: 4, Data: make([]byte, 4), DataEnd: make([]byte, 4)}, {Op: OpCmp, Sreg: 9, Data: make([]byte, 4)}}, Drop},
		{"id asked", []Expr{{Op: OpPayload, Base: baseNetwork, Offset: 4, Len: 4, Dreg: 9}, {Op: OpCmp, Sreg: 9, Data: make([]byte, 4)}}, Unknown},
		{"differs where known", []Expr{load, {Op: OpCmp, Sreg: 9, Data: []byte{0x60, 0, 0, 0}}}, Accept},
	} {
		tab := Table{Backend: BackendNFT, Family: FamilyIPv4, Name: "x", Chains: []Chain{chain("c", HookForward, 0, "filter", false, Rule{Exprs: append(c.es, verdict(JumpDrop, ""))})}}
		outs := NewState(&Ruleset{Tables: []Table{tab}}).Run(FamilyIPv4, HookForward, udp("10.9.1.1", 53), Conn{}, plainEnv{})
		if outs[0].Verdict != c.want {
			t.Errorf("%s: %s, want %s", c.name, outs[0].Verdict, c.want)
		}
	}
}

// TestRelatedError: an ICMP error about a translated packet belongs to its connection, and is translated back.
func TestRelatedError(t *testing.T) {
	nat := legacy("nat", chain("PREROUTING", HookPrerouting, prioNATDst, "nat", false, Rule{Exprs: []Expr{dst("10.96.0.10/32"),
		{Op: OpNAT, NAT: &NAT{Kind: "dnat", AddrMin: netip.MustParseAddr("10.9.1.1")}, Text: "-j DNAT"}}}))
	o := NewState(&Ruleset{Tables: []Table{nat}}).Run(FamilyIPv4, HookPrerouting, udp("10.96.0.10", 53), Conn{}, plainEnv{})[0]
	o = o.State.Run(FamilyIPv4, HookPostrouting, o.Packet, o.Conn, plainEnv{})[0]
	back := Packet{Family: FamilyIPv4, Src: netip.MustParseAddr("10.9.1.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: protoICMP, ICMPType: 3, ICMPCode: 3, Inner: o.Packet.tuple()}
	e := o.State.Run(FamilyIPv4, HookPrerouting, back, Conn{}, plainEnv{})[0]
	if e.Conn.State != ConnRelated || !e.Conn.Reply {
		t.Fatalf("the error's connection is %+v", e.Conn)
	}
	e = e.State.Run(FamilyIPv4, HookPostrouting, e.Packet, e.Conn, plainEnv{})[0]
	if e.Packet.Src != netip.MustParseAddr("10.96.0.10") {
		t.Errorf("the error seems to come from %s", e.Packet.Src)
	}
}

func TestCounters(t *testing.T) {
	tab := legacy("filter", chain("FORWARD", HookForward, 0, "filter", true, Rule{Exprs: []Expr{dst("10.9.0.0/16"), verdict(JumpAccept, "")}, Packets: 3, Bytes: 180, Counted: true}, Rule{}))
	tab.Chains[0].Packets, tab.Chains[0].Bytes, tab.Chains[0].Counted = 7, 420, true
	tab.Objects = []Object{{Name: "hits", Packets: 1, Bytes: 60, Counted: true}}
	var got []string
	for _, c := range NewState(&Ruleset{Tables: []Table{tab}}).Counters() {
		got = append(got, strings.Join([]string{c.Ref.Chain, c.Ref.What, c.Ref.Text}, "|"))
		if c.Packets == 0 || c.Bytes == 0 {
			t.Errorf("%+v counts nothing", c)
		}
	}
	if want := []string{"FORWARD||-d 10.9.0.0/16 accept", "FORWARD|policy|drop", "hits|counter|counter hits"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestWildcards: iptables keeps the + of a name, and its mask says how much is compared.
func TestWildcards(t *testing.T) {
	mask := func(n int) []byte { return append([]byte(strings.Repeat("\xff", n)), make([]byte, 16-n)...) }
	name := func(s string) []byte { return append([]byte(s), make([]byte, 16-len(s))...) }
	for _, c := range []struct {
		name string
		mask int
		want string
	}{{"eth0", 5, "eth0"}, {"eth+", 3, "eth+"}, {"+", 0, ""}, {"", 0, ""}, {"abcdefghijklmno", 16, "abcdefghijklmno"}} {
		if got := masked(name(c.name), mask(c.mask)); got != c.want {
			t.Errorf("%q under %d bytes is %q, want %q", c.name, c.mask, got, c.want)
		}
	}
}

func TestParseRecent(t *testing.T) {
	l := parseRecent("seen", "src=10.0.0.1 ttl: 64 last_seen: 4295 oldest_pkt: 1 4295\nsrc=fd00::1 ttl: 1\nnoise\nsrc=x\n")
	if want := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}; !slices.Equal(l.Addrs, want) {
		t.Errorf("%v, want %v", l.Addrs, want)
	}
}

// TestBridgeAndDevice: the hooks of a bridge and of a device run their own families' chains, those of a
// device only for that device.
func TestBridgeAndDevice(t *testing.T) {
	drop := Rule{Number: 1, Exprs: []Expr{verdict(JumpDrop, "")}}
	table := func(fam Family, h Hook, devices ...string) Ruleset {
		return Ruleset{Tables: []Table{{Backend: BackendNFT, Family: fam, Name: "t", Chains: []Chain{{Name: "c", Base: true, Type: "filter", Hook: h, Devices: devices, Rules: []Rule{drop}}}}}}
	}
	arp := udp("10.9.1.1", 0)
	arp.Family, arp.EtherType, arp.ARPOp = FamilyARP, 0x806, 1
	for _, c := range []struct {
		name  string
		rules Ruleset
		fam   Family
		hook  Hook
		p     Packet
		want  Verdict
	}{
		{"bridge", table(FamilyBridge, HookForward), FamilyBridge, HookForward, udp("10.9.1.1", 53), Drop},
		{"bridge rules do not see routed packets", table(FamilyBridge, HookForward), FamilyIPv4, HookForward, udp("10.9.1.1", 53), Accept},
		{"ingress", table(FamilyNetdev, HookIngress, "eth0"), FamilyNetdev, HookIngress, udp("10.9.1.1", 53), Drop},
		{"ingress of another device", table(FamilyNetdev, HookIngress, "eth1"), FamilyNetdev, HookIngress, udp("10.9.1.1", 53), Accept},
		{"ingress of a pattern", table(FamilyNetdev, HookIngress, "eth*"), FamilyNetdev, HookIngress, udp("10.9.1.1", 53), Drop},
		{"inet ingress", table(FamilyInet, HookIngress, "eth0"), FamilyNetdev, HookIngress, udp("10.9.1.1", 53), Drop},
		{"inet ingress leaves ARP alone", table(FamilyInet, HookIngress, "eth0"), FamilyNetdev, HookIngress, arp, Accept},
		{"arp", table(FamilyARP, HookInput), FamilyARP, HookInput, arp, Drop},
	} {
		if outs := NewState(&c.rules).Run(c.fam, c.hook, c.p, Conn{}, plainEnv{}); len(outs) != 1 || outs[0].Verdict != c.want {
			t.Errorf("%s: %s, want %s", c.name, outs[0].Verdict, c.want)
		}
	}
}
