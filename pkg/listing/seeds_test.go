package listing

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The published documents from which the project started: prose with real outputs, pasted with prompts.
const seedDir = "../../../shared/seeds" // beside the repository's root; absent elsewhere

// unsupported are the commands of the documents whose output holds no table, and why.
var unsupported = map[string]string{
	"tcpdump": "packets, which are read from capture files", "ping": "an answer, not a table", "curl": "an answer, not a table",
	"bpftool": "code of programs, of which only that they are attached matters", "kubectl logs": "a log", "kubectl create": "changes something",
	"docker ps": "names of containers; docker inspect and kubectl describe say what matters", "ip link add": "changes something",
	"bridge fdb append": "changes something", "ip neigh add": "changes something", "nsenter -t <pid>": "explains how to use it",
}

// TestSeeds: the listings of all five documents are understood as they stand.
func TestSeeds(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(seedDir, "*.txt"))
	if len(files) == 0 {
		t.Skipf("no documents in %s", seedDir)
	}
	// the outputs that each document holds, by kind: counted by hand
	want := map[string]map[string]int{
		"000": {kindIPLink: 4, kindRoute: 2, kindARP: 1, kindIPNeigh: 1, kindFDB: 1, kindKube: 1, kindDescribe: 2, kindFragment: 1, kindPID: 2},
		"001": {kindIfconfig: 2, kindIPLink: 1, kindRoute: 1, kindFDB: 1, kindIPNeigh: 1},
		"002": {kindKube: 1, kindIfconfig: 2, kindRoute: 3, kindEthtool: 2, kindIPLink: 3, kindBrctlShow: 1, kindBrctlMACs: 1},
		"003": {kindPID: 1, kindIPLink: 3, kindRoute: 1, kindARP: 1, kindFilter: 2, kindIPRule: 2, kindIPRoute: 5},
		"004": {kindKubeYAML: 1, kindBrctlShow: 1, kindRoute: 1, kindIfconfig: 1, kindKube: 1, kindSysfs: 3, kindDescribe: 1},
	}
	for _, f := range files {
		name := filepath.Base(f)[:3]
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			l := Parse([]Input{{File: name, Text: b}})
			for _, u := range l.NotUnderstood {
				t.Errorf("not understood: %s %q: %s", u.Origin, u.Text, u.Why)
			}
			got := make(map[string]int)
			for _, o := range l.Outputs {
				if o.Kind == "" {
					explained(t, o)
					continue
				}
				if o.Rows == 0 {
					t.Errorf("%s: nothing was read of %q", o.Origin, o.Command)
				}
				got[o.Kind]++
			}
			if jsonOf(got) != jsonOf(want[name]) {
				t.Errorf("outputs %s, want %s", jsonOf(got), jsonOf(want[name]))
			}
		})
	}
}

// explained: an output that is not read must be of a command on the list.
func explained(t *testing.T, o Output) {
	t.Helper()
	for c := range unsupported {
		if strings.HasPrefix(o.Command, c) || strings.Contains(o.Command, "-- "+c) || strings.Contains(o.Command, "-n "+c) {
			return
		}
	}
	t.Errorf("%s: %q is not read, and nothing says why", o.Origin, o.Command)
}

// TestSeedTables: what the documents' listings come to, in the places that people ask about.
func TestSeedTables(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(seedDir, "*.txt"))
	if len(files) == 0 {
		t.Skipf("no documents in %s", seedDir)
	}
	parsed := make(map[string]*Listing)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		parsed[filepath.Base(f)[:3]] = Parse([]Input{{File: filepath.Base(f)[:3], Text: b}})
	}
	// a pod is found by ethtool -S and the node's "@if3" alone
	node := parsed["002"].Snapshot.Host("node1.whale.com")
	veth := node.LinkByName("veth9903a3d4")
	if veth == nil || veth.Port == nil || !veth.Port.Hairpin || veth.Port.No != 1 || node.Peers[veth.ParentNetns].IsZero() {
		t.Errorf("002: %+v", veth)
	}
	// brctl showmacs knows ports by number: the local rows say which they are
	if len(node.FDB) != 2 || node.FDB[0].Index != 6 || node.FDB[1].Index != 7 || !node.FDB[0].Local {
		t.Errorf("002: fdb %+v", node.FDB)
	}
	// a container that no output names keeps the name that it was entered by
	if n := len(parsed["003"].Snapshot.Netns); n != 3 {
		t.Errorf("003: %d namespaces", n)
	}
	hook := parsed["003"].Snapshot.Host("node1").LinkByName("lxc050ba70e11a8").Hooks
	if len(hook) != 1 || hook[0].Where != "tc-egress" || hook[0].Tag != "db59e2ea8177ded3" || hook[0].Name != "bpf_lxc.o:[from-container]" {
		t.Errorf("003: %+v", hook)
	}
	flannel := parsed["001"].Snapshot.Host("").LinkByName("flannel.1")
	if v := flannel.VXLAN; v == nil || v.VNI != 1 || v.Port != 8472 || v.Learning || v.Local.String() != "172.17.16.14" || v.UDPCsum {
		t.Errorf("001: %+v", flannel.VXLAN)
	}
}
