package resolve_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

// The startup thread cannot exit and /proc/self describes it: keep it away from helper goroutines.
func init() { runtime.LockOSThread() }

// sh runs lines of commands inside.
func sh(t testing.TB, h *netns.Handle, lines string) string {
	t.Helper()
	var out []byte
	err := h.Do(func() (err error) {
		out, err = exec.Command("sh", "-ec", lines).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", lines, err, out)
	}
	return string(out)
}

// cluster is a node with a bridged pod, a routed one, one on a macvlan and one on the host network.
type cluster struct {
	node, bridged, routed, lower *netns.Handle
	inv                          *inventory.Inventory
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{node: nstest.New(t), bridged: nstest.New(t), routed: nstest.New(t), lower: nstest.New(t)}
	sh(t, c.node, `
		ip link add br7 type bridge
		ip link set br7 up
		ip addr add 10.7.0.1/24 dev br7
		ip link add nic0 type veth peer name nic1
		ip link set nic0 up; ip link set nic1 up
		ip addr add 192.0.2.7/24 dev nic0
	`)
	sh(t, c.bridged, "ip link add spare type veth peer name spare1; ip link del spare") // so that indexes differ
	nstest.Veth(t, c.bridged, "net0", c.node, "vethaaaa")
	nstest.Addr(t, c.bridged, "net0", "10.7.0.2/24")
	sh(t, c.node, "ip link set vethaaaa master br7; bridge link set dev vethaaaa hairpin on")
	nstest.Veth(t, c.routed, "net0", c.node, "calibbbb")
	nstest.Addr(t, c.routed, "net0", "10.7.1.2/32")
	sh(t, c.node, fmt.Sprintf("ip link add mv0 link nic0 type macvlan mode bridge; ip link set mv0 netns %s", c.lower.Path()))
	nstest.Addr(t, c.lower, "mv0", "192.0.2.9/24")
	c.inv = c.inventory(t, "")
	return c
}

func (c *cluster) inventory(t testing.TB, more string) *inventory.Inventory {
	t.Helper()
	pod := func(name, path, ip string) string {
		return fmt.Sprintf("---\nkind: Pod\nmetadata: {name: %s, annotations: {podtrace.dev/netns: %q}}\nspec: {nodeName: n1}\nstatus: {podIP: %s}\n", name, path, ip)
	}
	text := fmt.Sprintf("kind: Node\nmetadata: {name: n1, annotations: {podtrace.dev/netns: %q}}\n"+
		"spec: {podCIDR: 10.7.0.0/16}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.7}]}\n", c.node.Path()) +
		pod("bridged", c.bridged.Path(), "10.7.0.2") + pod("routed", c.routed.Path(), "10.7.1.2") +
		pod("lower", c.lower.Path(), "192.0.2.9") + pod("wrong", c.routed.Path(), "10.7.9.9") +
		"---\nkind: Pod\nmetadata: {name: agent}\nspec: {nodeName: n1, hostNetwork: true}\nstatus: {podIP: 192.0.2.7}\n" + more
	inv, err := inventory.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func lookup(t testing.TB, inv *inventory.Inventory, arg string) inventory.Endpoint {
	t.Helper()
	e, err := inv.Lookup(arg, "")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// open opens what the endpoints need.
func open(inv *inventory.Inventory, eps ...inventory.Endpoint) ([]tables.Source, func() error, error) {
	none := func() error { return nil }
	wants, err := resolve.Wants(inv, eps...)
	if err != nil {
		return nil, none, err
	}
	var o resolve.Namespaces
	if _, err := o.Open(wants); err != nil {
		return nil, none, errors.Join(err, o.Close())
	}
	return o.Sources(), o.Close, nil
}

// snapshot opens and reads what the endpoints need.
func (c *cluster) snapshot(t testing.TB, args ...string) *tables.Snapshot {
	t.Helper()
	var eps []inventory.Endpoint
	for _, a := range args {
		eps = append(eps, lookup(t, c.inv, a))
	}
	sources, closeAll, err := open(c.inv, eps...)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	s, err := tables.Read(t.Context(), sources)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *cluster) locate(t testing.TB, s *tables.Snapshot, arg string) resolve.Location {
	t.Helper()
	l, err := resolve.Locate(s, c.inv, lookup(t, c.inv, arg))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLocateBridged(t *testing.T) {
	c := newCluster(t)
	s := c.snapshot(t, "bridged")
	if len(s.Netns) != 2 {
		t.Fatalf("%d namespaces, want pod and node", len(s.Netns))
	}
	got := c.locate(t, s, "bridged")
	pod, host := s.ByID(c.bridged.ID()), s.Host("n1")
	if got.PodNetns != pod.ID || got.HostNetns != host.ID || got.Node != "n1" || got.Kind != "veth" {
		t.Errorf("namespaces of %+v", got)
	}
	if got.Interface != "net0" || int(got.Ifindex) != nstest.Ifindex(t, c.bridged, "net0") || got.MAC != pod.LinkByName("net0").MAC {
		t.Errorf("interface of %+v", got)
	}
	if got.Veth != "vethaaaa" || int(got.VethIndex) != nstest.Ifindex(t, c.node, "vethaaaa") || !got.Confirmed {
		t.Errorf("veth of %+v", got)
	}
	if got.Bridge != "br7" || got.BridgeIndex != host.LinkByName("br7").Index || got.Port != 1 || got.PortState != "forwarding" {
		t.Errorf("bridge of %+v", got)
	}
	if len(got.Problems) > 0 {
		t.Errorf("problems %q", got.Problems)
	}
}

// TestSteps runs the command of every step and looks for what the step says that it shows.
func TestSteps(t *testing.T) {
	c := newCluster(t)
	s := c.snapshot(t, "bridged")
	words := map[string]string{
		"iflink": "@if", "statistics": "peer_ifindex", "bridge": "br7", "interface": "", "its link": "net0", "network namespace": "net:[",
	}
	for _, st := range c.locate(t, s, "bridged").Steps {
		out, err := exec.Command("sh", "-c", st.Command).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s: %v\n%s", st.What, st.Command, err, out)
		}
		for what, word := range words {
			if strings.HasPrefix(st.What, what) && !strings.Contains(string(out), word) {
				t.Errorf("%s: %s does not show %q:\n%s", st.What, st.Command, word, out)
			}
		}
	}
}

func TestLocateOthers(t *testing.T) {
	c := newCluster(t)
	s := c.snapshot(t, "routed", "lower", "agent", "node/n1")
	if got := c.locate(t, s, "routed"); got.Veth != "calibbbb" || !got.Confirmed || got.Bridge != "" || len(got.Problems) > 0 {
		t.Errorf("routed: %+v", got)
	}
	if got := c.locate(t, s, "lower"); got.Kind != "macvlan" || got.Lower != "nic0" || got.VethIndex != 0 || len(got.Problems) > 0 {
		t.Errorf("macvlan: %+v", got)
	}
	for _, arg := range []string{"agent", "node/n1"} {
		got := c.locate(t, s, arg)
		if got.Interface != "nic0" || got.PodNetns != c.node.ID() || got.HostNetns != c.node.ID() || got.VethIndex != 0 || len(got.Problems) > 0 {
			t.Errorf("%s: %+v", arg, got)
		}
	}
	if got := c.locate(t, s, "10.7.200.1"); got.Node != "n1" || !got.PodNetns.IsZero() {
		t.Errorf("address in a pod range: %+v", got)
	}
	if got := c.locate(t, s, "198.51.100.1"); got.Node != "" || len(got.Steps) != 1 {
		t.Errorf("address outside: %+v", got)
	}
}

func TestLocateProblems(t *testing.T) {
	c := newCluster(t)
	tests := []struct {
		name string
		edit func(pod, host *tables.Netns)
		want string
		veth string
	}{
		{"peer points elsewhere", func(_, h *tables.Netns) { h.LinkByName("vethaaaa").Parent++ }, "are no pair", "vethaaaa"},
		{"peer points to another namespace", func(_, h *tables.Netns) { h.LinkByName("vethaaaa").ParentNetns = 99 }, "netnsid 99", "vethaaaa"},
		{"peer is gone", func(_, h *tables.Netns) { *h.LinkByName("vethaaaa") = tables.Link{Index: 999} }, "does not have", ""},
		{"namespace of the peer was not read", func(p, _ *tables.Netns) { p.Peers = nil }, "not in the snapshot", ""},
		{"ethtool disagrees", func(p, _ *tables.Netns) { p.LinkByName("net0").EthtoolPeer = 77 }, "ethtool says", "vethaaaa"},
		{"no address", func(p, _ *tables.Netns) { p.Addrs = nil }, "no interface of n1/default/bridged has 10.7.0.2", "vethaaaa"},
		{"master is gone", func(_, h *tables.Netns) { h.LinkByName("vethaaaa").Master = 99 }, "which is gone", "vethaaaa"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := c.snapshot(t, "bridged")
			tt.edit(s.ByID(c.bridged.ID()), s.Host("n1"))
			got := c.locate(t, s, "bridged")
			if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], tt.want) || got.Veth != tt.veth {
				t.Errorf("problems %q, veth %q, want %q, %q", got.Problems, got.Veth, tt.want, tt.veth)
			}
		})
	}
	t.Run("ethtool is not available", func(t *testing.T) {
		s := c.snapshot(t, "bridged")
		s.ByID(c.bridged.ID()).LinkByName("net0").EthtoolPeer = 0
		if got := c.locate(t, s, "bridged"); len(got.Problems) != 0 || !strings.Contains(fmt.Sprint(got.Steps), "not available") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("no interface at all", func(t *testing.T) {
		s := c.snapshot(t, "bridged")
		s.ByID(c.bridged.ID()).Links = nil
		if _, err := resolve.Locate(s, c.inv, lookup(t, c.inv, "bridged")); !errors.Is(err, resolve.ErrNoInterface) {
			t.Errorf("Locate = %v", err)
		}
	})
	if _, err := resolve.Locate(&tables.Snapshot{}, c.inv, lookup(t, c.inv, "bridged")); !errors.Is(err, resolve.ErrNotRead) {
		t.Errorf("Locate in an empty snapshot = %v", err)
	}
}

func TestPlacesErrors(t *testing.T) {
	c := newCluster(t)
	more := `
---
{kind: Pod, metadata: {name: done}, spec: {nodeName: n1}, status: {phase: Succeeded, podIP: 10.7.0.9}}
---
{kind: Pod, metadata: {name: pending}, status: {phase: Running}}
---
{kind: Pod, metadata: {name: nowhere}, spec: {nodeName: n1}}
---
{kind: Pod, metadata: {name: stray}, spec: {nodeName: n9}}
---
{kind: Pod, metadata: {name: gone, annotations: {podtrace.dev/netns: /run/netns/podtrace-test-none}}, spec: {nodeName: n1}}
---
{kind: Pod, metadata: {name: file, annotations: {podtrace.dev/netns: /dev/null}}, spec: {nodeName: n1}}
---
{kind: Pod, metadata: {name: uid, uid: 00000000-1111-2222-3333-444444444444}, spec: {nodeName: n1}}
---
{kind: Pod, metadata: {name: nopid, annotations: {podtrace.dev/pid: "2147483646"}}, spec: {nodeName: n1}}
`
	inv := c.inventory(t, more+fmt.Sprintf("---\n{kind: Pod, metadata: {name: alias, annotations: {podtrace.dev/netns: %q}}, spec: {nodeName: n1}}\n", c.node.Path()))
	tests := []struct {
		pod  string
		want error
	}{
		{"done", resolve.ErrNotRunning}, {"pending", resolve.ErrNotScheduled}, {"nowhere", resolve.ErrNoPlace},
		{"stray", resolve.ErrUnknownNode}, {"gone", fs.ErrNotExist}, {"file", netns.ErrNotNetns}, {"uid", resolve.ErrNoProcess},
		{"nopid", fs.ErrNotExist}, {"alias", resolve.ErrShared},
	}
	before := openFiles(t)
	for _, tt := range tests {
		t.Run(tt.pod, func(t *testing.T) {
			sources, closeAll, err := open(inv, lookup(t, inv, "bridged"), lookup(t, inv, tt.pod))
			var p *resolve.PlaceError
			if sources != nil || closeAll == nil || !errors.Is(err, tt.want) || !errors.As(err, &p) || p.Hint() == "" {
				t.Errorf("Places = %v, %v, want %v", sources, err, tt.want)
			}
		})
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, want %d as before", after, before)
	}
	for _, arg := range []string{"198.51.100.1"} {
		if _, _, err := open(inv, lookup(t, inv, arg)); !errors.Is(err, resolve.ErrNoNamespace) {
			t.Errorf("Places of %s = %v, want %v", arg, err, resolve.ErrNoNamespace)
		}
	}
	perm := &resolve.PlaceError{Object: "pod", Err: &netns.PermissionError{Op: "enter", Capability: "CAP_SYS_ADMIN", Err: fs.ErrPermission}}
	if !strings.Contains(perm.Hint(), "CAP_SYS_ADMIN") {
		t.Errorf("hint = %q", perm.Hint())
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestPlacesByPID(t *testing.T) {
	c := newCluster(t)
	var child *exec.Cmd
	if err := c.bridged.Do(func() error {
		child = exec.Command("sleep", "60")
		return child.Start()
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	inv := c.inventory(t, fmt.Sprintf("---\n{kind: Pod, metadata: {name: bypid, annotations: {podtrace.dev/pid: %q}}, spec: {nodeName: n1}, status: {podIP: 10.7.0.2}}\n", fmt.Sprint(child.Process.Pid)))
	sources, closeAll, err := open(inv, lookup(t, inv, "bypid"))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	if len(sources) != 2 || sources[1].Netns.ID() != c.bridged.ID() || sources[1].Name != "default/bypid" ||
		sources[1].Exec != fmt.Sprintf("nsenter --net=/proc/%d/ns/net", child.Process.Pid) {
		t.Errorf("sources = %+v", sources)
	}
}
