package netfilter

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Attributes of ctnetlink (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaTimeout    = 7
	ctaMark       = 8
	ctaZone       = 18
	ctaFilter     = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaProtoInfoTCP      = 1
	ctaProtoInfoTCPState = 1

	ctaFilterOrig  = 1
	ctaFilterReply = 2
	filterSrc      = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterDst      = 1 << 1

	ipsExpected  = 1 << 0
	ipsSeenReply = 1 << 1
	ipsAssured   = 1 << 2

	ctnetlinkGet = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
)

// question asks for the connections with these addresses in the tuple of one direction; an invalid one is any.
type question struct {
	reply    bool
	src, dst netip.Addr
}

// questions cover what Addrs and Nodes want. Kernels before 5.8 do not know the filter and answer with all.
func (o ReadOptions) questions() (out []question) {
	for _, a := range o.Addrs {
		out = append(out, question{src: a}, question{dst: a}, question{reply: true, src: a}, question{reply: true, dst: a})
	}
	for _, a := range o.Nodes {
		for _, b := range o.Nodes {
			if a != b && a.Is4() == b.Is4() {
				out = append(out, question{src: a, dst: b})
			}
		}
	}
	return out
}

// askConns has the kernel choose from a long table, which the library does not: it can't filter by address.
func (r *Ruleset) askConns(h *netns.Handle, o ReadOptions) error {
	var conn *netlink.Conn
	err := h.Do(func() (err error) {
		conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only read
	seen := make(map[[2]Tuple]bool)
	for _, q := range o.questions() {
		msgs, err := conn.Execute(q.message())
		if err != nil {
			return err
		}
		for _, m := range msgs {
			e, err := parseConn(m.Data)
			if key := ([2]Tuple{e.Orig, e.Reply}); err == nil && o.wants(e) && !seen[key] {
				seen[key] = true
				r.Conns = append(r.Conns, e)
			}
		}
		if len(r.Conns) > maxConns {
			r.Conns = r.Conns[:maxConns]
			return fmt.Errorf("more than %d connections", maxConns)
		}
	}
	return nil
}

func (q question) message() netlink.Message {
	family, of, flags := byte(unix.AF_INET), uint16(ctaTupleOrig), uint16(ctaFilterOrig)
	if q.src.Is6() || q.dst.Is6() {
		family = unix.AF_INET6
	}
	if q.reply {
		of, flags = ctaTupleReply, ctaFilterReply
	}
	bits := uint32(0)
	ae := netlink.NewAttributeEncoder()
	ae.Nested(of, func(t *netlink.AttributeEncoder) error {
		t.Nested(ctaTupleIP, func(ip *netlink.AttributeEncoder) error {
			base := uint16(1) // CTA_IP_V4_SRC; CTA_IP_V6_SRC is 3
			if family == unix.AF_INET6 {
				base = 3
			}
			if q.src.IsValid() {
				bits |= filterSrc
				ip.Bytes(base, q.src.AsSlice())
			}
			if q.dst.IsValid() {
				bits |= filterDst
				ip.Bytes(base+1, q.dst.AsSlice())
			}
			return nil
		})
		return nil
	})
	ae.Nested(ctaFilter, func(f *netlink.AttributeEncoder) error {
		f.Uint32(flags, bits)
		return nil
	})
	attrs, _ := ae.Encode() // of addresses: nothing in it can be too long
	return netlink.Message{
		Header: netlink.Header{Type: ctnetlinkGet, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// parseConn reads a message of ctnetlink, behind its struct nfgenmsg.
func parseConn(b []byte) (e Entry, err error) {
	if len(b) < 4 {
		return e, unix.EINVAL
	}
	ad, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return e, err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			ad.Nested(e.Orig.parse)
		case ctaTupleReply:
			ad.Nested(e.Reply.parse)
		case ctaStatus:
			s := ad.Uint32()
			e.Replied, e.Assured, e.Expected = s&ipsSeenReply != 0, s&ipsAssured != 0, s&ipsExpected != 0
		case ctaTimeout:
			e.Timeout = ad.Uint32()
		case ctaMark:
			e.Mark = ad.Uint32()
		case ctaZone:
			e.Zone = ad.Uint16()
		case ctaProtoInfo:
			ad.Nested(e.parseProto)
		}
	}
	return e, ad.Err()
}

func (e *Entry) parseProto(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() == ctaProtoInfoTCP {
			ad.Nested(func(tcp *netlink.AttributeDecoder) error {
				for tcp.Next() {
					if tcp.Type() == ctaProtoInfoTCPState {
						e.Closed = tcp.Uint8() >= tcpTimeWait
					}
				}
				return nil
			})
		}
	}
	return nil
}

func (t *Tuple) parse(ad *netlink.AttributeDecoder) error {
	icmpID := uint16(0)
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					a, _ := netip.AddrFromSlice(ip.Bytes())
					if ip.Type()&1 == 1 { // CTA_IP_V4_SRC, CTA_IP_V6_SRC
						t.Src = a
					} else {
						t.Dst = a
					}
				}
				return nil
			})
		case ctaTupleProto:
			ad.Nested(func(p *netlink.AttributeDecoder) error {
				p.ByteOrder = binary.BigEndian
				for p.Next() {
					switch p.Type() {
					case 1: // CTA_PROTO_NUM
						t.Proto = p.Uint8()
					case 2: // CTA_PROTO_SRC_PORT
						t.SrcPort = p.Uint16()
					case 3: // CTA_PROTO_DST_PORT
						t.DstPort = p.Uint16()
					case 4, 7: // CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID
						icmpID = p.Uint16()
					}
				}
				return nil
			})
		}
	}
	if isICMP(t.Proto) {
		t.SrcPort, t.DstPort = icmpID, 0
	}
	return nil
}
