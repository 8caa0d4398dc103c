package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Server is the address of the API server, as control and nodes reach it.
const Server = apiServer + ":6443"

// Listen listens on a free port of the loopback of the control plane's network namespace, where Command's commands run.
func (c *Cluster) Listen() (l net.Listener, err error) {
	err = c.inside(func() error {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	return l, err
}

// Dial connects from the control plane's network namespace. The address has to be a number: nothing is looked up.
func (c *Cluster) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = c.inside(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// inside calls f in the control plane's network namespace. Sockets stay where they were made.
func (c *Cluster) inside(f func() error) error {
	pid, err := c.PID(Control)
	if err != nil {
		return err
	}
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer own.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer there.Close()
	done := make(chan error)
	go func() { // on a thread that ends with it, if it can't go back
		runtime.LockOSThread()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		err := f()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// KubeconfigAt writes a user's kubeconfig with another server into a file.
func (c *Cluster) KubeconfigAt(user, server, file string) error {
	text, err := os.ReadFile(c.Kubeconfig(user))
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.Replace(string(text), "https://"+Server, server, 1)), 0o600)
}

// TLS is how a member of the groups proves to be it, and knows the API server.
func (c *Cluster) TLS(user string, groups ...string) (*tls.Config, error) {
	ca, err := loadAuthority(c.path("pki"))
	if err != nil {
		return nil, err
	}
	p, err := ca.sign(user, groups, nil)
	if err != nil {
		return nil, err
	}
	own, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots}, nil
}
