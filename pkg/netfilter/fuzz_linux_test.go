package netfilter

import (
	"encoding/json"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// expressions of nf_tables that decodeExpr knows.
var exprNames = []string{
	"meta", "payload", "cmp", "range", "bitwise", "byteorder", "immediate", "lookup", "ct", "limit", "connlimit", "quota", "numgen", "hash", "fib", "exthdr", "rt", "socket",
	"osf", "xfrm", "tunnel", "dynset", "objref", "nat", "masq", "redir", "reject", "notrack", "counter", "last", "log", "dup", "flow_offload", "fwd", "queue", "match", "target",
}

// FuzzExpr: the attributes of an expression may be anything, and so may what a rule makes of them.
func FuzzExpr(f *testing.F) {
	ae := netlink.NewAttributeEncoder()
	for i := uint16(1); i < 8; i++ {
		ae.Bytes(i, []byte{0, 0, 0, byte(i)})
	}
	b, err := ae.Encode()
	if err != nil {
		f.Fatal(err)
	}
	for i := range exprNames {
		f.Add(uint8(i), b, uint8(FamilyInet))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte, fam uint8) {
		name := exprNames[int(which)%len(exprNames)]
		e, err := decodeExpr(name, b, Family(fam))
		if err != nil {
			if e.Op != "" {
				t.Errorf("an error, and %+v", e)
			}
			return
		}
		load := Expr{Op: OpPayload, Base: baseNetwork, Offset: 12, Len: 4, Dreg: 1}
		tab := Table{Backend: BackendNFT, Family: FamilyIPv4, Name: "t", Sets: []Set{{Name: "", Interval: true, KeyLen: 4, Elements: []Element{{Key: []byte{1}}}}}}
		rule := Rule{Number: 1, Exprs: []Expr{load, e, e, {Op: OpVerdict, Jump: &Jump{Code: JumpDrop}}}}
		tab.describe(&rule)
		for h := HookPrerouting; h <= HookPostrouting; h++ {
			tab.Chains = append(tab.Chains, Chain{Name: h.String(), Base: true, Hook: h, Type: "filter", Rules: []Rule{rule}}, Chain{Name: "n", Base: true, Hook: h, Type: "nat", Rules: []Rule{rule}})
		}
		s := NewState(&Ruleset{Tables: []Table{tab}})
		for h := HookPrerouting; h <= HookPostrouting; h++ {
			if outs := s.Run(FamilyIPv4, h, udp("10.9.1.1", 53), Conn{}, plainEnv{}); len(outs) == 0 {
				t.Errorf("%s %+v has no outcome", name, e)
			}
		}
	})
}

// FuzzElement reads elements of sets, and the description of their keys.
func FuzzElement(f *testing.F) {
	ae := netlink.NewAttributeEncoder()
	ae.Nested(unix.NFTA_SET_ELEM_KEY, func(n *netlink.AttributeEncoder) error {
		n.Bytes(unix.NFTA_DATA_VALUE, []byte{10, 0, 0, 1})
		return nil
	})
	ae.Nested(2, func(n *netlink.AttributeEncoder) error { n.Bytes(1, []byte{8, 0, 1, 0, 0, 0, 0, 4}); return nil })
	b, err := ae.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint8(4))
	f.Fuzz(func(_ *testing.T, b []byte, n uint8) {
		ad, err := decoder(b)
		if err != nil {
			return
		}
		s := Set{Fields: fieldsOf(b), Interval: n&1 != 0, Elements: []Element{element(ad)}}
		s.find(func(k int) value { return exactly(make([]byte, k)) })
		_ = s.text([]string{"addr", "num"})
	})
}

// FuzzIPSet reads messages of ipset and asks the set.
func FuzzIPSet(f *testing.F) {
	ae := netlink.NewAttributeEncoder()
	ae.String(ipsetAttrSetName, "s")
	ae.String(ipsetAttrTypeName, "hash:net")
	ae.Nested(ipsetAttrADT, func(l *netlink.AttributeEncoder) error {
		l.Nested(ipsetAttrData, func(n *netlink.AttributeEncoder) error {
			n.Nested(ipsetAttrIP, func(a *netlink.AttributeEncoder) error { a.Bytes(1, []byte{10, 9, 0, 0}); return nil })
			n.Uint8(ipsetAttrCIDR, 16)
			return nil
		})
		return nil
	})
	b, err := ae.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint8(1))
	f.Fuzz(func(_ *testing.T, b []byte, flags uint8) {
		sets, err := addIPSet(nil, b)
		if err != nil {
			return
		}
		e := Expr{Op: OpSet, Len: 3, Flags: uint32(flags)}
		tab := legacy("filter", chain("FORWARD", HookForward, 0, "filter", false, Rule{Exprs: []Expr{e, verdict(JumpDrop, "")}}))
		NewState(&Ruleset{Tables: []Table{tab}, IPSets: sets}).Run(FamilyIPv4, HookForward, udp("10.9.1.1", 53), Conn{}, plainEnv{})
	})
}

// FuzzRuleset: a snapshot's rules come from files too, with any field of an expression set or missing.
func FuzzRuleset(f *testing.F) {
	for _, seed := range []string{`[{"op":"tuple"},{"op":"ports"}]`, `[{"op":"addrtype","flags":3}]`, `[{"op":"nat","nat":{"Kind":"dnat","PortMin":1,"PortMax":9,"Random":true}}]`,
		`[{"op":"payload","len":4,"dreg":1},{"op":"lookup","set":"s","sreg":1}]`, `[{"op":"numgen","mod":4000000000,"dreg":1}]`, `[{"op":"set","mod":1,"len":2}]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		var es []Expr
		if json.Unmarshal(b, &es) != nil || len(es) > 4 {
			return
		}
		rule := Rule{Number: 1, Exprs: es}
		tab := Table{Backend: BackendNFT, Family: FamilyIPv4, Name: "t", Sets: []Set{{Name: "s", Map: true, KeyLen: 1 << 31, Elements: []Element{{}, {Key: []byte{1, 2, 3, 4}, KeyEnd: []byte{9}}}}}}
		for h := HookPrerouting; h <= HookPostrouting; h++ {
			tab.Chains = append(tab.Chains, Chain{Name: h.String(), Base: true, Hook: h, Type: "filter", Rules: []Rule{rule}}, Chain{Name: "n", Base: true, Hook: h, Type: "nat", Rules: []Rule{rule}})
		}
		s := NewState(&Ruleset{Tables: []Table{tab}, IPSets: []IPSet{{Index: 1, Type: "hash:ip,port", Members: []IPSetEntry{{}}}}})
		for h := HookPrerouting; h <= HookPostrouting; h++ {
			s.Run(FamilyIPv4, h, udp("10.9.1.1", 53), Conn{}, plainEnv{})
		}
		_ = s.Counters()
	})
}
