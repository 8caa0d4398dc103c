package lab

import "net/netip"

// program is a tc program of the lab's own, of type sched_cls, in direct action. It passes whatever
// none of its fields is about.
type program struct {
	name  string     // of the filter
	peers []peer     // deliver to these pods of the node at once
	drop  netip.Addr // drop what is for this IPv4 address; zero: nothing
}

// peer is a pod that a program delivers to: by the host end of its veth.
type peer struct {
	ip           netip.Addr // IPv4
	dev          string
	mac, hostMAC string // of eth0, and the source of what it gets
}
