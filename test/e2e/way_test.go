package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/podtrace/podtrace/test/e2e/cluster"
	"github.com/podtrace/podtrace/test/e2e/image"
)

// frontend is a proxy in front of the API server that refuses some requests, as companies have them.
type frontend struct {
	refuse              func(*http.Request) int // status to refuse by, 0: let through
	websockets, streams atomic.Int32            // requests for a websocket, for SPDY
}

// stand starts it, and gives a user who comes by it: as the administrator, by the proxy's own word.
func (f *frontend) stand(t *testing.T) user {
	t.Helper()
	config, err := kube.TLS("admin", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: cluster.Server})
	p.Transport = &http.Transport{DialContext: kube.Dial, TLSClientConfig: config}
	p.FlushInterval = -1
	l, err := kube.Listen()
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch strings.ToLower(r.Header.Get("Upgrade")) {
		case "websocket":
			f.websockets.Add(1)
		case "spdy/3.1":
			f.streams.Add(1)
		}
		if status := f.refuse(r); status != 0 {
			http.Error(w, "not here", status)
			return
		}
		p.ServeHTTP(w, r)
	})}
	go func() { _ = s.Serve(l) }() // until it is closed
	t.Cleanup(func() { _ = s.Close() })
	u := user{name: admin.name, config: filepath.Join(t.TempDir(), "config")}
	if err := kube.KubeconfigAt(u.name, "http://"+l.Addr().String(), u.config); err != nil {
		t.Fatal(err)
	}
	return u
}

// TestPluginWithoutWebsockets: where something on the way does not let a websocket through, sessions go by SPDY.
func TestPluginWithoutWebsockets(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusForbidden, http.StatusBadGateway} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			f := &frontend{refuse: func(r *http.Request) int {
				if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
					return status
				}
				return 0
			}}
			r := f.stand(t).trace(t, "client", "web-2")
			healthy(t, r.stderr, r.report, r.status)
			if w, s := f.websockets.Load(), f.streams.Load(); w != 2 || s != 2 || r.stderr != "" {
				t.Errorf("%d websockets were asked for and %d streams, want 2 and 2: %s", w, s, r.stderr)
			}
			t.Logf("%.1f s", r.took.Seconds())
		})
	}
	t.Run("no exec at all", func(t *testing.T) {
		f := &frontend{refuse: func(r *http.Request) int {
			if strings.HasSuffix(r.URL.Path, "/exec") {
				return http.StatusForbidden
			}
			return 0
		}}
		r := f.stand(t).trace(t, "client", "web-2")
		if r.status != 2 || f.streams.Load() != 2 || !strings.Contains(r.stderr, "no session with it can be opened") || !strings.Contains(r.stderr, "hint: kubectl exec has to work") {
			t.Errorf("exit status %d: %s", r.status, r.stderr)
		}
		t.Log(r.stderr)
	})
	t.Run("any", func(t *testing.T) { // what the tests above take away is what is used
		f := &frontend{refuse: func(*http.Request) int { return 0 }}
		r := f.stand(t).trace(t, "client", "web-2")
		healthy(t, r.stderr, r.report, r.status)
		if w, s := f.websockets.Load(), f.streams.Load(); w != 2 || s != 0 {
			t.Errorf("%d websockets were asked for and %d streams, want 2 and 0", w, s)
		}
	})
	nothingLeft(t)
}

