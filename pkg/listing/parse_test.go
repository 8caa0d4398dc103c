package listing

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

func one(t *testing.T, command, text string) *tables.Netns {
	t.Helper()
	l := Parse([]Input{{File: "f", Node: "n", Netns: tables.HostName, Command: command, Text: []byte(text)}})
	for _, u := range l.NotUnderstood {
		t.Errorf("not understood: %s %q: %s", u.Origin, u.Text, u.Why)
	}
	if len(l.Snapshot.Netns) != 1 {
		t.Fatalf("%d namespaces", len(l.Snapshot.Netns))
	}
	return l.Snapshot.Netns[0]
}

// TestPlaces: prompts and prefixes say where a command ran.
func TestPlaces(t *testing.T) {
	const addr = "\n2: eth0: <UP> mtu 1500 \n    inet 10.0.0.2/24 scope global eth0\n"
	for _, c := range []struct {
		name, text, node, netns string
	}{
		{"RHEL prompt", "[root@node1 ~]# ip a" + addr, "node1", "host"},
		{"Debian prompt", "root@node1:/etc# ip a" + addr, "node1", "host"},
		{"bare prompt", "# ip a" + addr, "", "host"},
		{"kubectl exec", "root@master:~# kubectl exec -n shop cart-1 -c app -- ip a" + addr, "", "shop/cart-1"},
		{"old kubectl exec", "$ kubectl exec cart-1 ip a" + addr, "", "default/cart-1"},
		{"nsenter", "root@node1:~# nsenter -t 4711 -n ip a" + addr, "node1", "pid 4711"},
		{"nsenter by file", "root@node1:~# nsenter --net=/run/netns/blue ip a" + addr, "node1", "netns blue"},
		{"ip netns exec", "root@node1:~# sudo ip netns exec blue ip a" + addr, "node1", "netns blue"},
		{"ip -n", "root@node1:~# ip -n blue a" + addr, "node1", "netns blue"},
		{"docker exec", "root@node1:~# docker exec -it c0ffee1234 sh -c 'ip a'" + addr, "node1", "container c0ffee1234"},
		{"a shell in a pod", "root@master:~# kubectl exec -it cart-1 -- bash\nbash-5.1# ip a" + addr, "master", "default/cart-1"},
		{"and out of it", "root@master:~# kubectl exec -it cart-1 -- bash\nbash-5.1# exit\nroot@master:~# ip a" + addr, "master", "host"},
		{"and to another node", "root@m:~# kubectl exec -it cart-1 -- sh\n/ # id\nroot@node1:~# ip a" + addr, "node1", "host"},
		{"a namespace that keeps the prompt", "[root@node1 ~]# nsenter -t 7 -n\n[root@node1 ~]# ip a" + addr, "node1", "pid 7"},
		{"no prompt", strings.TrimPrefix(addr, "\n"), "", "host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := Parse([]Input{{File: "f", Text: []byte(c.text)}})
			if len(l.Snapshot.Netns) != 1 || len(l.NotUnderstood) > 0 {
				t.Fatalf("%d namespaces, not understood: %+v", len(l.Snapshot.Netns), l.NotUnderstood)
			}
			if n := l.Snapshot.Netns[0]; n.Node != c.node || n.Name != c.netns || len(n.Addrs) != 1 {
				t.Errorf("%q %q, %d addresses", n.Node, n.Name, len(n.Addrs))
			}
		})
	}
}

// TestBadLine: a line that is not understood is reported with its place, and nothing else is lost.
func TestBadLine(t *testing.T) {
	l := Parse([]Input{{File: "f", Text: []byte("$ ip route\ndefault via 10.0.0.1 dev eth0\nwhat is this\n10.0.0.0/24 dev eth0 frobnicate 7\n10.1.0.0/24 dev eth1\n")}})
	if len(l.Snapshot.Netns) != 1 || len(l.Snapshot.Netns[0].Routes) != 3 {
		t.Fatalf("%+v", l.Snapshot.Netns)
	}
	var got []string
	for _, u := range l.NotUnderstood {
		got = append(got, u.Origin.String())
	}
	if strings.Join(got, " ") != "f:3 f:4 f:4" {
		t.Errorf("not understood: %v", got)
	}
}

