package netfilter

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// plainEnv answers for a host with one address.
type plainEnv struct{}

func (plainEnv) AddrType(a netip.Addr, _ string) (string, bool) {
	if a == netip.MustParseAddr("10.0.0.1") {
		return "local", true
	}
	return "unicast", true
}

func (plainEnv) MasqueradeAddr(string, netip.Addr) (netip.Addr, bool) {
	return netip.MustParseAddr("10.0.0.1"), true
}

func (plainEnv) PrimaryAddr(string, bool) (netip.Addr, bool) {
	return netip.MustParseAddr("10.0.0.1"), true
}

func (plainEnv) ReverseDevice(netip.Addr, uint32) string { return "eth0" }

func chain(name string, h Hook, prio int32, typ string, drop bool, rules ...Rule) Chain {
	for i := range rules {
		rules[i].Number = i + 1
	}
	return Chain{Name: name, Base: true, Hook: h, Priority: prio, Type: typ, Drop: drop, Rules: rules}
}

func verdict(code JumpCode, to string) Expr {
	return Expr{Op: OpVerdict, Jump: &Jump{Code: code, Chain: to}, Text: string(code)}
}

func dst(p string) Expr {
	m := &Match{Dst: netip.MustParsePrefix(p)}
	return Expr{Op: OpTuple, Tuple: m, Text: m.text()}
}

func udp(dstAddr string, port uint16) Packet {
	return Packet{
		Family: FamilyIPv4, EtherType: 0x0800, Src: netip.MustParseAddr("10.0.0.2"), Dst: netip.MustParseAddr(dstAddr),
		Proto: 17, SrcPort: 4000, DstPort: port, In: "eth0", Length: 60, TTL: 64,
	}
}

func legacy(name string, chains ...Chain) Table {
	return Table{Backend: BackendLegacy, Family: FamilyIPv4, Name: name, Chains: chains}
}

func TestVerdicts(t *testing.T) {
	unknown := Expr{Op: OpUnknown, Text: "-m mystery"}
	for _, c := range []struct {
		name   string
		tables []Table
		want   Verdict
		by     string // What of the last reference
	}{
		{"no rules", nil, Accept, ""},
		{"policy", []Table{legacy("filter", chain("FORWARD", HookForward, 0, "filter", true))}, Drop, WhatPolicy},
		{"accept before the policy", []Table{legacy("filter", chain("FORWARD", HookForward, 0, "filter", true,
			Rule{Exprs: []Expr{dst("10.9.0.0/16"), verdict(JumpAccept, "")}}))}, Accept, WhatAccept},
		{"an accept does not stop a later chain", []Table{
			legacy("filter", chain("FORWARD", HookForward, 0, "filter", false, Rule{Exprs: []Expr{verdict(JumpAccept, "")}})),
			{Backend: BackendNFT, Family: FamilyInet, Name: "fw", Chains: []Chain{chain("f", HookForward, 10, "filter", false, Rule{Exprs: []Expr{{Op: OpReject}}})}},
		}, Reject, WhatReject},
		{"jump and return", []Table{legacy("filter",
			chain("FORWARD", HookForward, 0, "filter", true, Rule{Exprs: []Expr{verdict(JumpJump, "X")}}, Rule{Exprs: []Expr{verdict(JumpAccept, "")}}),
			Chain{Name: "X", Rules: []Rule{{Number: 1, Exprs: []Expr{verdict(JumpReturn, "")}}, {Number: 2, Exprs: []Expr{verdict(JumpDrop, "")}}}})}, Accept, WhatAccept},
		{"unknown that could drop", []Table{legacy("filter", chain("FORWARD", HookForward, 0, "filter", false,
			Rule{Exprs: []Expr{unknown, verdict(JumpDrop, "")}}))}, Unknown, WhatUnknown},
		{"unknown that makes no difference", []Table{legacy("filter", chain("FORWARD", HookForward, 0, "filter", false,
			Rule{Exprs: []Expr{unknown, verdict(JumpAccept, "")}}))}, Accept, ""},
		{"unknown behind a match that fails", []Table{legacy("filter", chain("FORWARD", HookForward, 0, "filter", false,
			Rule{Exprs: []Expr{dst("10.8.0.0/16"), unknown, verdict(JumpDrop, "")}}))}, Accept, ""},
		{"a jump in circles ends", []Table{legacy("filter", chain("FORWARD", HookForward, 0, "filter", false,
			Rule{Exprs: []Expr{verdict(JumpJump, "FORWARD")}}))}, Drop, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewState(&Ruleset{Tables: c.tables})
			outs := s.Run(FamilyIPv4, HookForward, udp("10.9.1.1", 53), Conn{}, plainEnv{})
			if len(outs) != 1 || outs[0].Verdict != c.want {
				t.Fatalf("%d outcomes, %s, want %s: %+v", len(outs), outs[0].Verdict, c.want, outs[0].Trail)
			}
			if n := len(outs[0].Trail); c.by != "" && (n == 0 || outs[0].Trail[n-1].What != c.by) {
				t.Errorf("decided by %+v, want %s", outs[0].Trail, c.by)
			}
		})
	}
}

