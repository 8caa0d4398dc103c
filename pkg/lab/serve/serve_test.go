package serve

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	listen := func() net.Listener {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := Pod{Name: "coffee-2", HTTP: listen(), TCP: listen(), UDP: udp}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Run(ctx, []Pod{p}, nil) }()

	response, err := http.Get("http://" + p.HTTP.Addr().String() + "/coffee?a=b")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	lines := strings.Split(string(page), "\n")
	if err != nil || len(lines) != 6 || lines[0] != "Server address: "+p.HTTP.Addr().String() ||
		lines[1] != "Server name: coffee-2" || lines[3] != "URI: /coffee?a=b" {
		t.Errorf("page %q, %v", page, err)
	}
	for _, addr := range []net.Addr{p.TCP.Addr(), p.UDP.LocalAddr()} {
		conn, err := net.Dial(addr.Network(), addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 5)
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "hello" {
			t.Errorf("echo over %s: %q, %v", addr.Network(), buf, err)
		}
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run = %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Run does not end with open connections")
	}
}

func TestRunError(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := Run(t.Context(), []Pod{{Name: "x", HTTP: l, TCP: l, UDP: udp}}, nil); err == nil {
		t.Error("Run with a closed listener = nil")
	}
}
