package trace_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/report"
)

// TestByHand puts in what no catalogue has. The place, the leg and the entry must be right all the same, and there is
// one finding for one cause.
func TestByHand(t *testing.T) {
	ofFaults(t)
	inv := up(t)
	for name, v := range map[string]struct {
		in      string // namespace of the lab
		run     string
		cause   string
		on, at  string
		leg     string
		summary string
		errors  int
	}{
		"a rule rewrites the MAC": {
			"node1", "nft add table netdev q; nft 'add chain netdev q e { type filter hook egress device flannel.1 priority 0; }'; " +
				"nft add rule netdev q e ether daddr set 02:00:00:00:00:55",
			"wrong-ethDst", "node1", "flannel.1", request, "02:00:00:00:00:55", 2, // and no FDB row for that MAC
		},
		"a rule for ARP": {
			"node2", "nft add table arp q; nft 'add chain arp q i { type filter hook input priority 0; }'; nft add rule arp q i arp daddr ip 10.1.11.92 drop",
			"netfilter-drop", "node2", "eno16780032", request, "arp table q chain i", 1,
		},
		"another station has the node's address": {
			"switch", "ip addr add 10.1.11.92/32 dev underlay",
			"underlay-neigh-wrong", "node1", "ens192", request, "somebody else answers for 10.1.11.92", 1,
		},
		"a wrong entry for the gateway": {
			"coffee-1", "ip neigh replace 10.244.1.1 lladdr 02:00:00:00:00:98 dev eth0 nud permanent",
			"pod-neigh-stale", "node1", "eth0", request, "02:00:00:00:00:98", 1,
		},
		"IPsec blocks the tunnel": {
			"node1", "ip xfrm policy add src 10.1.11.91 dst 10.1.11.92 dir out action block",
			"ipsec-policy", "node1", "flannel.1", request, "dir out action block", 1,
		},
		"IPsec wants it encrypted": {
			"node2", "ip xfrm policy add src 10.244.1.0/24 dst 10.244.2.0/24 dir fwd tmpl proto esp mode transport",
			"ipsec-policy", "node2", "flannel.1", request, "dir fwd", 1,
		},
		"a mark on the way": {
			"node1", "iptables-legacy -t mangle -A PREROUTING -s 10.244.1.32 -j MARK --set-mark 0x77; ip rule add pref 50 fwmark 0x77 prohibit",
			"policy-rule-hijack", "node1", "cni0", request, "fwmark 0x77", 1,
		},
		"ARP off on the far uplink": {
			"node2", "ip link set eno16780032 arp off",
			"arp-off", "node2", "eno16780032", request, "NOARP", 1,
		},
		"an entry for the way back": {
			"node2", "ip neigh replace 10.1.11.91 lladdr 02:00:00:00:00:99 dev eno16780032 nud permanent",
			"underlay-neigh-wrong", "node2", "eno16780032", reply, "02:00:00:00:00:99", 1,
		},
		"a queue without room": {
			"node1", "tc qdisc add dev flannel.1 root tbf rate 8bit burst 10 limit 10",
			"qdisc-drop", "node1", "flannel.1", request, "QDISC_DROP", 1,
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			o := labOptions()
			out, err := exec.Command("ip", "netns", "exec", o.Prefix+v.in, "sh", "-ec", v.run).CombinedOutput() //nolint:gosec // the table's
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			r := path(t, inv, "coffee-1", "coffee-2", "icmp")
			got, errors := r.Verdict, 0
			for _, f := range r.Findings {
				if f.Severity == "error" {
					errors++
				}
			}
			if bad := wrong(got, report.Broken, v.cause, v.on, v.at, v.leg); bad != "" || !strings.Contains(got.Summary, v.summary) || errors != v.errors {
				t.Errorf("%s; %d errors, want %d\n%s", bad, errors, v.errors, text(r))
			}
			if err := lab.Down(t.Context(), o); err != nil { // mending does not know all of this
				t.Fatal(err)
			}
			if err := lab.Up(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestFDBAged: a row that ages is noted while it is there, and missing afterwards.
func TestFDBAged(t *testing.T) {
	ofFaults(t)
	inv := up(t)
	o := labOptions()
	if err := lab.Break(t.Context(), o, "fdb-aged", "node1"); err != nil {
		t.Fatal(err)
	}
	r := path(t, inv, "coffee-1", "coffee-2", "icmp")
	if r.Verdict.Status != report.Healthy || !strings.Contains(text(r), "fdb-aged") {
		t.Errorf("before it ages:\n%s", text(r))
	}
	mac := inv.Node("node2").Flannel.VtepMAC.String()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		out, err := exec.Command("ip", "netns", "exec", o.Prefix+"node1", "bridge", "fdb", "show", "dev", "flannel.1").CombinedOutput() //nolint:gosec // the lab's
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if !strings.Contains(string(out), mac) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it does not age:\n%s", out)
		}
	}
	r = path(t, inv, "coffee-1", "coffee-2", "icmp")
	if bad := wrong(r.Verdict, report.Broken, "fdb-missing", "node1", "flannel.1", request); bad != "" {
		t.Errorf("after it aged: %s\n%s", bad, text(r))
	}
}
