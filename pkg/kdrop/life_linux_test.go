package kdrop

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

const childEnv = "KDROP_TEST_CHILD"

// child is the process that TestKilled kills: it watches, says which program it loaded, and waits.
func child() int {
	w, err := Open(Config{Flows: []Flow{udpFlow("192.0.2.1:1", "192.0.2.2:2")}})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	info, err := w.coll.Programs[kfreeProgKfreeSkb].Info()
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	id, _ := info.ID()
	fmt.Println(id)
	time.Sleep(time.Minute)
	return 0
}

// TestKilled: a process that is killed takes everything with it.
func TestKilled(t *testing.T) {
	w := watch(t, Config{})
	_ = w.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	var id ebpf.ProgramID
	_, scanErr := fmt.Sscan(line, &id)
	alive := exists(id)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if readErr != nil || scanErr != nil || !alive {
		t.Fatalf("child said %q (%v), its program exists: %v", strings.TrimSpace(line), readErr, alive)
	}
	for end := time.Now().Add(10 * time.Second); exists(id); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("program %d is still there", id)
		}
	}
}

func exists(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	_ = p.Close()
	return true
}

// TestUnprivileged: the error of a thread without the capabilities says which they are.
func TestUnprivileged(t *testing.T) {
	_ = watch(t, Config{}).Close()
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes with its capabilities
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			errs <- err
			return
		}
		w, err := Open(Config{})
		if err == nil {
			_ = w.Close()
		}
		errs <- err
	}()
	err := <-errs
	var u *UnsupportedError
	if !errors.As(err, &u) || !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("error = %v", err)
	}
	if !strings.Contains(err.Error(), "CAP_BPF") || !strings.Contains(u.Hint(), "CAP_PERFMON") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error = %q, hint %q", err, u.Hint())
	}
}

// TestVerifier holds the program to a size that old verifiers take: before 5.2 their limit was 131072
// instructions walked, and old ones recognise fewer states as walked before.
func TestVerifier(t *testing.T) {
	_ = watch(t, Config{}).Close()
	spec, err := loadKfree()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{kfreeVarWild, kfreeVarHasRxSk} {
		if err := spec.Variables[v].Set(uint32(0xff)); err != nil {
			t.Fatal(err)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		nstest.Skip(t, err)
		t.Fatal(err)
	}
	defer coll.Close()
	log := coll.Programs[kfreeProgKfreeSkb].VerifierLog
	i := strings.Index(log, "processed ")
	if i < 0 {
		t.Skipf("no statistics in the verifier's log: %q", log)
	}
	var n int
	if _, err := fmt.Sscanf(log[i:], "processed %d insns", &n); err != nil || n > 100_000 {
		t.Errorf("%v: %s", err, log[i:])
	}
	t.Log(log[i:])
}

func BenchmarkOpen(b *testing.B) {
	cfg := Config{Flows: []Flow{udpFlow("192.0.2.1:1", "192.0.2.2:2")}}
	for b.Loop() {
		if err := watch(b, cfg).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLocate is what Stop spends on names: one walk through /proc/kallsyms.
func BenchmarkLocate(b *testing.B) {
	events := []*kfreeEvent{{Location: 0xffffffff81000010}, {Location: 0xffffffff81000020}}
	for b.Loop() {
		if err := locate(make([]Drop, len(events)), events); err != nil {
			b.Fatal(err)
		}
	}
}
