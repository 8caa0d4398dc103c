package realcni

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// fault is one thing that goes wrong: what a person does with ip, bridge, iptables, nft or sysctl, and what podtrace has
// to say of it. The scripts know the variables that vars gives.
type fault struct {
	name   string
	do     string
	undo   string // empty: the cluster is of no use afterwards, and the fault is its last
	to     string // from coffee-1; empty: coffee-2
	probe  string // empty: icmp
	cause  string
	node   string
	status string // empty: broken
	// awake: flanneld runs on. Else it is stopped meanwhile, so that it does not mend what was broken.
	awake bool
}

// vars are the names in a cluster, for scripts.
func (w *world) vars() string {
	var b strings.Builder
	for i, n := range w.nodes {
		fmt.Fprintf(&b, "n%[1]d=%[2]s u%[1]d=%[3]s ip%[1]d=%[4]s m%[1]d=%[5]s m6%[1]d=%[6]s pid%[1]d=%[7]d lan%[1]d=%[8]s gw%[1]d=%[9]s to%[1]d=%[10]s net%[1]d=%[11]s\n",
			i+1, n.ns, n.uplink, n.ip, vtepMAC(n.lease.BackendData), vtepMAC(n.lease.BackendV6Data), n.flanneld.Process.Pid,
			n.lan, n.gateway, n.announced(w.cfg), n.subnet)
	}
	for _, p := range w.pods {
		name := strings.ReplaceAll(p.name, "-", "_")
		fmt.Fprintf(&b, "%[1]s=%[2]s v_%[1]s=%[3]s ip_%[1]s=%[4]s\n", name, p.ns, p.veth, p.ip)
	}
	var conf struct {
		Type      string
		VNI, Port int
	}
	w.must(json.Unmarshal([]byte(w.cfg.backend), &conf))
	fmt.Fprintf(&b, "switch=%s router=%s hub=%s dev=flannel.%d dev6=flannel-v6.%d port=%d\n", switchNS, routerNS, w.nodes[0].hub, max(conf.VNI, 1), max(conf.VNI, 1), conf.Port)
	if conf.Port == 0 {
		b.WriteString("port=8472\n")
	}
	return b.String()
}

func vtepMAC(data json.RawMessage) string {
	var d struct{ VtepMAC string }
	_ = json.Unmarshal(data, &d) // empty where there is none
	return d.VtepMAC
}

// faults puts each in by itself, has podtrace say what it is, and takes it out again. In the end all has to be well.
func (w *world) faults(lists ...[]fault) {
	for _, list := range lists {
		for _, f := range list {
			w.t.Run("fault "+f.name, func(t *testing.T) {
				inner := *w
				inner.t = t
				inner.try(f)
			})
			if f.undo == "" {
				return
			}
		}
	}
	w.t.Run("healthy again", func(t *testing.T) {
		inner := *w
		inner.t = t
		if r, _, status := inner.path("coffee-1", "coffee-2"); status != 0 {
			t.Errorf("status %d: %+v", status, r.Verdict)
		}
	})
}

func (w *world) try(f fault) {
	vars := w.vars()
	if !f.awake {
		w.signal(syscall.SIGSTOP)
		defer w.signal(syscall.SIGCONT)
	}
	w.sh("%s\n%s", vars, f.do)
	defer w.sh("%s\n%s", vars, f.undo)
	to, probe, want := f.to, f.probe, f.status
	if to == "" {
		to = "coffee-2"
	}
	if probe == "" {
		probe = "icmp"
	}
	if want == "" {
		want = "broken"
	}
	r, _, status := w.path("coffee-1", to, "--probe", probe)
	if status != 1 || r.Verdict.Status != want || r.Verdict.Cause != f.cause || r.Verdict.Node != f.node {
		w.t.Errorf("status %d: %s %s on %q, want %s %s on %q\n%s", status,
			r.Verdict.Status, r.Verdict.Cause, r.Verdict.Node, want, f.cause, f.node, w.asText("coffee-1", to, "--probe", probe))
	}
}

// signal is sent to every flanneld.
func (w *world) signal(s syscall.Signal) {
	for _, n := range w.nodes {
		w.must(n.flanneld.Process.Signal(s))
	}
}

