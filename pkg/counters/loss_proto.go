package counters

import "strings"

// protoLosses are the counters of IPv4 and of TCP, RFC 4293 (IP-MIB), 4113 (UDP-MIB), 4022 (TCP-MIB) and the
// kernel's own (net/ipv4/proc.c).
var protoLosses = map[string]Loss{
	"Ip.InHdrErrors":     {Text: "bad IP headers, or the TTL ran out (a routing loop)", Source: "ip_rcv_core; ip_forward"},
	"Ip.InAddrErrors":    {Text: "not for this host, and forwarding is off; or an address that cannot be", Source: "ip_error"},
	"Ip.InUnknownProtos": {Text: "no handler for the protocol", Source: "ip_protocol_deliver_rcu"},
	"Ip.InDiscards":      {Text: "thrown away for want of memory, or by an IP option", Source: "ip_rcv_core; ip_rcv_options"},
	"Ip.OutDiscards":     {Text: "not sent for want of memory", Source: "ip_append_data; ip_finish_output2"},
	"Ip.OutNoRoutes":     {Text: "no route for a packet made here", Source: "ip_queue_xmit; ip_route_output_key"},
	"Ip.ReasmTimeout":    {Text: "fragments whose others did not come in time", Source: "ip_expire"},
	"Ip.ReasmFails":      {Text: "fragments that could not be put together", Source: "ip_expire; ip_frag_reasm"},
	"Ip.FragFails":       {Text: "larger than the MTU and not to be fragmented (DF)", Source: "ip_forward; ip_fragment"},

	"IpExt.InNoRoutes":      {Text: "no route for a packet that came in", Source: "ip_error; ip_rcv_finish_core"},
	"IpExt.InTruncatedPkts": {Text: "shorter than its IP header says", Source: "ip_rcv_core"},
	"IpExt.InCsumErrors":    {Text: "bad checksum of the IP header", Source: "ip_rcv_core"},

	"Icmp.InErrors":           {Text: "unusable ICMP messages", Source: "icmp_rcv"},
	"Icmp.InCsumErrors":       {Text: "bad ICMP checksum", Source: "icmp_rcv"},
	"Icmp.OutErrors":          {Text: "ICMP messages that could not be sent", Source: "icmp_push_reply"},
	"Icmp.OutRateLimitGlobal": {Text: "ICMP errors not sent: the host's limit", Source: "icmpv4_global_allow", Sign: true},
	"Icmp.OutRateLimitHost":   {Text: "ICMP errors not sent: the limit for one destination", Source: "icmpv4_xrlim_allow", Sign: true},
	"Icmp.InDestUnreachs":     {Text: "someone said that a packet cannot be delivered", Source: "icmp_unreach", Sign: true},
	"Icmp.InTimeExcds":        {Text: "someone said that a packet's TTL ran out", Source: "icmp_unreach", Sign: true},
	"Icmp.InParmProbs":        {Text: "someone said that a packet's header is wrong", Source: "icmp_unreach", Sign: true},
	"Icmp.OutDestUnreachs":    {Text: "told a sender that its packet cannot be delivered", Source: "__icmp_send", Sign: true},
	"Icmp.OutTimeExcds":       {Text: "told a sender that its packet's TTL ran out", Source: "__icmp_send", Sign: true},

	"Udp.NoPorts":      {Text: "no socket on the port", Source: "__udp4_lib_rcv"},
	"Udp.InErrors":     {Text: "datagrams that could not be delivered (checksum, buffer, length)", Source: "__udp4_lib_rcv"},
	"Udp.RcvbufErrors": {Text: "the socket's receive buffer is full", Source: "__udp_queue_rcv_skb"},
	"Udp.SndbufErrors": {Text: "the socket's send buffer is full", Source: "udp_send_skb"},
	"Udp.InCsumErrors": {Text: "bad UDP checksum", Source: "__udp4_lib_rcv; udp_queue_rcv_one_skb"},
	"Udp.MemErrors":    {Text: "no memory left for UDP (net.ipv4.udp_mem)", Source: "__udp_enqueue_schedule_skb"},

	"Tcp.AttemptFails": {Text: "connections that were refused or never answered", Source: "tcp_done", Sign: true},
	"Tcp.RetransSegs":  {Text: "segments sent again: they, or their acknowledgement, were lost", Source: "__tcp_retransmit_skb", Sign: true},
	"Tcp.InErrs":       {Text: "bad TCP segments", Source: "tcp_v4_rcv"},
	"Tcp.InCsumErrors": {Text: "bad TCP checksum", Source: "tcp_v4_rcv"},

	"TcpExt.IPReversePathFilter": {Text: "dropped by the reverse path filter (rp_filter)", Source: "ip_rcv_finish_core"},
	"TcpExt.ArpFilter":           {Text: "ARP requests not answered (arp_filter)", Source: "arp_filter"},
	"TcpExt.ListenOverflows":     {Text: "a listening socket's queue is full", Source: "tcp_v4_syn_recv_sock"},
	"TcpExt.ListenDrops":         {Text: "a listening socket dropped a connection", Source: "tcp_listendrop"},
	"TcpExt.TCPReqQFullDrop":     {Text: "a listening socket's queue of half-open connections is full", Source: "tcp_syn_flood_action"},
	"TcpExt.TCPBacklogDrop":      {Text: "the backlog of a busy socket is full", Source: "tcp_add_backlog"},
	"TcpExt.TCPRcvQDrop":         {Text: "a socket's receive queue is full", Source: "tcp_data_queue"},
	"TcpExt.TCPOFODrop":          {Text: "no room for a segment that came out of order", Source: "tcp_data_queue_ofo"},
	"TcpExt.TCPZeroWindowDrop":   {Text: "a segment for a closed window", Source: "tcp_data_queue"},
	"TcpExt.TCPDeferAcceptDrop":  {Text: "an acknowledgement without data (TCP_DEFER_ACCEPT)", Source: "tcp_check_req"},
	"TcpExt.TCPMinTTLDrop":       {Text: "below the socket's least TTL (IP_MINTTL)", Source: "tcp_v4_rcv"},
	"TcpExt.TCPWqueueTooBig":     {Text: "a socket's send queue is too large to split a segment", Source: "tcp_fragment"},
	"TcpExt.TCPTimeWaitOverflow": {Text: "too many sockets in TIME-WAIT", Source: "tcp_time_wait"},
	"TcpExt.PFMemallocDrop":      {Text: "dropped to keep the last memory for the system", Source: "sk_filter_trim_cap"},
	"TcpExt.PruneCalled":         {Text: "a receive buffer was pruned", Source: "tcp_prune_queue"},
	"TcpExt.RcvPruned":           {Text: "dropped from a receive queue for want of memory", Source: "tcp_prune_queue"},
	"TcpExt.OfoPruned":           {Text: "dropped from an out-of-order queue for want of memory", Source: "tcp_prune_ofo_queue"},
	"TcpExt.LockDroppedIcmps":    {Text: "ICMP errors dropped because the socket was in use", Source: "tcp_v4_err"},
	"TcpExt.OutOfWindowIcmps":    {Text: "ICMP errors that fit no connection", Source: "tcp_v4_err"},
	"TcpExt.PAWSEstab":           {Text: "segments with old timestamps", Source: "tcp_validate_incoming"},
	"TcpExt.SyncookiesFailed":    {Text: "bad SYN cookies", Source: "cookie_v4_check"},
	"TcpExt.TCPMD5NotFound":      {Text: "segments without the MD5 signature that was expected", Source: "tcp_inbound_md5_hash"},
	"TcpExt.TCPMD5Unexpected":    {Text: "segments with an MD5 signature that was not expected", Source: "tcp_inbound_md5_hash"},
	"TcpExt.TCPMD5Failure":       {Text: "segments with a wrong MD5 signature", Source: "tcp_inbound_md5_hash"},
	"TcpExt.TCPTimeouts":         {Text: "retransmission timers ran out", Source: "tcp_retransmit_timer", Sign: true},
	"TcpExt.TCPSynRetrans":       {Text: "SYNs sent again", Source: "__tcp_retransmit_skb", Sign: true},
	"TcpExt.TCPLostRetransmit":   {Text: "retransmissions were lost too", Source: "tcp_mark_skb_lost", Sign: true},
	"TcpExt.TCPRetransFail":      {Text: "retransmissions that could not be sent", Source: "__tcp_retransmit_skb"},
	"TcpExt.TCPAbortOnTimeout":   {Text: "connections given up after too many retransmissions", Source: "tcp_write_err", Sign: true},
}