// sshd starts a server on each node, and gives a user whose ssh client knows them and is let in. The client's
// configuration is not the caller's own: ssh looks for that where the password file says.
func sshd(t *testing.T) user {
	t.Helper()
	for _, program := range []string{"sshd", "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("not tested: %v (Debian: openssh-server, openssh-client)", err)
		}
	}
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "key")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	public, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	var known strings.Builder
	for _, node := range kube.Nodes {
		const script = `mkdir -p /run/sshd /run/e2e-ssh && cd /run/e2e-ssh && rm -f host host.pub && ssh-keygen -q -t ed25519 -N '' -f host
cat > authorized <<'END'
%sEND
cat > config <<'END'
HostKey /run/e2e-ssh/host
AuthorizedKeysFile /run/e2e-ssh/authorized
PidFile /run/e2e-ssh/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
END
$(command -v sshd) -f /run/e2e-ssh/config`
		onNode(t, node, fmt.Sprintf(script, public))
		t.Cleanup(func() { onNode(t, node, "kill $(cat /run/e2e-ssh/pid)") })
		addr := kubectl(t, "get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
		known.WriteString(addr + " " + onNode(t, node, "cat /run/e2e-ssh/host.pub"))
	}
	config := write("config", fmt.Sprintf("User root\nIdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\nStrictHostKeyChecking yes\n",
		filepath.Join(dir, "key"), write("known_hosts", known.String(), 0o600)), 0o600)
	program, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	write("ssh", fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", program, config), 0o700)
	return user{name: "reader", path: dir, args: []string{"--via=ssh"}}
}

const remoteAgent = "--remote-command=/opt/e2e/podtrace agent"

// TestPluginSSH goes to the nodes by a real ssh client and server, with the right to read alone.
func TestPluginSSH(t *testing.T) {
	u := sshd(t)
	if err := kube.AddUser(u.name); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", "../../deploy/podtrace.yaml")
	kubectl(t, "create", "clusterrolebinding", "reader", "--clusterrole=podtrace", "--user="+u.name)
	t.Cleanup(func() { kubectl(t, "delete", "clusterrolebinding", "reader") })

	for _, args := range []string{"client web-2", "client web-1", "client svc/web", "client node/node2:30080"} {
		t.Run(args, func(t *testing.T) {
			r := u.trace(t, append(strings.Fields(args), remoteAgent)...)
			healthy(t, r.stderr, r.report, r.status)
			t.Logf("%.1f s", r.took.Seconds())
		})
	}
	t.Run("fault", func(t *testing.T) {
		f := faults[0]
		f.put(t)
		r := u.trace(t, append(strings.Fields(f.path), remoteAgent)...)
		f.found(t, r.report, r.status)
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		var out bytes.Buffer
		if status, _ := interrupt(t, watching(t, u, &out, remoteAgent), syscall.SIGINT); status != 3 {
			t.Errorf("exit status %d: %s", status, out.String())
		}
		eventually(t, "processes", func() error { return noProcess(t) })
	})
	t.Run("kill -9", func(t *testing.T) {
		var out bytes.Buffer
		interrupt(t, watching(t, u, &out, remoteAgent), syscall.SIGKILL)
		eventually(t, "processes", func() error { return noProcess(t) })
	})
	t.Run("server of one node gone", func(t *testing.T) {
		onNode(t, "node2", "iptables -I INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset")
		t.Cleanup(func() { onNode(t, "node2", "iptables -D INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset") })
		r := u.trace(t, "client", "web-2", remoteAgent)
		if r.status != 3 || !strings.Contains(r.Verdict.Summary, `node "node2": ssh: connect to host`) {
			t.Errorf("exit status %d: %+v: %s", r.status, r.Verdict, r.stderr)
		}
	})
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"no podtrace there": {[]string{"--remote-command=/nowhere/podtrace agent"}, []string{"/nowhere/podtrace", "--remote-command"}},
		"another version":   {[]string{"--remote-command=/opt/e2e/podtrace-old agent"}, []string{`"v0.0.1"`, "use the same version"}},
		"no agent":          {[]string{"--remote-command=echo hello"}, []string{"agent", "--remote-command"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := u.trace(t, append([]string{"client", "web-2"}, c.args...)...)
			refused(t, r, c.want...)
		})
	}
	nothingLeft(t)
}

// TestOnNode: what docs/kubernetes.md says for somebody who is on a node, or may only debug one. Each sees its node alone,
// and says so.
func TestOnNode(t *testing.T) {
	local := func(args string) result {
		line := "KUBECONFIG=" + kube.Kubeconfig("admin") + " /opt/e2e/kubectl-podtrace path -o json --via local " + args
		return outcome(t, kube.Exec(t.Context(), "node1", "sh", "-c", line))
	}
	r := local("client web-1")
	healthy(t, "one node", r.report, r.status)
	half := func(t *testing.T, r result, other string) {
		t.Helper()
		if r.status != 3 || !strings.Contains(r.Verdict.Summary, fmt.Sprintf("node %q: it is not this machine", other)) || !strings.Contains(r.Verdict.Summary, "as far as the others saw") {
			t.Errorf("exit status %d: %+v: %s", r.status, r.Verdict, r.stderr)
		}
	}
	half(t, local("client web-2"), "node2")
	for node, other := range map[string]string{"node1": "node2", "node2": "node1"} {
		t.Run("kubectl debug "+node, func(t *testing.T) {
			said := kubectl(t, "debug", "node/"+node, "--profile=sysadmin", "--image="+image.Podtrace, "--image-pull-policy=Never", "--", "/podtrace", "agent", "--park", "--first", "5m")
			pod := strings.Fields(said)[3] // "Creating debugging pod node-debugger-node1-xxxxx with …"
			defer kubectl(t, "delete", "pod", "--wait=false", pod)
			kubectl(t, "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=20s")
			script := "kubectl get nodes,pods,services,endpointslices -A -o yaml | kubectl exec -i " + pod + " -- /podtrace path -f - client web-2 --via local -o json"
			r := outcome(t, kube.Command(t.Context(), "sh", "-c", script))
			r.status = 3 // kubectl exec has an exit status of its own
			half(t, r, other)
		})
	}
	eventually(t, "processes", func() error { return noProcess(t) })
}
