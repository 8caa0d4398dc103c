package counters

import "strings"

// Loss says what it means when a counter moves.
type Loss struct {
	Text   string // one line: "no route for a packet that came in"
	Source string // the kernel's function that counts: "ip_error"
	// Machine: the counter is one for all namespaces; other traffic moves it as well.
	Machine bool
	// Sign: nothing is lost where it counts, it tells of a loss elsewhere (a retransmission, an
	// ICMP error that came in).
	Sign bool
}

// Loss says what the delta means, false if the counter does not mean loss, or did not count up.
func (d Delta) Loss() (Loss, bool) {
	if d.N <= 0 || d.Key.level() {
		return Loss{}, false
	}
	return Meaning(d.Key)
}

// Meaning gives what a counter means, false for one that does not mean loss.
func Meaning(k Key) (Loss, bool) {
	name := k.Name
	switch k.Kind {
	case Qdisc, Class, Bridge, VNI, Neigh: // an instance goes before the name
		name = name[strings.LastIndexByte(name, '.')+1:]
	case Proto:
		if l, ok := protoLosses[name]; ok {
			return l, true
		}
		l, ok := proto6Losses[name]
		return l, ok
	default:
	}
	if k.Kind == Qdisc && (strings.HasPrefix(k.Name, "clsact[") || strings.HasPrefix(k.Name, "ingress[")) && name == "drops" {
		return Loss{Text: "a filter of tc dropped it", Source: "sch_handle_ingress"}, true
	}
	l, ok := losses[k.Kind][name]
	return l, ok
}

var losses = map[Kind]map[string]Loss{
	Link: {
		"rx_errors":            {Text: "damaged frames, or for a tunnel packets that it could not take apart", Source: "driver; vxlan_rcv"},
		"tx_errors":            {Text: "frames that the driver could not send, or for a tunnel packets without a way to the far end", Source: "driver; vxlan_xmit_one"},
		"rx_dropped":           {Text: "frames received and thrown away (nobody takes them, device down, no room)", Source: "driver; __netif_receive_skb_core; br_handle_frame"},
		"tx_dropped":           {Text: "frames not sent: queue full, device down, for VXLAN no FDB entry", Source: "driver; __dev_queue_xmit; vxlan_xmit"},
		"rx_length_errors":     {Text: "frames of a wrong length (larger than the MTU)", Source: "driver"},
		"rx_over_errors":       {Text: "frames lost to a full receiver", Source: "driver"},
		"rx_crc_errors":        {Text: "frames with a bad checksum on the wire", Source: "driver"},
		"rx_frame_errors":      {Text: "frames misaligned; for VXLAN, unusable headers", Source: "driver; vxlan_rcv"},
		"rx_fifo_errors":       {Text: "frames lost to a full receive buffer", Source: "driver"},
		"rx_missed_errors":     {Text: "frames lost for want of receive descriptors", Source: "driver"},
		"tx_aborted_errors":    {Text: "sending aborted; for a tunnel, routed in a circle", Source: "driver; vxlan_xmit_one"},
		"tx_carrier_errors":    {Text: "no carrier; for a tunnel, no route to the far end", Source: "driver; vxlan_xmit_one"},
		"tx_fifo_errors":       {Text: "frames lost to a full send buffer", Source: "driver"},
		"tx_heartbeat_errors":  {Text: "heartbeat errors of old Ethernet", Source: "driver"},
		"tx_window_errors":     {Text: "late collisions", Source: "driver"},
		"rx_nohandler":         {Text: "frames on a device that takes none in (the inactive one of a bond)", Source: "__netif_receive_skb_core"},
		"rx_otherhost_dropped": {Text: "frames for another MAC address", Source: "ip_rcv_core; ip6_rcv_core"},
	},
	Conntrack: {
		"invalid":       {Text: "packets that fit no connection, which rules often drop", Source: "nf_conntrack_in"},
		"insert_failed": {Text: "connections that could not be entered, their packet dropped: a clash of tuples (source port race)", Source: "__nf_conntrack_confirm"},
		"drop":          {Text: "packets dropped because the table is full, or no memory", Source: "nf_conntrack_in; __nf_conntrack_confirm"},
		"early_drop":    {Text: "connections thrown out to make room: the table is full", Source: "early_drop"},
		"error":         {Text: "packets refused as malformed (ICMP)", Source: "nf_conntrack_handle_icmp"},
		"chain_toolong": {Text: "packets dropped because a chain of the table is too long", Source: "__nf_conntrack_confirm"},
	},
	Neigh: {
		"table_fulls":         {Text: "no room for a neighbour: gc_thresh3 is reached", Source: "neigh_alloc", Machine: true},
		"res_failed":          {Text: "nobody answered ARP or neighbour discovery; what waited for it is dropped", Source: "neigh_invalidate", Machine: true},
		"unresolved_discards": {Text: "packets dropped from the queue of a neighbour that has not answered yet", Source: "__neigh_event_send", Machine: true},
	},
	Qdisc: {
		"drops": {Text: "the queueing discipline dropped it (full, over its rate)", Source: "__dev_xmit_skb"},
	},
	Class: {
		"drops": {Text: "a class of the queueing discipline dropped it (full, over its rate)", Source: "qdisc_drop"},
	},
	Bridge: {
		"transition_blk": {Text: "spanning tree blocked the port", Source: "br_set_state"},
	},
	VNI: {
		"rx_drops":  {Text: "frames of this VNI received and thrown away", Source: "vxlan_rcv"},
		"rx_errors": {Text: "unusable frames of this VNI", Source: "vxlan_rcv"},
		"tx_drops":  {Text: "frames of this VNI not sent: no FDB entry, no destination", Source: "vxlan_xmit_one"},
		"tx_errors": {Text: "frames of this VNI that could not be sent: no route to the far end", Source: "vxlan_xmit_one"},
	},
	Softnet: {
		"dropped":    {Text: "packets lost to a full backlog of a CPU (net.core.netdev_max_backlog)", Source: "enqueue_to_backlog", Machine: true},
		"flow_limit": {Text: "packets of a flow that took more than its share of a CPU's backlog", Source: "skb_flow_limit", Machine: true},
	},
}
