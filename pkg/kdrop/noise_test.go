package kdrop

import (
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
)

func frameTo(mac string) []byte {
	m := ether.MustParseMAC(mac)
	return append(m[:], make([]byte, 30)...)
}

func TestNoise(t *testing.T) {
	tests := []struct {
		name   string
		drop   Drop
		onPath bool
		want   bool
	}{
		{"firewall", Drop{Reason: "NETFILTER_DROP", Location: "nft_do_chain"}, true, false},
		{"firewall beside the path", Drop{Reason: "NETFILTER_DROP", Location: "nft_do_chain"}, false, false},
		{"wrong MAC", Drop{Reason: "OTHERHOST", Location: "ip_rcv_core"}, true, false},
		{"flooded", Drop{Reason: "OTHERHOST", Location: "ip_rcv_core"}, false, true},
		{"ping answered", Drop{Reason: "NO_SOCKET", Location: "ping_rcv"}, true, true},
		{"ping answered, old kernel", Drop{Reason: "NOT_SPECIFIED", Unspecified: true, Location: "ping_rcv"}, true, true},
		{"no UDP socket", Drop{Reason: "NO_SOCKET", Location: "__udp4_lib_rcv"}, true, false},
		{"no FDB row", Drop{Reason: "NO_TX_TARGET", Location: "vxlan_xmit", Frame: frameTo("02:00:00:00:00:01")}, true, false},
		{"IPv6 multicast", Drop{Reason: "NO_TX_TARGET", Frame: frameTo("33:33:00:00:00:02")}, true, true},
		{"IPv4 multicast", Drop{Reason: "NO_TX_TARGET", Frame: frameTo("01:00:5e:00:00:fb")}, true, true},
		{"solicitation", Drop{Reason: "NO_TX_TARGET", Frame: frameTo("33:33:ff:00:00:02"), Neighbour: true}, true, false},
		{"ARP request", Drop{Reason: "NO_TX_TARGET", Frame: frameTo("ff:ff:ff:ff:ff:ff"), Neighbour: true}, true, false},
		{"broadcast", Drop{Reason: "NO_TX_TARGET", Frame: frameTo("ff:ff:ff:ff:ff:ff")}, true, false},
		{"no frame", Drop{Reason: "NO_TX_TARGET"}, true, false},
		{"socket closed", Drop{Reason: "QUEUE_PURGE", Location: "skb_queue_purge_reason"}, true, true},
		{"socket closed, old kernel", Drop{Reason: "NOT_SPECIFIED", Unspecified: true, Location: "skb_queue_purge"}, true, true},
		{"old acknowledgement", Drop{Reason: "TCP_OLD_ACK"}, true, true},
		{"old data", Drop{Reason: "TCP_OLD_DATA"}, true, true},
		{"bad checksum", Drop{Reason: "TCP_CSUM"}, true, false},
		{"last acknowledgement", Drop{Reason: "NOT_SPECIFIED", Unspecified: true, Location: "tcp_v6_rcv"}, true, true},
		{"connection refused", Drop{Reason: "NO_SOCKET", Location: "tcp_v4_rcv"}, true, false},
		{"full tap", Drop{Reason: "PACKET_SOCK_ERROR", Location: "tpacket_rcv"}, true, true},
		{"tap's filter, old kernel", Drop{Reason: "NOT_SPECIFIED", Unspecified: true, Location: "packet_rcv"}, true, true},
		{"ping's filter", Drop{Reason: "SOCKET_FILTER", Location: "raw_rcv_skb"}, true, true},
		{"socket's filter", Drop{Reason: "SOCKET_FILTER", Location: "udp_queue_rcv_one_skb"}, true, false},
		{"unspecified elsewhere", Drop{Reason: "NOT_SPECIFIED", Unspecified: true, Location: "ip_forward"}, true, false},
		{"nothing known", Drop{}, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			why, got := Noise(tt.drop, tt.onPath)
			if got != tt.want || (why != "") != got {
				t.Errorf("Noise = %q, %v, want %v", why, got, tt.want)
			}
		})
	}
}