// TestBetterSource: what iproute2 shows whole replaces what net-tools showed of it; a part replaces nothing.
func TestBetterSource(t *testing.T) {
	const old = "$ route -n\nDestination Gateway Genmask Flags Metric Ref Use Iface\n10.4.0.0 10.0.0.5 255.255.255.0 UG 0 0 0 eth0\n"
	const full = "$ ip route\n10.4.0.0/24 \n\tnexthop via 10.0.0.5 dev eth0 weight 1 \n\tnexthop via 10.0.0.6 dev eth0 weight 1 \n"
	const part = "$ ip route show dev eth1\n10.9.0.0/24 scope link \n"
	for name, text := range map[string]string{"after": old + full + part, "before": full + part + old} {
		l := Parse([]Input{{File: "f", Text: []byte(text)}})
		rs := l.Snapshot.Netns[0].Routes
		if len(rs) != 2 || len(rs[0].NextHops) != 2 || l.Snapshot.Netns[0].Link(rs[1].NextHops[0].Index).Name != "eth1" {
			t.Errorf("%s: %+v", name, rs)
		}
	}
}

// TestContradiction: the same index under another name is another namespace, which nobody named.
func TestContradiction(t *testing.T) {
	l := Parse([]Input{{File: "f", Text: []byte("[root@n ~]# ip link\n2: eth0: <UP> mtu 1500\n[root@n ~]# ip link\n2: wlan0: <UP> mtu 1500\n")}})
	if n := l.Snapshot.Netns[0]; len(n.Links) != 1 || n.Links[0].Name != "eth0" {
		t.Errorf("%+v", n.Links)
	}
	if len(l.Notes) != 1 || !strings.Contains(l.Notes[0], "f:4") || !strings.Contains(l.Notes[0], "f:2") {
		t.Errorf("%q", l.Notes)
	}
}

func TestIfconfigOld(t *testing.T) {
	n := one(t, "ifconfig", "eth0      Link encap:Ethernet  HWaddr 6A:6D:35:69:37:FE  \n"+
		"          inet addr:10.244.1.2  Bcast:10.244.1.255  Mask:255.255.255.0\n          inet6 addr: fe80::1/64 Scope:Link\n"+
		"          UP BROADCAST RUNNING MULTICAST  MTU:1450  Metric:1\n          RX packets:14 errors:1 dropped:2 overruns:0 frame:0\n"+
		"          TX packets:1 errors:0 dropped:0 overruns:0 carrier:3\n          collisions:0 txqueuelen:0 \n          RX bytes:1220 (1.1 KiB)  TX bytes:42 (42.0 B)\n")
	l := n.LinkByName("eth0")
	if l == nil || l.MAC != ether.MustParseMAC("6a:6d:35:69:37:fe") || l.MTU != 1450 || !l.Up || !l.LowerUp || l.Stats.RxPackets != 14 || l.Stats.RxDropped != 2 || l.Stats.TxCarrier != 3 {
		t.Errorf("%+v", l)
	}
	if len(n.Addrs) != 2 || n.Addrs[0].Prefix.String() != "10.244.1.2/24" || n.Addrs[1].Prefix.String() != "fe80::1/64" {
		t.Errorf("%+v", n.Addrs)
	}
}

func TestSysctl(t *testing.T) {
	n := one(t, "sysctl -a", "net.ipv4.conf.flannel/1.forwarding = 1\nnet.ipv4.ip_local_port_range = 32768\t60999\nkernel.hostname = x\n")
	if v, _ := n.Sysctl("ipv4.conf.flannel.1.forwarding"); v != "1" || len(n.Sysctls) != 2 || n.Lacks(tabSysctls, "") {
		t.Errorf("%+v %q", n.Sysctls, n.Incomplete)
	}
}

