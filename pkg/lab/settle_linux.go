package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settleTime is how long devices may take to come up; on an idle machine it is a millisecond.
const settleTime = 5 * time.Second

// settle waits until the carrier of every veth is known on both ends, its bridge port forwards, and
// the bridge itself has its carrier. The kernel sees to that in the background (linkwatch). Until it
// has, ports drop what comes and devices what is to leave (they have the noop qdisc): the first ARP
// request would be lost, and the next is a second away.
//
// A TUN device has its carrier while a proxy reads from it: serving says that they run.
func settle(ctx context.Context, all spaces, ps plans, serving bool) error {
	deadline := time.Now().Add(settleTime)
	for _, p := range ps {
		for _, want := range p.links {
			if !ps.hasCarrier(p, want) && (want.kind != kindTUN || want.down || !serving) {
				continue
			}
			for !all[p.name].settled(p, want) {
				if time.Now().After(deadline) {
					return fmt.Errorf("device %q in netns %q does not come up", want.name, p.name)
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Millisecond):
				}
			}
		}
	}
	return nil
}

// hasCarrier reports whether the link is a veth that is up on both ends, or a bridge that is up with
// such a port.
func (ps plans) hasCarrier(p *plan, l link) bool {
	if l.kind == kindBridge && p.isUp(l.name) {
		return slices.ContainsFunc(p.links, func(port link) bool {
			return port.master == l.name && !port.blocked && ps.hasCarrier(p, port)
		})
	}
	if l.kind != kindVeth || !p.isUp(l.name) {
		return false
	}
	other := ps.get(l.peerNetns)
	return other != nil && other.isUp(l.peer)
}

func (s *space) settled(p *plan, want link) bool {
	l, err := s.nl.LinkByName(want.name)
	if err != nil {
		return false
	}
	if want.kind == kindTUN { // its state is never known, as of lo
		return l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
	}
	if l.Attrs().OperState != netlink.OperUp {
		return false
	}
	if want.master == "" || want.blocked || !p.isUp(want.master) {
		return true
	}
	return !errors.Is(s.setPortState(l, portForwarding), unix.ENETDOWN)
}
