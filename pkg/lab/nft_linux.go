package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// writeNetfilter replaces the whole ruleset of the namespace in one transaction. The rules are what
// iptables-nft makes, so that iptables-nft -S reads them as its own.
func (s *space) writeNetfilter(p *plan) error {
	var conn *nftables.Conn
	err := s.netns.Do(func() (err error) {
		conn, err = nftables.New(nftables.AsLasting())
		return err
	})
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer conn.CloseLasting() //nolint:errcheck // a socket that was only written to
	// iptables-nft before 1.8.10 knows masquerading only as the xtables target that it writes itself,
	// and takes no further rule in a table that it does not understand; a kernel may lack nft_compat.
	err = writeTables(conn, p.tables, xtMasquerade)
	if err != nil {
		err = writeTables(conn, p.tables, masquerade)
	}
	if err == nil {
		err = s.writeRulesets(p)
	}
	if err != nil {
		return fmt.Errorf("write netfilter rules: %w", err)
	}
	return nil
}

// Flags of a range, linux/netfilter/nf_nat.h.
const (
	rangeProtoSpecified   = 1 << 1 // NF_NAT_RANGE_PROTO_SPECIFIED
	rangeProtoRandomFully = 1 << 4 // NF_NAT_RANGE_PROTO_RANDOM_FULLY
)

// xtMasquerade is "-j MASQUERADE", with "--random-fully" or with "--to-ports N".
func xtMasquerade(family int, r nftRule) []expr.Any {
	flags := uint(rangeProtoRandomFully)
	switch {
	case r.toPort != 0:
		flags = rangeProtoSpecified
	case r.inOrder:
		flags = 0
	}
	to := uint16(r.toPort) //nolint:gosec // a port
	var info xt.InfoAny = &xt.NatIPv4MultiRangeCompat{{
		Flags: flags, MinIP: net.IPv4zero.To4(), MaxIP: net.IPv4zero.To4(), MinPort: to, MaxPort: to,
	}}
	if family == familyIPv6 {
		info = &xt.NatRange{Flags: flags, MinIP: net.IPv6zero, MaxIP: net.IPv6zero, MinPort: to, MaxPort: to}
	}
	return []expr.Any{&expr.Target{Name: "MASQUERADE", Info: info}}
}

// masquerade is the same in nftables' own terms.
func masquerade(_ int, r nftRule) []expr.Any {
	if r.toPort == 0 {
		return []expr.Any{&expr.Masq{FullyRandom: !r.inOrder}}
	}
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(uint16(r.toPort))}, //nolint:gosec // a port
		&expr.Masq{ToPorts: true, RegProtoMin: 1},
	}
}

func writeTables(conn *nftables.Conn, tables []nftTable, masq func(family int, r nftRule) []expr.Any) error {
	conn.FlushRuleset()
	for _, t := range tables {
		writeTable(conn, t, masq)
	}
	return conn.Flush()
}

func writeTable(conn *nftables.Conn, t nftTable, masq func(family int, r nftRule) []expr.Any) {
	table := conn.AddTable(&nftables.Table{Family: nftFamily(t.family), Name: t.name})
	chains := make([]*nftables.Chain, len(t.chains))
	for i, c := range t.chains { // all of them first: rules jump to chains below
		chains[i] = conn.AddChain(nftablesChain(table, c))
	}
	for i, c := range t.chains {
		for _, r := range c.rules {
			act := actionExprs(r)
			if r.action == actionMasquerade {
				act = masq(t.family, r)
			}
			exprs := append(append(ruleExprs(t.family, r), &expr.Counter{}), act...)
			conn.AddRule(&nftables.Rule{Table: table, Chain: chains[i], Exprs: exprs, UserData: ruleComment(r)})
		}
	}
}

func nftFamily(family int) nftables.TableFamily {
	switch family {
	case familyINet:
		return nftables.TableFamilyINet
	case familyBridge:
		return nftables.TableFamilyBridge
	case familyIPv6:
		return nftables.TableFamilyIPv6
	default:
		return nftables.TableFamilyIPv4
	}
}

func nftablesChain(table *nftables.Table, c nftChain) *nftables.Chain {
	chain := &nftables.Chain{Name: c.name, Table: table}
	if c.hook == "" {
		return chain
	}
	policy := nftables.ChainPolicyAccept
	if c.drop {
		policy = nftables.ChainPolicyDrop
	}
	chain.Type, chain.Policy = nftables.ChainType(c.typ), &policy
	chain.Priority = new(nftables.ChainPriority(c.priority)) //nolint:gosec // small constants
	chain.Hooknum = map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
		"output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting,
	}[c.hook]
	return chain
}

