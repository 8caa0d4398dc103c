package netfilter

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "record the rulesets in testdata anew, from this kernel")

// TestRecord reads kube-proxy's rules back from the kernel: the same as the recorded ones, which the
// evaluator's own tests use without root.
func TestRecord(t *testing.T) {
	w := newRouter(t)
	for file, s := range map[string]script{
		"testdata/kube-proxy-iptables.json": {"iptables-legacy-restore", "testdata/rules/kube-proxy.iptables"},
		"testdata/kube-proxy-nft.json":      {"nft", "testdata/rules/kube-proxy.nft"},
	} {
		rules, err := os.ReadFile(s.text)
		w.must(err)
		w.must(w.load([]script{{s.command, string(rules)}}))
		rs := w.read()
		tables := rs.Tables[:0]
		for _, t := range rs.Tables {
			if t.Name != "observer" && t.Family == FamilyIPv4 && len(t.Chains) > 0 {
				for i := range t.Chains {
					t.Chains[i].Packets, t.Chains[i].Bytes = 0, 0
				}
				tables = append(tables, t)
			}
		}
		rs.Tables, rs.Conns, rs.Recent = tables, nil, nil
		got, err := json.MarshalIndent(rs, "", " ")
		w.must(err)
		if *update {
			w.must(os.WriteFile(file, append(got, '\n'), 0o644))
			continue
		}
		want, err := os.ReadFile(file)
		w.must(err)
		if d := cmp.Diff(string(handles.ReplaceAll(want, nil)), string(handles.ReplaceAll(append(got, '\n'), nil))); d != "" {
			t.Errorf("%s (-recorded +read):\n%s", file, d)
		}
	}
}

var handles = regexp.MustCompile(`"handle": \d+,`)

// TestText compares the text of rules with what nft and iptables print of them.
func TestText(t *testing.T) {
	w := newRouter(t)
	for _, c := range []struct {
		script script
		list   string // prints the rules
		cut    string // what the tool prints besides
	}{
		{script{"nft", textRules}, "nft list table inet text", `packets \d+ bytes \d+`},
		{script{"iptables-legacy-restore", "*filter\n" + strings.Join(xtTextRules, "\n") + "\nCOMMIT\n"}, "iptables-legacy -S FORWARD", ""},
	} {
		w.must(w.load([]script{c.script}))
		var out []byte
		w.must(w.ns.Do(func() (err error) {
			out, err = exec.Command("sh", "-c", c.list).CombinedOutput()
			return err
		}))
		var want []string
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSpace(line)
			if l, ok := strings.CutPrefix(line, "-A FORWARD "); ok {
				want = append(want, l)
			} else if c.script.command == "nft" && !strings.HasSuffix(line, "{") && !strings.HasSuffix(line, "}") && !strings.HasPrefix(line, "type ") && line != "" || strings.Contains(line, "vmap") || strings.Contains(line, "dport {") {
				want = append(want, strings.Join(strings.Fields(regexp.MustCompile("(?:"+c.cut+")").ReplaceAllString(line, "")), " "))
			}
		}
		var got []string
		for _, tab := range w.read().Tables {
			for _, ch := range tab.Chains {
				if tab.Name == "text" || tab.Backend == BackendLegacy && ch.Name == "FORWARD" && tab.Name == "filter" && tab.Family == FamilyIPv4 {
					for _, r := range ch.Rules {
						got = append(got, r.Text())
					}
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("text (-%s +here):\n%s", c.list, d)
		}
	}
}

const textRules = `table inet text {
 chain next { }
 chain c { type filter hook forward priority 0;
  ip saddr 10.1.0.0/16 ip daddr != 10.2.0.1 tcp dport 80 accept
  ip6 daddr fd00::/8 udp sport 1000-2000 drop
  iifname "eth*" oifname != "cni0" counter jump next
  ct state established,related accept
  ct state new meta mark 0x00000005 goto next
  meta mark & 0x00004000 == 0x00004000 return
  meta mark set 0x00000007
  meta mark set meta mark | 0x00004000
  ct mark set meta mark
  tcp dport { 22, 80 } reject with tcp reset
  fib daddr type local reject with icmpx admin-prohibited
  meta l4proto { tcp, udp } accept
  limit rate 5/minute burst 7 packets accept
  ct status dnat accept
  ip daddr . tcp dport vmap { 10.0.0.1 . 80 : drop, 10.0.0.2 . 443 : goto next }
  numgen random mod 2 vmap { 0 : drop, 1 : jump next }
 }
}
`

var xtTextRules = []string{
	"-A FORWARD -s 10.1.0.0/16 ! -d 10.2.0.1/32 -i eth+ -p tcp -m tcp --dport 80:90 --tcp-flags SYN,RST SYN -j ACCEPT",
	"-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m mark --mark 0x4000/0x4000 -j DROP",
	"-A FORWARD -p udp -m multiport --dports 53,80:90 -m addrtype --dst-type LOCAL -j REJECT --reject-with icmp-host-prohibited",
	"-A FORWARD -m statistic --mode random --probability 0.25000000000 -m limit --limit 3/min --limit-burst 10 -j RETURN",
	"-A FORWARD -m ttl --ttl-lt 5 -m length --length 100:200 -m pkttype --pkt-type unicast -j MARK --set-xmark 0x1/0xffffffff",
	"-A FORWARD -m iprange --src-range 10.0.0.1-10.0.0.9 -m physdev --physdev-is-bridged -m mac --mac-source 02:00:00:00:00:01 -j ACCEPT",
}

func TestEbtablesInUse(t *testing.T) {
	dir := t.TempDir()
	for table, refs := range map[string]string{"filter": "1\n", "nat": "0\n"} {
		if err := os.MkdirAll(dir+"/ebtable_"+table, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/ebtable_"+table+"/refcnt", []byte(refs), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := ebtablesInUse(dir); len(got) != 1 || got[0] != "filter" {
		t.Errorf("in use: %q", got)
	}
}