// vxlanFaults are those of the tunnel.
func vxlanFaults() []fault {
	return []fault{
		{
			name: "FDB row leads to a dead address", cause: "fdb-wrong-dst", node: "node1",
			do:   "bridge -n $n1 fdb replace $m2 dev $dev dst 10.1.11.99 self permanent",
			undo: "bridge -n $n1 fdb replace $m2 dev $dev dst $to2 self permanent",
		},
		{
			name: "FDB row deleted", cause: "fdb-missing", node: "node1", probe: "tcp:7",
			do:   "bridge -n $n1 fdb del $m2 dev $dev dst $to2 self",
			undo: "bridge -n $n1 fdb add $m2 dev $dev dst $to2 self permanent",
		},
		{
			name: "FDB row deleted on the way back", cause: "fdb-missing", node: "node2",
			do:   "bridge -n $n2 fdb del $m1 dev $dev dst $to1 self",
			undo: "bridge -n $n2 fdb add $m1 dev $dev dst $to1 self permanent",
		},
		{
			name: "neighbour deleted", cause: "neigh-missing", node: "node1",
			do:   "ip -n $n1 neigh del $net2.0 dev $dev",
			undo: "ip -n $n1 neigh replace $net2.0 lladdr $m2 dev $dev nud permanent",
		},
		{
			name: "neighbour has another MAC", cause: "neigh-wrong-mac", node: "node1", probe: "udp:7",
			do:   "ip -n $n1 neigh replace $net2.0 lladdr 0a:0a:00:00:00:99 dev $dev nud permanent",
			undo: "ip -n $n1 neigh replace $net2.0 lladdr $m2 dev $dev nud permanent",
		},
		{
			name: "VTEP has another MAC than it announced", cause: "vtep-mac-changed", node: "node2",
			do:   "ip -n $n2 link set $dev address 0a:0a:00:00:00:77",
			undo: "ip -n $n2 link set $dev address $m2",
		},
		{
			name: "firewall drops the tunnel's port", cause: "vxlan-port-input-drop", node: "node2",
			do:   "ip netns exec $n2 iptables -I INPUT -p udp --dport $port -j DROP",
			undo: "ip netns exec $n2 iptables -D INPUT -p udp --dport $port -j DROP",
		},
		{
			name: "VTEP down", cause: "vxlan-down", node: "node2",
			do: "ip -n $n2 link set $dev down",
			undo: `ip -n $n2 link set $dev up
			       ip -n $n2 route replace $net1.0/24 via $net1.0 dev $dev onlink
			       ip -n $n2 neigh replace $net1.0 lladdr $m1 dev $dev nud permanent
			       bridge -n $n2 fdb replace $m1 dev $dev dst $to1 self permanent`,
		},
		{
			name: "route of the pods deleted", cause: "route-missing", node: "node1",
			do:   "ip -n $n1 route del $net2.0/24",
			undo: "ip -n $n1 route add $net2.0/24 via $net2.0 dev $dev onlink",
		},
		{
			name: "no route to the other machine", cause: "underlay-route-missing", node: "node1",
			do: "ip -n $n1 route del $lan1; ip -n $n1 route del default",
			undo: `ip -n $n1 route add $lan1 dev $u1 proto kernel scope link src $ip1 metric 100
			       ip -n $n1 route add default via $gw1 dev $u1 proto static metric 100`,
		},
		{
			name: "the way back is by the uplink, and the reverse path is checked", cause: "rp-filter-strict", node: "node2",
			do: `ip -n $n2 route replace $net1.0/24 via $gw2 dev $u2
			     ip netns exec $n2 sysctl -qw net.ipv4.conf.all.rp_filter=1`,
			undo: `ip netns exec $n2 sysctl -qw net.ipv4.conf.all.rp_filter=0
			       ip -n $n2 route replace $net1.0/24 via $net1.0 dev $dev onlink`,
		},
	}
}

