package tables

import (
	"context"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Numbers and sizes of linux/xfrm.h.
const (
	xfrmGetPolicy   = 0x15 // XFRM_MSG_GETPOLICY
	xfrmPolicyID    = 64   // struct xfrm_userpolicy_id
	xfrmPolicyInfo  = 168  // struct xfrm_userpolicy_info
	xfrmTemplate    = 64   // struct xfrm_user_tmpl
	xfrmOptional    = 50   // of it: the flag that the packet may do without
	xfrmAttrTmpl    = 5    // XFRMA_TMPL
	xfrmAttrMark    = 21   // XFRMA_MARK
	xfrmAttrIfID    = 31   // XFRMA_IF_ID
	xfrmActionBlock = 1    // XFRM_POLICY_BLOCK
)

// xfrmDirs are the directions by number; sockets' own policies come behind them.
var xfrmDirs = []string{"in", "out", "fwd"}

// ipsec reads the policies of IPsec. The kernel gives the newest first.
func (r *reader) ipsec(ctx context.Context) error {
	var conn *rtnl
	err := r.src.Netns.Do(func() (err error) {
		conn, err = openNetlink(unix.NETLINK_XFRM)
		return err
	})
	if err != nil { // a kernel without IPsec has no policies
		return nil //nolint:nilerr // EPROTONOSUPPORT
	}
	defer conn.Close() //nolint:errcheck // nothing is pending
	r.ns.IPsec, err = collect(ctx, conn, xfrmGetPolicy, make([]byte, xfrmPolicyID), parsePolicy)
	return err
}

// parsePolicy reads struct xfrm_userpolicy_info and its attributes.
func parsePolicy(b []byte) (p IPsecPolicy, ok bool) {
	if len(b) < xfrmPolicyInfo || int(b[160]) >= len(xfrmDirs) {
		return p, false
	}
	family := u16(b[40:])
	if p.Dst, ok = xfrmPrefix(family, b[0:16], b[42]); !ok {
		return p, false
	}
	if p.Src, ok = xfrmPrefix(family, b[16:32], b[43]); !ok {
		return p, false
	}
	p.DstPort, p.SrcPort = PortMask{be16(b[32:]), be16(b[34:])}, PortMask{be16(b[36:]), be16(b[38:])}
	p.Proto, p.Index = b[44], Ifindex(u32(b[48:]))
	p.Priority, p.Dir, p.Block = u32(b[152:]), xfrmDirs[b[160]], b[161] == xfrmActionBlock
	for t, v := range attrs(b[xfrmPolicyInfo:]) {
		switch t {
		case xfrmAttrTmpl:
			for ; len(v) >= xfrmTemplate; v = v[xfrmTemplate:] {
				if v[xfrmOptional] == 0 {
					p.Needs++
				}
			}
		case xfrmAttrMark:
			if len(v) >= 8 {
				p.Mark = PolicyMark{u32(v), u32(v[4:])}
			}
		case xfrmAttrIfID:
			p.IfID = u32(v)
		}
	}
	return p, true
}

// xfrmPrefix reads an address of a selector; one without a family is of neither.
func xfrmPrefix(family uint16, b []byte, bits uint8) (netip.Prefix, bool) {
	size := 4
	if family == unix.AF_INET6 {
		size = 16
	}
	a, ok := netip.AddrFromSlice(b[:size])
	p := netip.PrefixFrom(a, int(bits))
	return p, ok && p.IsValid() && (family == unix.AF_INET || family == unix.AF_INET6)
}
