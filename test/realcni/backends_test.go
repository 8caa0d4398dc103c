package realcni

import (
	"slices"
	"strings"
	"testing"
)

// TestVXLAN is flannel's default.
func TestVXLAN(t *testing.T) {
	w := up(t, config{backend: `{"Type": "vxlan"}`})
	w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-vxlan"})
	w.faults(vxlanFaults(), nodeFaults(), []fault{{
		// This flanneld then tries to make the device anew, and ends in a panic where there is no IPv6:
		// reCreateVxlan takes the first of no addresses. Nothing comes back by itself.
		name: "VTEP deleted", cause: "vxlan-dev-gone", node: "node1", awake: true,
		do: "ip -n $n1 link del $dev",
	}})
}

// TestVXLANNumbers has other numbers than the defaults, everywhere.
func TestVXLANNumbers(t *testing.T) {
	for name, backend := range map[string]string{
		"VNI 42 port 4789":      `{"Type": "vxlan", "VNI": 42, "Port": 4789}`,
		"VNI 9999999 port 8473": `{"Type": "vxlan", "VNI": 9999999, "Port": 8473, "GBP": true, "Learning": true, "MTU": 1400}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := up(t, config{backend: backend})
			w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-vxlan"})
			faults := vxlanFaults()
			if strings.Contains(backend, "Learning") { // then what arrives mends a row of the way back
				faults = slices.DeleteFunc(faults, func(f fault) bool { return strings.HasSuffix(f.name, "on the way back") })
			}
			w.faults(faults)
		})
	}
}

func TestHostGW(t *testing.T) {
	w := up(t, config{backend: `{"Type": "host-gw"}`})
	w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-host-gw"})
	w.faults(hostGWFaults(), nodeFaults())
}

// TestDirectRouting has one node of the same subnet, and one behind a router.
func TestDirectRouting(t *testing.T) {
	w := up(t, config{backend: `{"Type": "vxlan", "DirectRouting": true}`, third: true})
	w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-directrouting", "coffee-3": "flannel-vxlan"})
	w.faults([]fault{
		{
			name: "route of the near pods deleted", cause: "direct-route-lost", node: "node1",
			do:   "ip -n $n1 route del 10.244.2.0/24",
			undo: "ip -n $n1 route add 10.244.2.0/24 via $ip2",
		},
		{
			name: "next hop is an address that the near machine had before", cause: "nexthop-stale", node: "node1",
			do:   "ip -n $n1 route replace 10.244.2.0/24 via 10.1.11.99",
			undo: "ip -n $n1 route replace 10.244.2.0/24 via $ip2",
		},
		{
			name: "the network drops addresses that are no machine's", cause: "src-dst-check", node: "node1",
			do: `ip netns exec $switch nft 'add table bridge sg; add chain bridge sg f { type filter hook forward priority 0; }
			     add rule bridge sg f iifname "port-node1" ip saddr 10.244.0.0/16 drop'`,
			undo: "ip netns exec $switch nft delete table bridge sg",
		},
		{
			name: "FDB row of the far VTEP leads to a dead address", cause: "fdb-wrong-dst", node: "node1", to: "coffee-3",
			do:   "bridge -n $n1 fdb replace $m3 dev $dev dst 10.1.12.99 self permanent",
			undo: "bridge -n $n1 fdb replace $m3 dev $dev dst $ip3 self permanent",
		},
		{
			name: "neighbour of the far VTEP deleted", cause: "neigh-missing", node: "node1", to: "coffee-3",
			do:   "ip -n $n1 neigh del 10.244.4.0 dev $dev",
			undo: "ip -n $n1 neigh replace 10.244.4.0 lladdr $m3 dev $dev nud permanent",
		},
		{
			name: "the far VTEP down", cause: "vxlan-down", node: "node3", to: "coffee-3",
			do: "ip -n $n3 link set $dev down",
			undo: `ip -n $n3 link set $dev up
			       ip -n $n3 route replace 10.244.1.0/24 via 10.244.1.0 dev $dev onlink
			       ip -n $n3 neigh replace 10.244.1.0 lladdr $m1 dev $dev nud permanent
			       bridge -n $n3 fdb replace $m1 dev $dev dst $ip1 self permanent`,
		},
	}, nodeFaults())
}