func ruleComment(r nftRule) []byte {
	if r.comment == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, r.comment)
}

// Offsets in the IPv4 header, RFC 791 section 3.1, the IPv6 header, RFC 8200 section 3, and in the UDP
// header, RFC 768; in bytes.
const (
	ipv4Src, ipv4Dst = 12, 16
	ipv6Src, ipv6Dst = 8, 24
	udpDst, udpCheck = 2, 6
)

// ruleExprs gives what a rule matches.
func ruleExprs(family int, r nftRule) []expr.Any {
	var e []expr.Any
	if family == familyINet || family == familyBridge {
		e = append(e, matchFamily(family, r)...)
	}
	e = append(e, matchPrefix(r.src, r.notSrc, ipv4Src, ipv6Src)...)
	e = append(e, matchPrefix(r.dst, r.notDst, ipv4Dst, ipv6Dst)...)
	e = append(e, matchDevice(expr.MetaKeyIIFNAME, r.iif, false)...)
	e = append(e, matchDevice(expr.MetaKeyOIFNAME, r.oif, r.notOif)...)
	switch {
	case r.udpPort != 0:
		e = append(e, matchL4(unix.IPPROTO_UDP)...)
		e = append(e, matchTransport(udpDst, binaryutil.BigEndian.PutUint16(uint16(r.udpPort)))...) //nolint:gosec // a port
	case r.tcp:
		e = append(e, matchL4(unix.IPPROTO_TCP)...)
	case r.icmp != nil:
		e = append(e, matchL4(unix.IPPROTO_ICMP)...)
		e = append(e, matchTransport(0, []byte{r.icmp.typ, r.icmp.code})...)
	}
	if r.mark != 0 {
		mask := binaryutil.NativeEndian.PutUint32(r.mark)
		e = append(e,
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: mask})
	}
	return e
}

// matchPrefix compares whole bytes where the prefix ends at one, as iptables-nft does.
func matchPrefix(p netip.Prefix, not bool, offset4, offset6 uint32) []expr.Any {
	if !p.IsValid() {
		return nil
	}
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	address := p.Masked().Addr().AsSlice()
	length := uint32(len(address))
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset4, Len: length}
	if p.Addr().Is6() {
		load.Offset = offset6
	}
	if p.Bits()%8 == 0 {
		load.Len = uint32(p.Bits() / 8) //nolint:gosec // 1..16
		return []expr.Any{load, &expr.Cmp{Op: op, Register: 1, Data: address[:load.Len]}}
	}
	mask := ipNet(p).Mask
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)},
		&expr.Cmp{Op: op, Register: 1, Data: address},
	}
}

func matchDevice(key expr.MetaKey, name string, not bool) []expr.Any {
	if name == "" {
		return nil
	}
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: append([]byte(name), 0)}}
}

// matchFamily keeps a rule to the family that the rest of it is about, where the table has others. A
// frame of a bridge may be anything; a UDP port alone is looked for in IPv4, as the lab's underlay is.
func matchFamily(family int, r nftRule) []expr.Any {
	is6 := r.src.Addr().Is6() || r.dst.Addr().Is6()
	if !r.src.IsValid() && !r.dst.IsValid() && r.icmp == nil {
		return nil
	}
	if family == familyBridge {
		etherType := uint16(unix.ETH_P_IP)
		if is6 {
			etherType = unix.ETH_P_IPV6
		}
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(etherType)}}
	}
	proto := byte(unix.NFPROTO_IPV4)
	if is6 {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

func matchL4(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

func matchTransport(offset uint32, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(value))}, //nolint:gosec // 2
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

// icmpxAdminProhibited is NFT_REJECT_ICMPX_ADMIN_PROHIBITED (linux/netfilter/nf_tables.h).
const icmpxAdminProhibited = 3

func actionExprs(r nftRule) []expr.Any {
	switch r.action {
	case actionDrop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case actionReturn:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	case actionJump:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: r.jump}}
	case actionReject:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: icmpxAdminProhibited}}
	case actionDNAT:
		return natExprs(expr.NATTypeDestNAT, r.to)
	case actionSNAT:
		return natExprs(expr.NATTypeSourceNAT, r.to)
	case actionBadChecksum:
		return []expr.Any{
			&expr.Immediate{Register: 1, Data: []byte{0xde, 0xad}},
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: udpCheck, Len: 2},
		}
	default:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	}
}

func natExprs(typ expr.NATType, to netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: typ, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
}
