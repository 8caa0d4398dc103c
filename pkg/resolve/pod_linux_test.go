package resolve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

const (
	uidA   = "34602527-5426-466b-a323-56accc49da9f"
	uidB   = "89d1a5d0-0d4c-4b2b-8f6e-4b0c2f8f6a11"
	static = "b1e89a2fcc688644de3eb95aee8025ce" // of a pod from a kubelet's own file
	id     = "8a743abb1a27f1b7a3a5a5b2a6a7d1b1a1c0f3fdc1f6d5a5c0ff9f3d2f3b1b10"
	under  = "34602527_5426_466b_a323_56accc49da9f"
)

// lines as cgroups(7) has them, by runtime, driver and version: what containerd, CRI-O and Docker with cri-dockerd put
// processes into.
var cgroupFiles = []struct{ name, text, want string }{
	{"containerd, cgroupfs, v1", "11:memory:/kubepods/burstable/pod" + uidA + "/" + id + "\n1:name=systemd:/kubepods/burstable/pod" + uidA + "/" + id + "\n0::/system.slice/containerd.service\n", uidA},
	{"containerd, cgroupfs, v1, guaranteed", "12:cpu,cpuacct:/kubepods/pod" + uidA + "/" + id + "\n", uidA},
	{"containerd, systemd, v1", "9:memory:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uidA},
	{"containerd, cgroupfs, v2", "0::/kubepods/besteffort/pod" + uidA + "/" + id + "\n", uidA},
	{"containerd, systemd, v2", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uidA},
	{"containerd, systemd, v2, guaranteed", "0::/kubepods.slice/kubepods-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uidA},
	{"containerd, systemd in the container", "0::/kubepods.slice/kubepods-pod" + under + ".slice/cri-containerd-" + id + ".scope/init.scope\n", uidA},
	{"containerd without SystemdCgroup below a kubelet with it, v1", "12:cpu,cpuacct:/system.slice/containerd.service/kubepods-besteffort-pod" + under + ".slice:cri-containerd:" + id + "\n", uidA},
	{"the same, v2", "0::/kubepods-burstable-pod" + under + ".slice:cri-containerd:" + id + "\n", uidA},
	{"CRI-O, systemd, v1", "5:pids:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/crio-" + id + ".scope\n", uidA},
	{"CRI-O, systemd, v2, crun", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/crio-" + id + ".scope/container\n", uidA},
	{"CRI-O, cgroupfs", "0::/kubepods/burstable/pod" + uidA + "/crio-" + id + "\n", uidA},
	{"CRI-O's conmon", "0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-conmon-" + id + ".scope\n", uidA},
	{"Docker, systemd", "8:memory:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/docker-" + id + ".scope\n", uidA},
	{"Docker, cgroupfs", "8:memory:/kubepods/besteffort/pod" + uidA + "/" + id + "\n", uidA},
	{"kind, systemd", "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uidA},
	{"kind, seen from its host", "2:pids:/docker/" + id + "/kubelet/kubepods/besteffort/pod" + uidA + "/" + id + "\n", uidA},
	{"static pod", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + static + ".slice/cri-containerd-" + id + ".scope\n", static},
	{"from another pod's cgroup namespace, systemd", "0::/../../../kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + id + ".scope\n", uidA},
	{"from a guaranteed pod's, cgroupfs", "0::/../../pod" + uidA + "/" + id + "\n", uidA},
	{"a pod inside a pod", "0::/kubepods/pod" + uidA + "/" + id + "/kubepods/pod" + uidB + "/" + id + "\n", uidA},
	{"a pod that plays another", "0::/kubepods.slice/kubepods-pod" + under + ".slice/cri-containerd-" + id + ".scope/pod" + uidB + "\n", uidA},

	{"Docker without Kubernetes", "0::/system.slice/docker-" + id + ".scope\n", ""},
	{"podman's pods", "0::/machine.slice/machine-libpod_pod_" + id + ".slice/libpod-" + id + ".scope\n", ""},
	{"the kubelet", "0::/system.slice/kubelet.service\n", ""},
	{"a class of pods", "0::/kubepods.slice/kubepods-besteffort.slice\n", ""},
	{"the root", "0::/\n", ""},
	{"a name that only begins like it", "0::/podinfo-app/pods/pod-" + uidA + "/podtrace.slice\n", ""},
	{"cut short", "0:", ""},
	{"empty", "", ""},
}

func TestPodOfCgroup(t *testing.T) {
	for _, c := range cgroupFiles {
		t.Run(c.name, func(t *testing.T) {
			for _, uid := range []string{uidA, uidB, static} {
				if got := cgroupHas(c.text, uid); got != (uid == c.want) {
					t.Errorf("pod %s: %t, in\n%s", uid, got, c.text)
				}
			}
		})
	}
}

func FuzzPodOfCgroup(f *testing.F) {
	for _, c := range cgroupFiles {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for line := range strings.Lines(text) {
			if uid := podOf(line); uid != "" && !plausibleUID(uid) {
				t.Errorf("%q gives UID %q", line, uid)
			}
		}
	})
}

// process is one of a made-up /proc.
type process struct {
	pid                int
	comm, netns, group string
}

// procTree makes the files of processes that are read; what is not to be read is left out.
func procTree(t *testing.T, procs ...process) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"sys", "self", "acpi", "-1", "007x"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range procs {
		dir := filepath.Join(root, fmt.Sprint(p.pid))
		if err := os.MkdirAll(filepath.Join(dir, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{"comm": p.comm + "\n", "cgroup": p.group}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if p.netns == "" {
			continue
		}
		if err := os.Symlink(p.netns, filepath.Join(dir, "ns", "net")); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestPodProcesses: which process of a pod its namespace is taken of, in trees as the runtimes leave them.
func TestPodProcesses(t *testing.T) {
	const own, pod, made = "net:[4026531840]", "net:[4026532281]", "net:[4026532999]"
	in := func(scope string) string {
		return "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/" + scope + "-" + id + ".scope\n"
	}
	host := process{1, "systemd", own, "0::/init.scope\n"}
	other := process{90, "pause", "net:[4026532777]", "0::/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uidB, "-", "_") + ".slice/cri-containerd-" + id + ".scope\n"}
	for _, c := range []struct {
		name  string
		procs []process
		want  []int // process ids, best first
	}{
		{"containerd", []process{host, other, {200, "nginx", pod, in("cri-containerd")}, {210, "pause", pod, in("cri-containerd")}}, []int{210, 200}},
		{"CRI-O has no pause, and its conmon is the node's", []process{
			host, other, {300, "conmon", own, in("crio-conmon")}, {301, "nginx", pod, in("crio")}, {302, "nginx", pod, in("crio")},
		}, []int{301, 302}},
		{"Docker", []process{host, {400, "pause", pod, in("docker")}, {420, "java", pod, in("docker")}}, []int{400, 420}},
		{"a process made a namespace for itself", []process{
			{500, "unshare", made, in("cri-containerd")}, {510, "app", pod, in("cri-containerd")}, {511, "app", pod, in("cri-containerd")},
		}, []int{510, 511, 500}},
		{"the only one plays pause in a namespace of its own", []process{
			{600, "pause", made, in("cri-containerd")}, {610, "pause", pod, in("cri-containerd")}, {611, "app", pod, in("cri-containerd")},
		}, []int{610, 600, 611}},
		{"nothing may be read", []process{{700, "app", "", in("cri-containerd")}}, nil},
		{"no process", []process{host, other}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			procs, err := podProcs(procTree(t, c.procs...), uidA)
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, p := range choose(procs, own) {
				got = append(got, p.pid)
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("processes %v, want %v", got, c.want)
			}
		})
	}
	for _, uid := range []string{"", "..", "pod", uidA + "/../x", strings.ToUpper(uidA), strings.Repeat("a", 65)} {
		if _, err := podProcs(t.TempDir(), uid); err == nil {
			t.Errorf("UID %q is taken", uid)
		}
	}
	if _, err := podProcs(filepath.Join(t.TempDir(), "none"), uidA); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without /proc: %v", err)
	}
}

// asAgent makes the test's program an agent that looks for a pod.
const asAgent = "PODTRACE_TEST_FIND_POD"

func TestMain(m *testing.M) {
	if uid := os.Getenv(asAgent); uid != "" {
		os.Exit(findPod(uid))
	}
	os.Exit(m.Run())
}

// findPod says which namespace a pod has, and where its process seems to be.
func findPod(uid string) (status int) {
	pid, h, err := openPod(procDir, uid)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer h.Close()
	group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	fmt.Printf("found %s %v\n%s", h.ID(), err, group)
	return 0
}

// TestOpenPodKernel finds a pod by its UID in the cgroups of the kernel that runs: versions 1 and 2, folders and
// slices, and from the cgroup namespace that a runtime gives to an agent's container under version 2.
func TestOpenPodKernel(t *testing.T) {
	if os.Getuid() != 0 {
		nstest.Skip(t, fs.ErrPermission)
	}
	tried := 0
	for _, version := range []string{"-t cgroup2 none", "-t cgroup -o pids none"} {
		for _, c := range []struct{ name, pod, agent string }{
			{"cgroupfs", "kubepods/burstable/pod%s/" + id, "kubepods/pod" + uidB + "/" + id},
			{"systemd", "kubepods.slice/kubepods-pod%s.slice/cri-containerd-" + id + ".scope", "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podx.slice/crio-" + id + ".scope"},
		} {
			t.Run(version+" "+c.name, func(t *testing.T) {
				g := mountCgroups(t, version)
				tried++
				uid := fmt.Sprintf("%08x-0000-4000-8000-%012x", os.Getpid(), time.Now().UnixNano()&0xffffffffffff)
				name := uid
				if c.name == "systemd" {
					name = strings.ReplaceAll(uid, "-", "_")
				}
				pod := g.run(t, fmt.Sprintf(c.pod, name), "unshare", "-n", "sh", "-c", "readlink /proc/self/ns/net; exec sleep 60")
				want, err := pod.stdout.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				for _, in := range [][]string{{"nice"}, {"unshare", "-C"}} {
					text := g.run(t, c.agent, append(in, "env", asAgent+"="+uid, os.Args[0])...).output(t)
					if !strings.Contains(text, "found "+strings.TrimSpace(want)+" ") || strings.Contains(text, ":/../") != (in[0] == "unshare") {
						t.Errorf("%v: want %s in %s", in, want, text)
					}
				}
			})
		}
	}
	if tried == 0 {
		t.Error("no version of cgroups can be mounted here")
	}
}

// cgroups is a group of a hierarchy of this kernel, with whatever the test puts below it.
type cgroups struct{ version, mountpoint, name string }

// mountCgroups makes the group, and removes it when the test ends. The hierarchy is mounted in the mount namespaces of
// helpers alone. A version that this kernel does not have, or whose controller is in use by the other, skips.
func mountCgroups(t *testing.T, version string) cgroups {
	t.Helper()
	g := cgroups{version, t.TempDir(), fmt.Sprintf("podtrace-test-%d-%d", os.Getpid(), time.Now().UnixNano())}
	if out, err := g.command("mkdir $0/" + g.name).CombinedOutput(); err != nil {
		t.Skipf("mount %s: %v: %s", version, err, out)
	}
	t.Cleanup(func() {
		// a group is busy for a moment after its last process
		const remove = "for i in $(seq 100); do find $0/$1 -depth -type d -exec rmdir {} + 2>/dev/null; [ -d $0/$1 ] || exit 0; sleep 0.05; done; exit 1"
		if out, err := g.command(remove, g.name).CombinedOutput(); err != nil {
			t.Errorf("group %s stays: %v: %s", g.name, err, out)
		}
	})
	return g
}

// command is a shell script with the hierarchy mounted at $0.
func (g cgroups) command(script string, args ...string) *exec.Cmd {
	args = append([]string{"-m", "--propagation", "private", "sh", "-ec", "mount " + g.version + " $0; " + script, g.mountpoint}, args...)
	return exec.Command("unshare", args...)
}

// running is a process in a group. It ends with the test.
type running struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
}

// run starts a command in a group below.
func (g cgroups) run(t *testing.T, group string, args ...string) *running {
	t.Helper()
	r := &running{cmd: g.command(`mkdir -p $0/$1; echo $$ > $0/$1/cgroup.procs; umount $0; shift; exec "$@"`, append([]string{g.name + "/" + group}, args...)...)}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdout, r.cmd.Stderr = bufio.NewReader(out), r.cmd.Stdout // what goes wrong is among what it says
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it may have ended
		_ = r.cmd.Wait()
	})
	return r
}

// output is all that it says until it ends.
func (r *running) output(t *testing.T) string {
	t.Helper()
	text, err := io.ReadAll(r.stdout)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
