package lab

import "net/netip"

// Numbers that flanneld was configured with in document 000 (its net-conf.json).
const (
	bridgeName = "cni0"
	vxlanVNI   = 1
	vxlanPort  = 8472
	uplinkMTU  = 1500

	httpPort = 8080
	echoPort = 7 // RFC 862, TCP and UDP
)

var (
	clusterCIDR  = netip.MustParsePrefix("10.244.0.0/16")
	clusterCIDR6 = netip.MustParsePrefix("fd44::/48")
	underlay     = netip.MustParsePrefix("10.1.11.0/24")
	underlay6    = netip.MustParsePrefix("fd00:10:1:11::/64")
	gateway      = netip.MustParseAddr("10.1.11.1")
	gateway6     = netip.MustParseAddr("fd00:10:1:11::1")
	dockerNet    = netip.MustParsePrefix("172.17.0.1/16")
)

// document000 is the cluster of document 000. What the document does not show (tea-1, the devices of
// coffee-2) is chosen in its manner.
func document000() ([]node, []pod) {
	nodes := []node{
		{
			name: "node1", ips: addrs("10.1.11.91"),
			uplink: "ens192", uplinkMAC: "00:50:56:ab:81:34", dockerMAC: "02:42:ae:ed:49:a1",
			podCIDRs: prefixes("10.244.1.0/24"),
			vtepMAC:  "1e:0f:7e:bb:26:2b", bridgeMAC: "8e:62:4b:7f:4b:ab",
			staleFDB: []fdbRow{
				{mac: "06:ee:53:fd:1a:a9", dst: netip.MustParseAddr("10.1.11.92")},
				{mac: "36:36:40:76:1c:9f", dst: netip.MustParseAddr("10.1.11.90")},
			},
			hub: switchName, lan: underlay, gateway: gateway,
		},
		{
			name: "node2", ips: addrs("10.1.11.92"),
			uplink: "eno16780032", uplinkMAC: "00:50:56:ab:00:3b", dockerMAC: "02:42:44:44:ad:a8",
			podCIDRs: prefixes("10.244.2.0/24"),
			vtepMAC:  "ce:b8:fc:a6:06:d2", bridgeMAC: "4a:ab:da:9d:27:34",
			hub: switchName, lan: underlay, gateway: gateway,
		},
	}
	pods := []pod{
		{
			name: "coffee-1", app: "coffee", node: "node1", ips: addrs("10.244.1.32"),
			mac: "4a:9e:70:55:74:ac", hostVeth: "veth33136931", hostMAC: "4a:28:d3:7d:dd:3f", hostIndex: 33,
		},
		{
			name: "tea-1", app: "tea", node: "node1", ips: addrs("10.244.1.33"),
			mac: "7e:5d:02:c8:41:9b", hostVeth: "veth7e2ad0c4", hostMAC: "be:13:6f:a0:27:58", hostIndex: 34,
		},
		{
			name: "coffee-2", app: "coffee", node: "node2", ips: addrs("10.244.2.40"),
			mac: "0e:81:c4:3a:96:d7", hostVeth: "vethb81f02da", hostMAC: "c6:4f:58:e2:0b:71", hostIndex: 41,
		},
	}
	return nodes, pods
}

// absent are the other two leases of document 000: the control plane node and the BIG-IP, a VTEP
// that is no Linux machine at all.
var absent = []lease{
	{netip.MustParsePrefix("10.244.0.0/24"), "5a:1c:17:98:e6:eb", netip.MustParseAddr("10.1.11.90")},
	{netip.MustParsePrefix("10.244.3.0/24"), "00:50:56:ab:9e:f8", netip.MustParseAddr("10.1.11.89")},
}

// document001 is the cluster of document 001: machines with private addresses, known to each other
// by the public ones that a router translates one to one. Its second machine's own address and all
// pods but 10.244.1.8 are chosen. The third lease is a machine that the lab does not run.
func document001() ([]node, []pod, []lease) {
	nodes := []node{
		{
			name: "node1", ips: addrs("172.17.16.14"), public: netip.MustParseAddr("121.4.190.84"),
			uplink: "eth0", uplinkMAC: "52:54:00:7c:16:0e", dockerMAC: "02:42:5b:16:0e:01",
			podCIDRs: prefixes("10.244.0.0/24"),
			vtepMAC:  "f6:f2:b0:fa:75:73", bridgeMAC: "0e:3a:5c:41:90:d2",
			hub: routerName, lan: netip.MustParsePrefix("172.17.16.0/20"), gateway: netip.MustParseAddr("172.17.16.1"),
		},
		{
			name: "node2", ips: addrs("10.0.4.7"), public: netip.MustParseAddr("106.55.227.160"),
			uplink: "eth0", uplinkMAC: "52:54:00:3d:04:07", dockerMAC: "02:42:c9:04:07:02",
			podCIDRs: prefixes("10.244.1.0/24"),
			vtepMAC:  "da:a9:48:cb:15:3b", bridgeMAC: "62:b7:0f:8e:2d:15",
			hub: routerName, lan: netip.MustParsePrefix("10.0.4.0/22"), gateway: netip.MustParseAddr("10.0.4.1"),
		},
	}
	pods := []pod{
		{
			name: "coffee-1", app: "coffee", node: "node1", ips: addrs("10.244.0.5"),
			mac: "a6:0b:91:3e:72:05", hostVeth: "veth5d0c21e7", hostMAC: "fa:28:6c:19:e0:44", hostIndex: 33,
		},
		{
			name: "tea-1", app: "tea", node: "node1", ips: addrs("10.244.0.6"),
			mac: "a6:0b:91:3e:72:06", hostVeth: "vethe92b7710", hostMAC: "fa:28:6c:19:e0:45", hostIndex: 34,
		},
		{
			name: "coffee-2", app: "coffee", node: "node2", ips: addrs("10.244.1.8"),
			mac: "d2:77:1a:c5:08:08", hostVeth: "veth4fa8d163", hostMAC: "ee:51:b3:07:2a:9c", hostIndex: 41,
		},
	}
	leases := []lease{{netip.MustParsePrefix("10.244.4.0/24"), "c6:8a:3b:81:2f:d1", netip.MustParseAddr("121.37.246.218")}}
	return nodes, pods, leases
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
