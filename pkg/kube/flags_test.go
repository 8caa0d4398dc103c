package kube

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
)

const kubeconfig = `
apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: c1, cluster: {server: "https://one.example:6443"}}
- {name: c2, cluster: {server: "https://two.example:6443"}}
users:
- {name: u1, user: {token: t1}}
- {name: u2, user: {token: t2}}
contexts:
- {name: one, context: {cluster: c1, user: u1, namespace: shop}}
- {name: two, context: {cluster: c2, user: u2}}
`

// TestFlags: each of kubectl's flags has its effect, and what they leave open the kubeconfig says.
func TestFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", file)
	for _, tt := range []struct {
		args      []string
		want      func(*rest.Config)
		namespace string
	}{
		{nil, func(*rest.Config) {}, "shop"},
		{[]string{"-n", "other"}, func(*rest.Config) {}, "other"},
		{[]string{"--kubeconfig", file, "--context", "two"}, func(c *rest.Config) { c.Host, c.BearerToken = "https://two.example:6443", "t2" }, "default"},
		{[]string{"--cluster", "c2"}, func(c *rest.Config) { c.Host = "https://two.example:6443" }, "shop"},
		{[]string{"--user", "u2"}, func(c *rest.Config) { c.BearerToken = "t2" }, "shop"},
		{[]string{"--token", "t3"}, func(c *rest.Config) { c.BearerToken = "t3" }, "shop"},
		{[]string{"-s", "https://three.example"}, func(c *rest.Config) { c.Host = "https://three.example" }, "shop"},
		{[]string{"--request-timeout", "3s"}, func(c *rest.Config) { c.Timeout = 3 * time.Second }, "shop"},
		{[]string{"--insecure-skip-tls-verify"}, func(c *rest.Config) { c.Insecure = true }, "shop"},
		{[]string{"--tls-server-name", "x"}, func(c *rest.Config) { c.ServerName = "x" }, "shop"},
		{[]string{"--disable-compression"}, func(c *rest.Config) { c.DisableCompression = true }, "shop"},
		{[]string{"--certificate-authority", file}, func(c *rest.Config) { c.CAFile = file }, "shop"},
		{[]string{"--client-certificate", file, "--client-key", file}, func(c *rest.Config) { c.CertFile, c.KeyFile = file, file }, "shop"},
		{[]string{"--as", "me", "--as-uid", "7", "--as-group", "g1", "--as-group", "g2", "--as-user-extra", "k=v", "--as-user-extra", "k=w=x"}, func(c *rest.Config) {
			c.Impersonate = rest.ImpersonationConfig{UserName: "me", UID: "7", Groups: []string{"g1", "g2"}, Extra: map[string][]string{"k": {"v", "w=x"}}}
		}, "shop"},
		{[]string{"--cache-dir", "/x"}, func(*rest.Config) {}, "shop"},
	} {
		var f Flags
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		f.Add(fs)
		if err := fs.Parse(tt.args); err != nil {
			t.Errorf("%q: %v", tt.args, err)
			continue
		}
		want := &rest.Config{Host: "https://one.example:6443", BearerToken: "t1"}
		tt.want(want)
		got, err := f.config().ClientConfig()
		if err != nil {
			t.Errorf("%q: %v", tt.args, err)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", tt.args, got, want)
		}
		if got, _, err := f.config().Namespace(); got != tt.namespace || err != nil {
			t.Errorf("%q: namespace %q, %v, want %q", tt.args, got, err, tt.namespace)
		}
		if !Configured(&f) {
			t.Errorf("%q: no cluster", tt.args)
		}
	}
}

func TestProxyFlag(t *testing.T) {
	var f Flags
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.Add(fs)
	if err := fs.Parse([]string{"-s", "https://one.example", "--proxy-url", "http://proxy.example:3128"}); err != nil {
		t.Fatal(err)
	}
	c, err := f.config().ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	if u, err := c.Proxy(&http.Request{}); err != nil || u.Host != "proxy.example:3128" {
		t.Errorf("proxy %v, %v", u, err)
	}
}

// TestExecRequest: an exec asks for the agent in its container, over a websocket first and then by SPDY.
func TestExecRequest(t *testing.T) {
	asked := make(chan string, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.String()
		http.Error(w, "no upgrade", http.StatusBadRequest)
	}))
	defer srv.Close()
	config := &rest.Config{Host: srv.URL}
	c, err := NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Exec(config, c)(t.Context(), ns, "p")
	if err != nil {
		t.Fatal(err)
	}
	const url = "/api/v1/namespaces/" + ns + "/pods/p/exec?command=%2Fpodtrace&command=agent&container=agent&stderr=true&stdin=true&stdout=true"
	for _, want := range []string{"GET " + url, "POST " + url} {
		if got := <-asked; got != want {
			t.Errorf("asked for %s\nwant %s", got, want)
		}
	}
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("there is a session")
	}
	if err := s.Close(); err == nil {
		t.Error("a session that never was ended well")
	}
}
