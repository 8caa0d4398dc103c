// Package serve is what the pods of the lab run: an HTTP server that answers as the demo page of
// document 000 does, and echo servers (RFC 862) for TCP and UDP; and the proxy of flannel's UDP backend.
// It is given its sockets, which were opened in the pods' namespaces, and never opens one itself.
package serve

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// idle is how long a TCP connection may say nothing.
const idle = time.Minute

// Pod is one pod's name and its open sockets, of one family.
type Pod struct {
	Name string
	HTTP net.Listener
	TCP  net.Listener   // echo
	UDP  net.PacketConn // echo
}

// Close closes the sockets.
func (p Pod) Close() error { return errors.Join(p.HTTP.Close(), p.TCP.Close(), p.UDP.Close()) }

// Run serves all pods and proxies until ctx is done, closes their sockets and waits for what it
// started.
func Run(ctx context.Context, pods []Pod, proxies []Proxy) error {
	var wg sync.WaitGroup
	errs := make(chan error, 3*len(pods)+len(proxies))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := func(f func() error) {
		wg.Go(func() {
			if err := f(); ctx.Err() == nil {
				errs <- err
				cancel()
			}
		})
	}
	for _, p := range pods {
		server := &http.Server{Handler: handler(p.Name), ReadHeaderTimeout: idle}
		run(func() error { return server.Serve(p.HTTP) })
		run(func() error { return echoTCP(ctx, p.TCP) })
		run(func() error { return echoUDP(p.UDP) })
		context.AfterFunc(ctx, func() {
			_ = server.Close()
			_ = p.Close()
		})
	}
	for _, p := range proxies {
		run(func() error { return p.run(ctx) })
		context.AfterFunc(ctx, func() { _ = p.Close() })
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// handler answers every path with the lines of nginxdemos/nginx-hello:plain-text.
func handler(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		w.Header().Set("Content-Type", "text/plain")
		_, _ = fmt.Fprintf(w, "Server address: %s\nServer name: %s\nDate: %s\nURI: %s\nRequest ID: %s\n",
			local, name, time.Now().UTC().Format("02/Jan/2006:15:04:05 -0700"), r.URL.RequestURI(), requestID())
	})
}

func requestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, crypto/rand
	return hex.EncodeToString(id[:])
}

func echoTCP(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			defer conn.Close()
			echoConn(conn)
		})
	}
}

func echoConn(conn net.Conn) {
	buf := make([]byte, 32<<10)
	for conn.SetDeadline(time.Now().Add(idle)) == nil {
		n, err := conn.Read(buf)
		if _, werr := conn.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// echoUDP answers with the address that was asked: a node has several, and the one that the kernel
// would choose is not always it.
func echoUDP(conn net.PacketConn) error {
	read, write := echo4(conn)
	if local, ok := conn.LocalAddr().(*net.UDPAddr); ok && local.IP.To4() == nil {
		read, write = echo6(conn)
	}
	buf := make([]byte, 64<<10)
	for {
		n, asked, from, err := read(buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return err
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		_ = write(buf[:n], asked, from)
	}
}

type (
	readFunc  func([]byte) (n int, asked net.IP, from net.Addr, err error)
	writeFunc func(b []byte, asked net.IP, to net.Addr) error
)

func echo4(conn net.PacketConn) (readFunc, writeFunc) {
	p := ipv4.NewPacketConn(conn)
	_ = p.SetControlMessage(ipv4.FlagDst, true)
	read := func(b []byte) (int, net.IP, net.Addr, error) {
		n, cm, from, err := p.ReadFrom(b)
		if cm == nil {
			return n, nil, from, err
		}
		return n, cm.Dst, from, err
	}
	write := func(b []byte, asked net.IP, to net.Addr) error {
		_, err := p.WriteTo(b, &ipv4.ControlMessage{Src: asked}, to)
		return err
	}
	return read, write
}

func echo6(conn net.PacketConn) (readFunc, writeFunc) {
	p := ipv6.NewPacketConn(conn)
	_ = p.SetControlMessage(ipv6.FlagDst, true)
	read := func(b []byte) (int, net.IP, net.Addr, error) {
		n, cm, from, err := p.ReadFrom(b)
		if cm == nil {
			return n, nil, from, err
		}
		return n, cm.Dst, from, err
	}
	write := func(b []byte, asked net.IP, to net.Addr) error {
		_, err := p.WriteTo(b, &ipv6.ControlMessage{Src: asked}, to)
		return err
	}
	return read, write
}
