package kdrop

import (
	"strings"

	"github.com/podtrace/podtrace/pkg/ether"
)

// Noise reports whether a drop is part of normal operation, and if so why. Such a drop never
// explains a loss. onPath says that the drop's interface is one that the packet was meant to pass:
// a bridge floods a frame whose address it does not know to all ports, and all stations but one
// drop it for the same reason as the right station drops a frame with a wrong address.
func Noise(d Drop, onPath bool) (why string, noise bool) {
	for _, n := range noises {
		if n.is(&d, onPath) {
			return n.why, true
		}
	}
	return "", false
}

var noises = []struct {
	why string
	is  func(d *Drop, onPath bool) bool
}{
	{"a packet tap's own copy of the packet", tapCopy},
	// A raw socket gets the reply, the ping socket's table is asked as well and has none.
	{"an echo reply that no ping socket waits for: raw sockets have their own copy", at("NO_SOCKET", "ping_rcv")},
	{"a raw socket's own copy of the packet, refused by the socket's filter", rawCopy},
	{"a frame for another station, flooded to this one", func(d *Drop, onPath bool) bool {
		return d.Reason == "OTHERHOST" && !onPath
	}},
	{"a multicast packet on a VXLAN device that has no group", vxlanMulticast},
	{"a socket that was closed had not read it", closedSocket},
	{"a TCP segment that had arrived before", duplicateTCP},
	// the last acknowledgements of a connection end like this
	{"a segment that TCP took in and had no further use for", usedTCP},
}

// at matches a reason, or none given, in one function. Kernels learned reasons bit by bit.
func at(reason, function string) func(*Drop, bool) bool {
	return func(d *Drop, _ bool) bool {
		return d.Location == function && (d.Reason == reason || d.Unspecified)
	}
}

func tapCopy(d *Drop, _ bool) bool {
	return d.Reason == "PACKET_SOCK_ERROR" || strings.HasPrefix(d.Location, "packet_rcv") || d.Location == "tpacket_rcv"
}

func rawCopy(d *Drop, _ bool) bool {
	raw := strings.HasPrefix(d.Location, "raw_") || strings.HasPrefix(d.Location, "rawv6_")
	return raw && (d.Reason == "SOCKET_FILTER" || d.Unspecified)
}

// vxlanMulticast: router solicitations, MLD reports and mDNS have nowhere to go on a VXLAN device of flannel.
// A solicitation for an address that was asked about is no noise, it is the missing neighbour entry.
func vxlanMulticast(d *Drop, _ bool) bool {
	mac := d.DstMAC()
	return d.Reason == "NO_TX_TARGET" && !d.Neighbour && mac.IsMulticast() && mac != ether.Broadcast
}

// closedSocket knows the purges of receive queues, which got their reason in 6.4.
func closedSocket(d *Drop, _ bool) bool {
	switch d.Location {
	case "skb_queue_purge", "skb_queue_purge_reason", "sk_stream_kill_queues", "inet_sock_destruct", "__tcp_close":
		return d.Unspecified || d.Reason == "QUEUE_PURGE"
	}
	return d.Reason == "QUEUE_PURGE"
}

func duplicateTCP(d *Drop, _ bool) bool {
	switch d.Reason {
	case "TCP_TOO_OLD_ACK", "TCP_OFOMERGE", "TCP_RFC7323_TW_PAWS":
		return true
	}
	return strings.HasPrefix(d.Reason, "TCP_OLD_")
}

func usedTCP(d *Drop, _ bool) bool {
	switch d.Location {
	case "tcp_v4_rcv", "tcp_v6_rcv", "tcp_v4_do_rcv", "tcp_v6_do_rcv", "tcp_rcv_established", "tcp_rcv_state_process":
		return d.Unspecified
	}
	return false
}
