package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/resolve"
)

// Target is an endpoint of a service, and where it lives.
type Target struct {
	inventory.Backend
	At resolve.Location
}

// places are where both ends live, and all that a service may send to.
func (c *Case) places() []resolve.Location {
	out := []resolve.Location{c.From, c.To}
	for _, t := range c.Targets {
		out = append(out, t.At)
	}
	return out
}

// aim settles protocol and port of the probe with those of the destination: a port that was named with it says
// what to send, and the protocol says which of a service's ports is meant.
func aim(inv *inventory.Inventory, spec probe.Spec, dst inventory.Endpoint) (probe.Spec, inventory.Endpoint, error) {
	if dst.Kind != inventory.KindService && dst.Port == 0 {
		return spec, dst, nil
	}
	if dst.Kind == inventory.KindService && !dst.IP().IsValid() {
		return spec, dst, &Error{Msg: fmt.Sprintf("service %q has no address", dst.String()), hint: "name a pod behind it"}
	}
	if dst.Port == 0 && spec.Port != 0 {
		dst.Port = spec.Port
	}
	proto := "TCP"
	switch {
	case spec.Proto == probe.UDP:
		proto = "UDP"
	case spec.Proto != probe.TCP && dst.ServicePort != nil:
		proto = dst.ServicePort.Proto
	}
	dst = inv.ForProto(dst, proto)
	if dst.Kind == inventory.KindService && dst.ServicePort == nil {
		return spec, dst, &Error{
			Msg:  fmt.Sprintf("service %q: which port is meant is not said, or it has none of %s", dst.String(), proto),
			hint: "name one: svc/NAME:PORT, with --probe udp if it is one of UDP; its ports are " + ports(dst.Service),
		}
	}
	if dst.Kind == inventory.KindService && dst.Service.Headless {
		return aimHeadless(inv, spec, dst, proto)
	}
	if spec.Port != 0 && spec.Port != dst.Port {
		return spec, dst, &Error{
			Msg:  fmt.Sprintf("probe %s and destination %q name two ports", spec, dst.String()),
			hint: "leave the port of one of them out",
		}
	}
	if spec.Proto != probe.None {
		spec = probe.Spec{Proto: strings.ToLower(proto), Port: dst.Port}
	}
	return spec, dst, nil
}

// aimHeadless takes an endpoint for a headless service: nothing stands in between that would translate an address or
// a port, so the packets go to the endpoint's own.
func aimHeadless(inv *inventory.Inventory, spec probe.Spec, dst inventory.Endpoint, proto string) (probe.Spec, inventory.Endpoint, error) {
	backends := inv.Behind(dst)
	if len(backends) == 0 {
		return spec, dst, &Error{Msg: fmt.Sprintf("headless service %q has no ready endpoint", dst.String()), hint: "see its selector, and why its pods are not ready"}
	}
	b := backends[0]
	dst.IPs = append([]netip.Addr{b.IP}, slices.DeleteFunc(slices.Clone(dst.IPs), func(ip netip.Addr) bool { return ip == b.IP })...)
	if spec.Proto != probe.None {
		spec = probe.Spec{Proto: strings.ToLower(proto), Port: b.Port}
	}
	return spec, dst, nil
}

func ports(s *inventory.Service) string {
	var out []string
	for _, p := range s.Ports {
		out = append(out, fmt.Sprintf("%d/%s", p.Port, p.Proto))
	}
	return strings.Join(out, ", ")
}

// far says which endpoints of a service are left out.
func (s *session) far() []string {
	e := s.c.Destination
	if e.ServicePort == nil {
		return nil
	}
	all := s.o.Inventory.Behind(e)
	left := len(all) - len(resolve.Near(all))
	if left == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d of the %d endpoints of %s: their nodes were not read, for they are many; name a pod to trace the way to it",
		left, len(all), e.String())}
}

// targets finds the endpoints behind a service in the snapshot. Those of nodes that were not read are known by their
// address alone.
func (s *session) targets() error {
	inv, e := s.o.Inventory, s.c.Destination
	s.c.Targets = nil
	if e.ServicePort == nil {
		return nil
	}
	// a service has endpoints of either family, and its address leads to those of its own alone
	all := slices.DeleteFunc(inv.Behind(e), func(b inventory.Backend) bool { return b.IP.Is6() != e.IP().Is6() })
	near := resolve.Near(all)
	for _, b := range all {
		t := Target{Backend: b}
		var ep inventory.Endpoint
		var err error
		switch {
		case !slices.Contains(near, b):
			s.c.Targets = append(s.c.Targets, Target{Backend: b, At: resolve.Location{Node: b.Node}})
			continue
		case b.Pod != nil:
			ep, err = inv.Lookup("pod/"+b.Pod.Name, b.Pod.Namespace)
		case b.Node != "":
			ep, err = inv.Lookup("node/"+b.Node, "")
		default: // an address that no object has
			ep, err = inv.Lookup(b.IP.String(), "")
		}
		if err != nil {
			return err
		}
		if t.At, err = s.locate(ep); err != nil {
			return err
		}
		s.c.Targets = append(s.c.Targets, t)
	}
	return nil
}