// TestUDP is the backend whose packets a process carries.
func TestUDP(t *testing.T) {
	w := up(t, config{backend: `{"Type": "udp"}`})
	w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-udp"})
	w.faults([]fault{
		{
			name: "route into the TUN device deleted", cause: "route-missing", node: "node1", awake: true,
			do:   "ip -n $n1 route del 10.244.0.0/16",
			undo: "ip -n $n1 route add 10.244.0.0/16 dev flannel0",
		},
		{
			name: "firewall drops the proxies' port", cause: "netfilter-drop", node: "node2", awake: true,
			do:   "ip netns exec $n2 iptables -I INPUT -p udp --dport 8285 -j DROP",
			undo: "ip netns exec $n2 iptables -D INPUT -p udp --dport 8285 -j DROP",
		},
		{
			name: "the far TUN device down", cause: "link-down", node: "node2", awake: true,
			do:   "ip -n $n2 link set flannel0 down",
			undo: "ip -n $n2 link set flannel0 up; ip -n $n2 route add 10.244.0.0/16 dev flannel0",
		},
		{
			name: "the far proxy hangs", cause: "lost-after-eno16780032", node: "node2", awake: true,
			do: "kill -STOP $pid2", undo: "kill -CONT $pid2",
		},
		{
			name: "no route to the other machine", cause: "underlay-route-missing", node: "node1", awake: true,
			do: "ip -n $n1 route del 10.1.11.0/24; ip -n $n1 route del default",
			undo: `ip -n $n1 route add 10.1.11.0/24 dev $u1 proto kernel scope link src $ip1 metric 100
			       ip -n $n1 route add default via 10.1.11.1 dev $u1 proto static metric 100`,
		},
	}, awake(nodeFaults()))
}

// awake lets flanneld run on.
func awake(list []fault) []fault {
	for i := range list {
		list[i].awake = true
	}
	return list
}

func TestDual(t *testing.T) {
	w := up(t, config{backend: `{"Type": "vxlan"}`, dual: true})
	w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-vxlan"})
	const far = "fd44:0:0:2::28"
	w.faults([]fault{
		{
			name: "neighbour of the IPv6 VTEP deleted", cause: "v6-overlay-missing", node: "node1", to: far,
			do:   "ip -n $n1 neigh del fd44:0:0:2:: dev $dev6",
			undo: "ip -n $n1 neigh replace fd44:0:0:2:: lladdr $m62 dev $dev6 nud permanent",
		},
		{
			name: "FDB row of the IPv6 VTEP leads to a dead address", cause: "fdb-wrong-dst", node: "node1", to: far,
			do:   "bridge -n $n1 fdb replace $m62 dev $dev6 dst fd00:10:1:11::99 self permanent",
			undo: "bridge -n $n1 fdb replace $m62 dev $dev6 dst fd00:10:1:11::92 self permanent",
		},
		{
			name: "IPv6 forwarding off", cause: "v6-forward-off", node: "node1", to: far, probe: "tcp:7",
			do:   "ip netns exec $n1 sysctl -qw net.ipv6.conf.all.forwarding=0",
			undo: "ip netns exec $n1 sysctl -qw net.ipv6.conf.all.forwarding=1",
		},
		{
			name: "ip6tables drops what is forwarded", cause: "v6-fw-drop", node: "node2", to: far, probe: "udp:7",
			do: `ip netns exec $n2 ip6tables -P FORWARD DROP
			     ip netns exec $n2 ip6tables -D FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD`,
			undo: `ip netns exec $n2 ip6tables -P FORWARD ACCEPT
			       ip netns exec $n2 ip6tables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD`,
		},
	}, vxlanFaults())
}

// TestNFTables has flanneld write its rules with nft.
func TestNFTables(t *testing.T) {
	w := up(t, config{backend: `{"Type": "vxlan"}`, extra: `, "EnableNFTables": true`})
	w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-vxlan"})
	w.faults([]fault{
		{
			name: "a rule drops what is forwarded", cause: "netpol-drop", node: "node2",
			do:   "ip netns exec $n2 nft insert rule ip flannel-ipv4 forward ip daddr 10.244.2.40 drop",
			undo: "ip netns exec $n2 nft delete rule ip flannel-ipv4 forward handle $(ip netns exec $n2 nft -a list chain ip flannel-ipv4 forward | sed -n 's/.*drop # handle //p')",
		},
		{
			name: "pods are masqueraded to pods", cause: "masq-pod-to-pod", node: "node1", status: "degraded",
			do:   "ip netns exec $n1 nft insert rule ip flannel-ipv4 postrtg ip saddr 10.244.0.0/16 masquerade",
			undo: "ip netns exec $n1 nft delete rule ip flannel-ipv4 postrtg handle $(ip netns exec $n1 nft -a list chain ip flannel-ipv4 postrtg | sed -n 's/.*saddr 10.244.0.0.16 masquerade # handle //p')",
		},
		{
			name: "a firewall's own table rejects what flannel accepted", cause: "forward-reject-order", node: "node2",
			do: `ip netns exec $n2 nft 'add table inet fw; add chain inet fw f { type filter hook forward priority 10; }
			     add rule inet fw f reject with icmpx admin-prohibited'`,
			undo: "ip netns exec $n2 nft delete table inet fw",
		},
	}, vxlanFaults())
}