// hostGWFaults are those of a cluster without a tunnel.
func hostGWFaults() []fault {
	return []fault{
		{
			name: "routes of the pods deleted", cause: "direct-route-lost", node: "node1",
			do:   "ip -n $n1 route del 10.244.2.0/24",
			undo: "ip -n $n1 route add 10.244.2.0/24 via $ip2 dev $u1",
		},
		{
			name: "next hop is an address that the machine had before", cause: "nexthop-stale", node: "node1", probe: "tcp:7",
			do:   "ip -n $n1 route replace 10.244.2.0/24 via 10.1.11.99 dev $u1",
			undo: "ip -n $n1 route replace 10.244.2.0/24 via $ip2 dev $u1",
		},
		{
			name: "the network drops addresses that are no machine's", cause: "src-dst-check", node: "node1",
			do: `ip netns exec $switch nft 'add table bridge sg; add chain bridge sg f { type filter hook forward priority 0; }
			     add rule bridge sg f iifname "port-node1" ip saddr 10.244.0.0/16 drop'`,
			undo: "ip netns exec $switch nft delete table bridge sg",
		},
		{
			name: "the way back is by another device, and the reverse path is checked", cause: "rp-filter-strict", node: "node2",
			do: `ip -n $n2 route replace 10.244.1.0/24 via 172.17.0.99 dev docker0 onlink
			     ip netns exec $n2 sysctl -qw net.ipv4.conf.all.rp_filter=1`,
			undo: `ip netns exec $n2 sysctl -qw net.ipv4.conf.all.rp_filter=0
			       ip -n $n2 route replace 10.244.1.0/24 via $ip1 dev $u2`,
		},
	}
}

// nodeFaults can befall a node whatever the backend.
func nodeFaults() []fault {
	return []fault{
		{
			name: "a rule drops what is forwarded to the pod", cause: "netpol-drop", node: "node2",
			do:   "ip netns exec $n2 iptables -I FORWARD -d $ip_coffee_2 -j DROP",
			undo: "ip netns exec $n2 iptables -D FORWARD -d $ip_coffee_2 -j DROP",
		},
		{
			name: "FORWARD drops, and nothing accepts pods", cause: "forward-policy-drop", node: "node2", probe: "udp:7",
			do: `ip netns exec $n2 iptables -P FORWARD DROP
			     ip netns exec $n2 iptables -D FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD`,
			undo: `ip netns exec $n2 iptables -P FORWARD ACCEPT
			       ip netns exec $n2 iptables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD`,
		},
		{
			name: "pods are masqueraded to pods", cause: "masq-pod-to-pod", node: "node1", status: "degraded",
			do:   "ip netns exec $n1 iptables -t nat -I POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
			undo: "ip netns exec $n1 iptables -t nat -D POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
		},
		{
			name: "forwarding off", cause: "ip-forward-off", node: "node1",
			do:   "ip netns exec $n1 sysctl -qw net.ipv4.ip_forward=0",
			undo: "ip netns exec $n1 sysctl -qw net.ipv4.ip_forward=1",
		},
		{
			name: "the network between the nodes passes small packets alone", cause: "mtu-path-blackhole", node: "node1", status: "degraded",
			do:   "ip -n $hub link set port-node1 mtu 1400; ip -n $hub link set port-node2 mtu 1400",
			undo: "ip -n $hub link set port-node1 mtu 1500; ip -n $hub link set port-node2 mtu 1500",
		},
		{
			name: "bridge down", cause: "cni0-down", node: "node1",
			do:   "ip -n $n1 link set cni0 down",
			undo: "ip -n $n1 link set cni0 up",
		},
		{
			name: "veth is no port of the bridge", cause: "veth-no-master", node: "node2", probe: "tcp:7",
			do:   "ip -n $n2 link set $v_coffee_2 nomaster",
			undo: "ip -n $n2 link set $v_coffee_2 master cni0; bridge -n $n2 link set dev $v_coffee_2 hairpin on",
		},
		{
			name: "port of the bridge blocked", cause: "bridge-port-blocked", node: "node1", to: "tea-1",
			do:   "bridge -n $n1 link set dev $v_tea_1 state 0",
			undo: "bridge -n $n1 link set dev $v_tea_1 state 3",
		},
		{
			name: "the pod's interface down", cause: "pod-link-down", node: "node2",
			do: "ip -n $coffee_2 link set eth0 down",
			undo: `ip -n $coffee_2 link set eth0 up
			       ip -n $coffee_2 route add default via $net2.1
			       ip -n $coffee_2 route add 10.244.0.0/16 via $net2.1`,
		},
		{
			name: "the pod has no route", cause: "pod-default-route-missing", node: "node1",
			do:   "ip -n $coffee_1 route del default; ip -n $coffee_1 route del 10.244.0.0/16",
			undo: "ip -n $coffee_1 route add default via $net1.1; ip -n $coffee_1 route add 10.244.0.0/16 via $net1.1",
		},
	}
}