// proto6Losses are those of IPv6 (net/ipv6/proc.c): the same where the name is the same, and a few more.
var proto6Losses = func() map[string]Loss {
	m := map[string]Loss{
		"Ip6.InHdrErrors":     {Text: "bad IPv6 headers, or the hop limit ran out (a routing loop)", Source: "ip6_rcv_core; ip6_forward"},
		"Ip6.InTooBigErrors":  {Text: "larger than the MTU of the way out", Source: "ip6_forward"},
		"Ip6.InNoRoutes":      {Text: "no route for a packet that came in", Source: "ip6_pkt_drop"},
		"Ip6.InAddrErrors":    {Text: "an address that cannot be, or forwarding is off", Source: "ip6_rcv_core; ip6_pkt_drop; ip6_forward"},
		"Ip6.InUnknownProtos": {Text: "no handler for the next header", Source: "ip6_protocol_deliver_rcu"},
		"Ip6.InTruncatedPkts": {Text: "shorter than its IPv6 header says", Source: "ip6_rcv_core"},
		"Ip6.InDiscards":      {Text: "thrown away for want of memory or by policy", Source: "ip6_rcv_core; ip6_forward"},
		"Ip6.OutDiscards":     {Text: "not sent: IPv6 is off on the device, or no memory", Source: "ip6_output; ip6_append_data"},
		"Ip6.OutNoRoutes":     {Text: "no route for a packet made here", Source: "ip6_pkt_drop"},
		"Ip6.ReasmTimeout":    {Text: "fragments whose others did not come in time", Source: "ip6frag_expire_frag_queue"},
		"Ip6.ReasmFails":      {Text: "fragments that could not be put together", Source: "ip6_frag_queue"},
		"Ip6.FragFails":       {Text: "larger than the MTU, and routers do not fragment IPv6", Source: "ip6_forward; ip6_fragment"},

		"Icmp6.InErrors":         {Text: "unusable ICMPv6 messages", Source: "icmpv6_rcv"},
		"Icmp6.OutErrors":        {Text: "ICMPv6 messages that could not be sent", Source: "icmpv6_push_pending_frames"},
		"Icmp6.OutRateLimitHost": {Text: "ICMPv6 errors not sent: the limit for one destination", Source: "icmpv6_xrlim_allow", Sign: true},
		"Icmp6.InPktTooBigs":     {Text: "someone said that a packet is larger than its way", Source: "icmpv6_rcv", Sign: true},
		"Icmp6.OutPktTooBigs":    {Text: "told a sender that its packet is larger than its way", Source: "ip6_forward", Sign: true},
		"Icmp6.InParmProblems":   {Text: "someone said that a packet's header is wrong", Source: "icmpv6_rcv", Sign: true},
		"Icmp6.OutParmProblems":  {Text: "told a sender that its packet's header is wrong", Source: "icmpv6_param_prob", Sign: true},
	}
	// what ICMP has under the same name
	for _, name := range []string{
		"Icmp.InCsumErrors", "Icmp.InDestUnreachs", "Icmp.InTimeExcds", "Icmp.OutDestUnreachs", "Icmp.OutTimeExcds",
	} {
		l := protoLosses[name]
		l.Source = map[bool]string{true: "icmpv6_rcv", false: "icmp6_send"}[strings.Contains(name, ".In")]
		m[strings.Replace(name, ".", "6.", 1)] = l
	}
	for name, l := range protoLosses {
		if rest, ok := strings.CutPrefix(name, "Udp."); ok {
			l.Source = strings.NewReplacer("udp4", "udp6", "udp_queue", "udpv6_queue", "udp_send", "udp_v6_send").Replace(l.Source)
			m["Udp6."+rest] = l
		}
	}
	return m
}()
