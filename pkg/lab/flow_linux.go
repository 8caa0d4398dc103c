package lab

import (
	"fmt"
	"net/netip"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// flowTimeout is how long an entry lives without a packet, in seconds.
const flowTimeout = 300

// addFlows puts conntrack entries into the namespace: a datagram of the flow is sent on to the address
// that answers, whatever the rules say by now.
func (s *space) addFlows(flows []flow) error {
	if len(flows) == 0 {
		return nil
	}
	var conn *conntrack.Conn
	err := s.netns.Do(func() (err error) {
		conn, err = conntrack.Dial(nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing is pending
	for _, f := range flows {
		entry := conntrack.Flow{Timeout: flowTimeout, TupleOrig: tuple(f.src, f.dst), TupleReply: tuple(f.replySrc, f.src)}
		entry.Status = conntrack.StatusConfirmed | conntrack.StatusDstNAT | conntrack.StatusDstNATDone | conntrack.StatusSrcNATDone
		if err := conn.Create(entry); err != nil {
			return fmt.Errorf("add conntrack entry of %s to %s: %w", f.src, f.dst, err)
		}
	}
	return nil
}

func tuple(src, dst netip.AddrPort) conntrack.Tuple {
	return conntrack.Tuple{
		IP:    conntrack.IPTuple{SourceAddress: src.Addr(), DestinationAddress: dst.Addr()},
		Proto: conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, SourcePort: src.Port(), DestinationPort: dst.Port()},
	}
}