// TestTranslation follows a connection through DNAT and MASQUERADE, and its reply back.
func TestTranslation(t *testing.T) {
	to := &NAT{Kind: "dnat", AddrMin: netip.MustParseAddr("10.9.1.1"), PortMin: 5353}
	nat := legacy("nat",
		chain("PREROUTING", HookPrerouting, prioNATDst, "nat", false, Rule{Exprs: []Expr{dst("10.96.0.10/32"), {Op: OpNAT, NAT: to, Text: "-j DNAT"}}}),
		chain("POSTROUTING", HookPostrouting, prioNATSrc, "nat", false, Rule{Exprs: []Expr{{Op: OpNAT, NAT: &NAT{Kind: "masquerade"}, Text: "-j MASQUERADE"}}}))
	s := NewState(&Ruleset{Tables: []Table{nat}})
	o := s.Run(FamilyIPv4, HookPrerouting, udp("10.96.0.10", 53), Conn{}, plainEnv{})[0]
	if o.Packet.Dst != to.AddrMin || o.Packet.DstPort != 5353 || !o.Trail[0].IsNAT() {
		t.Fatalf("after PREROUTING %s:%d, %+v", o.Packet.Dst, o.Packet.DstPort, o.Trail)
	}
	o.Packet.Out = "eth1"
	o = o.State.Run(FamilyIPv4, HookPostrouting, o.Packet, o.Conn, plainEnv{})[0]
	if o.Packet.Src != netip.MustParseAddr("10.0.0.1") {
		t.Fatalf("after POSTROUTING from %s", o.Packet.Src)
	}
	back := o.Packet
	back.Src, back.Dst, back.SrcPort, back.DstPort = o.Packet.Dst, o.Packet.Src, o.Packet.DstPort, o.Packet.SrcPort
	r := o.State.Run(FamilyIPv4, HookPrerouting, back, Conn{}, plainEnv{})[0]
	r = r.State.Run(FamilyIPv4, HookPostrouting, r.Packet, r.Conn, plainEnv{})[0]
	if r.Packet.Dst != netip.MustParseAddr("10.0.0.2") || r.Packet.Src != netip.MustParseAddr("10.96.0.10") || r.Packet.SrcPort != 53 {
		t.Errorf("the reply arrives as %s:%d > %s", r.Packet.Src, r.Packet.SrcPort, r.Packet.Dst)
	}
	if r.Conn.State != ConnEstablished || !r.Conn.Reply {
		t.Errorf("the reply's connection is %+v", r.Conn)
	}
}

// TestAlternatives: a rule that chooses at random gives an outcome for each choice, with its condition.
func TestAlternatives(t *testing.T) {
	tab := legacy("filter", chain("FORWARD", HookForward, 0, "filter", false,
		Rule{Exprs: []Expr{{Op: OpStatistic, Text: "-m statistic --probability 0.5"}, verdict(JumpDrop, "")}}))
	outs := NewState(&Ruleset{Tables: []Table{tab}}).Run(FamilyIPv4, HookForward, udp("10.9.1.1", 53), Conn{}, plainEnv{})
	if len(outs) != 2 || outs[0].Verdict == outs[1].Verdict || outs[0].Chance == "" {
		t.Errorf("%d outcomes: %+v", len(outs), outs)
	}
}

func TestIntervalSet(t *testing.T) {
	s := Set{Interval: true, Elements: []Element{{Key: []byte{0}, End: true}, {Key: []byte{10}}, {Key: []byte{20}, End: true}, {Key: []byte{30}}}}
	for v, want := range map[byte]bool{5: false, 10: true, 19: true, 20: false, 29: false, 30: true, 255: true} {
		if el, known := s.find(func(int) value { return exactly([]byte{v}) }); (el != nil) != want || !known {
			t.Errorf("%d in the set: %v (known %v), want %v", v, el, known, want)
		}
	}
}

// FuzzLegacy: entries of a table are hostile until their offsets add up.
func FuzzLegacy(f *testing.F) {
	entry := make([]byte, layout4.total+xtHeader+8)
	binary.NativeEndian.PutUint16(entry[layout4.targetOffset:], uint16(layout4.total))
	binary.NativeEndian.PutUint16(entry[layout4.targetOffset+2:], uint16(len(entry)))
	f.Add(entry, uint32(4), false)
	f.Add([]byte{}, uint32(31), true)
	f.Fuzz(func(t *testing.T, b []byte, valid uint32, v6 bool) {
		fam := FamilyIPv4
		if v6 {
			fam = FamilyIPv6
		}
		tab, err := parseLegacy("filter", fam, legacyInfo{valid: valid & 31}, b)
		if err != nil {
			return
		}
		s := NewState(&Ruleset{Tables: []Table{tab}})
		for h := HookPrerouting; h <= HookPostrouting; h++ {
			s.Run(fam, h, udp("10.9.1.1", 53), Conn{}, plainEnv{})
		}
	})
}

// FuzzXT: the structures of matches and targets may have any length.
func FuzzXT(f *testing.F) {
	for name := range xtMatches {
		f.Add(name, uint32(1), make([]byte, 300), false)
	}
	for _, name := range []string{"DNAT", "MARK", "CONNMARK", "CT"} {
		f.Add(name, uint32(2), make([]byte, 48), true)
	}
	f.Fuzz(func(t *testing.T, name string, rev uint32, b []byte, v6 bool) {
		p := udp("10.9.1.1", 53)
		for _, e := range []Expr{decodeMatch(name, rev, b, v6), decodeTarget(name, rev, b, v6)} {
			tab := legacy("filter", chain("FORWARD", HookForward, 0, "filter", false, Rule{Exprs: []Expr{e}}))
			NewState(&Ruleset{Tables: []Table{tab}}).Run(FamilyIPv4, HookForward, p, Conn{}, plainEnv{})
		}
	})
}