// TestIPVS: both forms say the same.
func TestIPVS(t *testing.T) {
	want := []tables.VirtualServer{{Proto: "TCP", Addr: netip.MustParseAddrPort("10.96.0.10:80"), Scheduler: "rr", Real: []tables.RealServer{
		{Addr: netip.MustParseAddrPort("10.244.2.40:8080"), Forward: "Masq", Weight: 1},
	}}}
	for command, text := range map[string]string{
		"ipvsadm -Ln": "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n" +
			"TCP  10.96.0.10:80 rr\n  -> 10.244.2.40:8080             Masq    1      0          0         \n",
		"cat /proc/net/ip_vs": "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n" +
			"TCP  0A60000A:0050 rr \n  -> 0AF40228:1F90      Masq    1      0          0         \n",
	} {
		if got := one(t, command, text).IPVS; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", command, got)
		}
	}
}

func TestConntrack(t *testing.T) {
	n := one(t, "conntrack -L", "tcp      6 431999 ESTABLISHED src=10.0.0.2 dst=10.96.0.1 sport=4000 dport=443 src=10.0.0.9 dst=10.0.0.2 sport=6443 dport=4000 [ASSURED] mark=16 zone=3 use=1\n"+
		"udp      17 29 src=fd00::1 dst=fd00::2 sport=1 dport=53 [UNREPLIED] src=fd00::2 dst=fd00::1 sport=53 dport=1 mark=0 use=1\n"+
		"icmp     1 3 src=10.0.0.2 dst=10.0.0.3 type=8 code=0 id=77 src=10.0.0.3 dst=10.0.0.2 type=0 code=0 id=77 mark=0 use=1\n"+
		"conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.\n")
	cs := n.Netfilter.Conns
	if len(cs) != 3 || cs[0].Reply.SrcPort != 6443 || !cs[0].Assured || !cs[0].Replied || cs[0].Mark != 16 || cs[0].Zone != 3 || cs[0].Timeout != 431999 {
		t.Fatalf("%+v", cs)
	}
	if cs[1].Replied || cs[1].Orig.Proto != 17 || cs[2].Orig.SrcPort != 77 || cs[2].Orig.DstPort != 0 {
		t.Errorf("%+v", cs[1:])
	}
	if !n.Lacks(tabNetfilter, "") {
		t.Error("without rules their absence is not said")
	}
}

func TestKubernetes(t *testing.T) {
	l := Parse([]Input{{File: "f", Text: []byte(`$ kubectl get nodes -o wide
NAME    STATUS                     ROLES           AGE   VERSION   INTERNAL-IP   EXTERNAL-IP   OS-IMAGE             KERNEL-VERSION   CONTAINER-RUNTIME
node1   Ready,SchedulingDisabled   control-plane   9d    v1.30.1   192.0.2.1     <none>        Ubuntu 24.04.1 LTS   6.8.0            containerd://1.7
$ kubectl get pods -A -o wide
NAMESPACE   NAME     READY   STATUS             RESTARTS      AGE   IP           NODE    NOMINATED NODE   READINESS GATES
shop        cart-1   0/1     CrashLoopBackOff   5 (2m ago)    1h    10.244.1.2   node1   <none>           <none>
shop        proxy    1/1     Running            0             1h    192.0.2.1    node1   <none>           <none>
$ kubectl get svc -n shop
NAME   TYPE       CLUSTER-IP   EXTERNAL-IP   PORT(S)                      AGE
cart   NodePort   10.96.0.9    <none>        80:30080/TCP,53/UDP          1h
$ kubectl get endpointslices -n shop
NAME         ADDRESSTYPE   PORTS   ENDPOINTS               AGE
cart-x7x2k   IPv4          8080    10.244.1.2,10.244.1.3   1h
$ kubectl get pod cart-1 -n shop -o json
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cart-1", "namespace": "shop", "labels": {"app": "cart"}}, "spec": {"nodeName": "node1"}, "status": {"phase": "Running", "podIP": "10.244.1.2"}}
`)}})
	inv := l.Inventory
	if len(l.NotUnderstood) > 0 || len(inv.Nodes) != 1 || len(inv.Pods) != 2 || len(inv.Services) != 1 || len(inv.EndpointSlices) != 1 {
		t.Fatalf("%+v %s", l.NotUnderstood, jsonOf(inv))
	}
	if p := inv.Pod("shop", "cart-1"); p.Node != "node1" || p.Labels["app"] != "cart" || p.IPs[0].String() != "10.244.1.2" || p.HostNetwork {
		t.Errorf("%+v", p)
	}
	if !inv.Pod("shop", "proxy").HostNetwork {
		t.Error("a pod with its node's address is on the host network")
	}
	if s := inv.Service("shop", "cart"); s.Ports[0].NodePort != 30080 || s.Ports[1].Proto != "UDP" || s.ClusterIPs[0].String() != "10.96.0.9" {
		t.Errorf("%+v", s)
	}
	if s := inv.EndpointSlices[0]; s.Service != "cart" || len(s.Endpoints) != 2 || s.Ports[0].Port != 8080 {
		t.Errorf("%+v", s)
	}
}