// TestV6 is IPv6 alone, for machines and for pods.
func TestV6(t *testing.T) {
	w := up(t, config{backend: `{"Type": "vxlan"}`, only6: true, kube: true})
	w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-vxlan"})
	w.faults([]fault{
		{
			name: "neighbour of the VTEP deleted", cause: "neigh-missing", node: "node1",
			do:   "ip -n $n1 neigh del fd44:0:0:2:: dev $dev6",
			undo: "ip -n $n1 neigh replace fd44:0:0:2:: lladdr $m62 dev $dev6 nud permanent",
		},
		{
			name: "FDB row leads to a dead address", cause: "fdb-wrong-dst", node: "node1", probe: "tcp:7",
			do:   "bridge -n $n1 fdb replace $m62 dev $dev6 dst fd00:10:1:11::99 self permanent",
			undo: "bridge -n $n1 fdb replace $m62 dev $dev6 dst $to2 self permanent",
		},
		{
			name: "FDB row deleted on the way back", cause: "fdb-missing", node: "node2", probe: "udp:7",
			do:   "bridge -n $n2 fdb del $m61 dev $dev6 dst $to1 self",
			undo: "bridge -n $n2 fdb add $m61 dev $dev6 dst $to1 self permanent",
		},
		{
			name: "VTEP has another MAC than it announced", cause: "vtep-mac-changed", node: "node2",
			do: "ip -n $n2 link set $dev6 address 0a:0a:00:00:00:77",
			undo: `ip -n $n2 link set $dev6 address $m62
			       ip -n $n2 neigh replace fd44:0:0:1:: lladdr $m61 dev $dev6 nud permanent`,
		},
		{
			name: "firewall drops the tunnel's port", cause: "vxlan-port-input-drop", node: "node2",
			do:   "ip netns exec $n2 ip6tables -I INPUT -p udp --dport $port -j DROP",
			undo: "ip netns exec $n2 ip6tables -D INPUT -p udp --dport $port -j DROP",
		},
		{
			name: "route of the pods deleted", cause: "route-missing", node: "node1",
			do:   "ip -n $n1 route del fd44:0:0:2::/64",
			undo: "ip -n $n1 route add fd44:0:0:2::/64 via fd44:0:0:2:: dev $dev6 onlink",
		},
		{
			name: "forwarding off", cause: "v6-forward-off", node: "node1",
			do:   "ip netns exec $n1 sysctl -qw net.ipv6.conf.all.forwarding=0",
			undo: "ip netns exec $n1 sysctl -qw net.ipv6.conf.all.forwarding=1",
		},
		{
			name: "ip6tables drops what is forwarded", cause: "v6-fw-drop", node: "node2", probe: "udp:7",
			do: `ip netns exec $n2 ip6tables -P FORWARD DROP
			     ip netns exec $n2 ip6tables -D FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD`,
			undo: `ip netns exec $n2 ip6tables -P FORWARD ACCEPT
			       ip netns exec $n2 ip6tables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD`,
		},
		{
			name: "bridge down", cause: "cni0-down", node: "node1",
			do: "ip -n $n1 link set cni0 down",
			undo: `ip -n $n1 link set cni0 up; ip -n $n1 addr replace fd44:0:0:1::1/64 dev cni0 nodad
			       while ip -n $n1 -6 addr show dev cni0 tentative | grep -q inet6; do sleep 0.1; done`,
		},
	})
}

// TestNAT has machines that a router translates, of which an administrator's annotation tells flanneld the public address.
func TestNAT(t *testing.T) {
	w := up(t, config{backend: `{"Type": "vxlan"}`, nat: true, kube: true})
	w.healthy(map[string]string{"tea-1": "bridge", "coffee-2": "flannel-vxlan"})
	w.faults(natFaults(), vxlanFaults(), nodeFaults())
}

// TestNATByFlag: this flanneld takes the address of its flag -public-ip for its device as well, from which the kernel sends
// nothing, as it is not the machine's own.
func TestNATByFlag(t *testing.T) {
	w := up(t, config{backend: `{"Type": "vxlan"}`, nat: true})
	for _, probe := range []string{"icmp", "tcp:" + echoPort, "udp:" + echoPort} {
		r, text, status := w.path("coffee-1", "coffee-2", "--probe", probe)
		if v := r.Verdict; status != 1 || v.Status != "broken" || v.Cause != "wrong-iface" || v.Node != "node1" || v.Interface != "flannel.1" {
			t.Errorf("%s: %d %+v\n%s", probe, status, v, text)
		}
		if len(r.Kernel.Differs) > 0 {
			t.Errorf("the kernel says otherwise: %+v", r.Kernel.Differs)
		}
	}
}

// natFaults are those of a translation.
func natFaults() []fault {
	return []fault{
		{
			name: "FDB row leads to an address that nobody routes", cause: "fdb-wrong-dst", node: "node1",
			do:   "bridge -n $n1 fdb replace $m2 dev $dev dst 192.168.44.7 self permanent",
			undo: "bridge -n $n1 fdb replace $m2 dev $dev dst $to2 self permanent",
		},
		{
			name: "the provider drops the tunnel's port", cause: "vxlan-port-underlay-drop", node: "node1",
			do: `ip netns exec $router nft 'add table inet sg; add chain inet sg f { type filter hook forward priority 0; }
			     add rule inet sg f iifname "port-node1" udp dport '$port' drop'`,
			undo: "ip netns exec $router nft delete table inet sg",
		},
	}
}
