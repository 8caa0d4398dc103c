package tables

import (
	"errors"
	"fmt"
)

// ErrNoPeer is wrapped by the errors of Peer that mean: the snapshot does not hold the other end.
var ErrNoPeer = errors.New("other end not in the snapshot")

// PeerMismatchError says that the two ends of a pair do not point at each other, so that one of
// them was moved or replaced while the snapshot was taken.
type PeerMismatchError struct {
	Interface, Peer string // names of the two ends
	Reason          string
}

// Error says which ends disagree, and how.
func (e *PeerMismatchError) Error() string {
	return fmt.Sprintf("%q and %q are no pair: %s", e.Interface, e.Peer, e.Reason)
}

// Peer finds the other end of l (a veth or netkit of ns) by namespace and index, and confirms it
// from the other side: an index alone means nothing, because every namespace counts from 1. Without
// confirmation the error says what does not match; the end found is returned with it.
func Peer(s *Snapshot, ns *Netns, l *Link) (*Netns, *Link, error) {
	if l.Parent == 0 {
		return nil, nil, fmt.Errorf("%q has no other end (no IFLA_LINK): %w", l.Name, ErrNoPeer)
	}
	other := ns
	if l.ParentNetns >= 0 {
		id, ok := ns.Peers[l.ParentNetns]
		if !ok {
			return nil, nil, fmt.Errorf("%q leads to netnsid %d: %w", l.Name, l.ParentNetns, ErrNoPeer)
		}
		if other = s.ByID(id); other == nil {
			return nil, nil, fmt.Errorf("%q leads to %s: %w", l.Name, id, ErrNoPeer)
		}
	}
	p := other.Link(l.Parent)
	if p == nil {
		return other, nil, fmt.Errorf("%q leads to ifindex %d, which %s/%s does not have: %w",
			l.Name, l.Parent, other.Node, other.Name, ErrNoPeer)
	}
	if reason := pointsBack(ns, l, other, p); reason != "" {
		return other, p, &PeerMismatchError{Interface: l.Name, Peer: p.Name, Reason: reason}
	}
	return other, p, nil
}

// pointsBack says why p is not the other end of l, "" when it is.
func pointsBack(ns *Netns, l *Link, other *Netns, p *Link) string {
	if p.Kind != l.Kind {
		return fmt.Sprintf("kinds are %q and %q", l.Kind, p.Kind)
	}
	if p.Parent != l.Index {
		return fmt.Sprintf("%q has ifindex %d, but iflink of %q is %d", l.Name, l.Index, p.Name, p.Parent)
	}
	back := other.ID
	if p.ParentNetns >= 0 {
		var ok bool
		if back, ok = other.Peers[p.ParentNetns]; !ok {
			return fmt.Sprintf("%q points back to netnsid %d, which is none that was read", p.Name, p.ParentNetns)
		}
	}
	if back != ns.ID {
		return fmt.Sprintf("%q points back to %s, not to %s", p.Name, back, ns.ID)
	}
	return ""
}