// TestIPTablesList: the listing for people; what it does not show stays in doubt.
func TestIPTablesList(t *testing.T) {
	n := one(t, "iptables -t nat -nvL", `Chain PREROUTING (policy ACCEPT 12K packets, 720K bytes)
 pkts bytes target     prot opt in     out     source               destination         
  11K  660K KUBE-SERVICES  0    --  *      *       0.0.0.0/0            0.0.0.0/0            /* kubernetes service portals */

Chain KUBE-SERVICES (1 references)
 pkts bytes target     prot opt in     out     source               destination         
    5   300 DNAT       6    --  eth0   !cni0   0.0.0.0/0            10.96.0.1            tcp dpt:443 to:10.0.0.1:6443
    0     0            0    --  *      *      !10.244.0.0/16        0.0.0.0/0            ADDRTYPE match dst-type LOCAL strange words
`)
	cs := n.Netfilter.Tables[0].Chains
	if len(cs) != 2 || !cs[0].Base || cs[0].Type != "nat" || cs[0].Packets != 12000 || cs[0].Rules[0].Packets != 11000 {
		t.Fatalf("%s", jsonOf(cs))
	}
	dnat := cs[1].Rules[0]
	m := dnat.Exprs[0].Tuple
	if m.In != "eth0" || m.Out != "cni0" || !m.NotOut || m.Dst.String() != "10.96.0.1/32" || dnat.Exprs[1].Tuple.DPorts[0] != [2]uint16{443, 443} || dnat.Exprs[2].NAT.PortMin != 6443 {
		t.Errorf("%s", jsonOf(dnat))
	}
	if r := cs[1].Rules[1]; r.Exprs[2].Op != "unknown" || !r.Exprs[0].Tuple.NotSrc {
		t.Errorf("%s", jsonOf(r))
	}
}

// TestIPTablesListLost: a target whose options stand behind words that are not known may do anything.
func TestIPTablesListLost(t *testing.T) {
	n := one(t, "iptables -t raw -nvL", `Chain PREROUTING (policy ACCEPT 0 packets, 0 bytes)
 pkts bytes target     prot opt in     out     source               destination         
    0     0 CT         0    --  *      *       0.0.0.0/0            0.0.0.0/0            strange words CT notrack
    0     0 CT         0    --  *      *       0.0.0.0/0            0.0.0.0/0            CT notrack
`)
	rules := n.Netfilter.Tables[0].Chains[0].Rules
	if es := rules[0].Exprs; es[1].Op != netfilter.OpUnknown || es[2].Op != netfilter.OpOpaque || rules[1].Exprs[1].Op != netfilter.OpNotrack {
		t.Errorf("%s", jsonOf(rules))
	}
}

