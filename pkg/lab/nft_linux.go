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
		err = writeTables(conn, p.tables, &expr.Masq{FullyRandom: true})
	}
	if err != nil {
		return fmt.Errorf("write netfilter rules: %w", err)
	}
	return nil
}

// xtMasquerade is "-j MASQUERADE --random-fully"; the flag is NF_NAT_RANGE_PROTO_RANDOM_FULLY.
var xtMasquerade = &expr.Target{Name: "MASQUERADE", Info: &xt.NatIPv4MultiRangeCompat{{
	Flags: 1 << 4, MinIP: net.IPv4zero.To4(), MaxIP: net.IPv4zero.To4(),
}}}

func writeTables(conn *nftables.Conn, tables []nftTable, masquerade expr.Any) error {
	conn.FlushRuleset()
	for _, t := range tables {
		writeTable(conn, t, masquerade)
	}
	return conn.Flush()
}

func writeTable(conn *nftables.Conn, t nftTable, masquerade expr.Any) {
	table := conn.AddTable(&nftables.Table{Family: nftFamily(t.family), Name: t.name})
	chains := make([]*nftables.Chain, len(t.chains))
	for i, c := range t.chains { // all of them first: rules jump to chains below
		chains[i] = conn.AddChain(nftablesChain(table, c))
	}
	for i, c := range t.chains {
		for _, r := range c.rules {
			act := actionExpr(r)
			if r.action == actionMasquerade {
				act = masquerade
			}
			exprs := append(ruleExprs(t.family, r), &expr.Counter{}, act)
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

// Offsets in the IPv4 header, RFC 791 section 3.1, and in the UDP header, RFC 768; in bytes.
const (
	ipv4Src, ipv4Dst = 12, 16
	udpDst           = 2
)

// ruleExprs gives what a rule matches.
func ruleExprs(family int, r nftRule) []expr.Any {
	var e []expr.Any
	e = append(e, matchPrefix(r.src, r.notSrc, ipv4Src)...)
	e = append(e, matchPrefix(r.dst, r.notDst, ipv4Dst)...)
	e = append(e, matchDevice(expr.MetaKeyIIFNAME, r.iif, false)...)
	e = append(e, matchDevice(expr.MetaKeyOIFNAME, r.oif, r.notOif)...)
	if r.udpPort != 0 {
		e = append(e, matchUDP(family, r.udpPort)...)
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
func matchPrefix(p netip.Prefix, not bool, offset uint32) []expr.Any {
	if !p.IsValid() {
		return nil
	}
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	address := p.Masked().Addr().AsSlice()
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
	if p.Bits()%8 == 0 {
		load.Len = uint32(p.Bits() / 8) //nolint:gosec // 1..4
		return []expr.Any{load, &expr.Cmp{Op: op, Register: 1, Data: address[:load.Len]}}
	}
	mask := ipNet(p).Mask
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
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

func matchUDP(family, port int) []expr.Any {
	var e []expr.Any
	if family == familyBridge { // only then can a frame be anything but IP
		e = append(e, &expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_IP)})
	}
	return append(e,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: udpDst, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(uint16(port))}) //nolint:gosec // a port
}

// icmpxAdminProhibited is NFT_REJECT_ICMPX_ADMIN_PROHIBITED (linux/netfilter/nf_tables.h).
const icmpxAdminProhibited = 3

func actionExpr(r nftRule) expr.Any {
	switch r.action {
	case actionDrop:
		return &expr.Verdict{Kind: expr.VerdictDrop}
	case actionReturn:
		return &expr.Verdict{Kind: expr.VerdictReturn}
	case actionJump:
		return &expr.Verdict{Kind: expr.VerdictJump, Chain: r.jump}
	case actionReject:
		return &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: icmpxAdminProhibited}
	default:
		return &expr.Verdict{Kind: expr.VerdictAccept}
	}
}