// TestBrief reads ip -br, and a page that was copied from a browser.
func TestBrief(t *testing.T) {
	n := one(t, "ip -br addr", "lo\u00a0UNKNOWN\u00a0127.0.0.1/8 ::1/128 \n\x1b[36meth0@if7 \x1b[0m UP 10.0.0.2/24 fe80::1/64 \n")
	l := n.LinkByName("eth0")
	if len(n.Addrs) != 4 || l == nil || !l.Up || l.Parent != 7 || l.ParentNetns < 0 || !n.LinkByName("lo").Loopback {
		t.Errorf("%+v %+v", n.Addrs, l)
	}
}

// TestNFTUnknown: what is beyond the grammar may do anything, and prints itself; it never passes.
func TestNFTUnknown(t *testing.T) {
	const head, tail = "table ip a {\n set s { type ipv4_addr; elements = { 10.0.0.1 strange } }\n chain b {\n type filter hook forward priority 0; policy accept;\n", "\n }\n}\n"
	for rule, want := range map[string]string{
		"ip saddr 10.0.0.1 strange words drop":                     "opaque strange words drop",
		"counter packets 0 bytes 0 # xt_MASQUERADE":                "opaque # xt_MASQUERADE",
		"xt target \"TPROXY\"":                                     "opaque xt target TPROXY",
		"synproxy mss 1460":                                        "opaque synproxy mss 1460",
		"tproxy to :80 accept":                                     "opaque tproxy to :80 accept",
		"dnat to somewhere":                                        "opaque dnat to somewhere",
		"ip saddr @s drop":                                         "lookup ip saddr @s",
		"ip saddr { 10.0.0.1, 10.0.0.300 } drop":                   "unknown ip saddr { 10.0.0.1, 10.0.0.300 }",
		"meta mark set ip saddr map { 10.0.0.1 : strange } accept": "opaque",
	} {
		n := one(t, "nft list ruleset", head+rule+tail)
		rules := n.Netfilter.Tables[0].Chains[0].Rules
		if !slices.ContainsFunc(rules[0].Exprs, func(e netfilter.Expr) bool { return strings.HasPrefix(string(e.Op)+" "+e.Text, want) }) {
			t.Errorf("%s: %s", rule, jsonOf(rules))
		}
		p := netfilter.Packet{Family: netfilter.FamilyIPv4, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: 17, In: "a", Out: "b"}
		os := netfilter.NewState(n.Netfilter).Run(netfilter.FamilyIPv4, netfilter.HookForward, p, netfilter.Conn{}, nil)
		if len(os) != 1 || os[0].Verdict != netfilter.Unknown {
			t.Errorf("%s: %+v", rule, os)
		}
	}
}

// TestIPTablesUnknown: likewise.
func TestIPTablesUnknown(t *testing.T) {
	for _, rule := range []string{"-j TPROXY --on-port 1", "-p strange -j DROP", "-s nowhere -j DROP", "-m strange --x 1 -j DROP", "-j NOCHAIN", "-m tcp --tcp-option 3 -j DROP",
		"-s 10.0.0.0/255.0.255.0 -j DROP", "-m set --match-set none src -j DROP", "-j DROP2 --strange", "-m recent --strange 1 -j DROP"} {
		n := one(t, "iptables-save", "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD "+rule+"\nCOMMIT\n")
		p := netfilter.Packet{Family: netfilter.FamilyIPv4, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: 17, In: "a", Out: "b"}
		os := netfilter.NewState(n.Netfilter).Run(netfilter.FamilyIPv4, netfilter.HookForward, p, netfilter.Conn{}, nil)
		if len(os) != 1 || os[0].Verdict != netfilter.Unknown {
			t.Errorf("%s: %+v", rule, os)
		}
	}
}
