package tables

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// VirtualServer is a service of IPVS (ip_vs_ctl.c): what comes to it is sent on to one of its real servers.
type VirtualServer struct {
	Proto     string         `json:"proto,omitempty"` // "TCP", "UDP", "SCTP"; "" of one that is chosen by Mark
	Addr      netip.AddrPort `json:"addr,omitzero"`
	Mark      uint32         `json:"mark,omitempty"`
	Scheduler string         `json:"scheduler,omitempty"` // "rr", "lc", "sh", …
	Real      []RealServer   `json:"real,omitempty"`      // in order
}

// RealServer is where IPVS may send what comes to a virtual server.
type RealServer struct {
	Addr    netip.AddrPort `json:"addr"`
	Forward string         `json:"forward,omitempty"` // ip_vs_fwd_name: "Masq", "Local", "Tunnel", "Route", "Bypass"
	Weight  int            `json:"weight"`            // 0: gets no new connection
}

// Bounds of what is read of one namespace.
const (
	maxVirtualServers = 65536
	maxRealServers    = 1 << 18
)

// IPVSForm is how a listing of IPVS writes addresses and marks.
type IPVSForm int

// The forms: of /proc/net/ip_vs, in base 16, and of ipvsadm -Ln, as people write them.
const (
	IPVSProc IPVSForm = iota
	IPVSAdm
)

// IPVSTable collects the virtual servers of a namespace from lines of /proc/net/ip_vs or of ipvsadm -Ln.
type IPVSTable struct {
	Form    IPVSForm
	Servers []VirtualServer
	real    int
}

// Line takes one line and reports whether it was understood. A real server belongs to the virtual server before it.
func (t *IPVSTable) Line(line string) bool {
	f := strings.Fields(line)
	if len(f) < 2 || len(t.Servers) > maxVirtualServers || t.real > maxRealServers {
		return false
	}
	switch f[0] {
	case "IP", "Prot":
		return true // the heading
	case "TCP", "UDP", "SCTP":
		a, ok := t.addr(f[1])
		if ok {
			t.Servers = append(t.Servers, VirtualServer{Proto: f[0], Addr: a, Scheduler: field(f, 2)})
		}
		return ok
	case "FWM":
		m, err := strconv.ParseUint(f[1], t.base(), 32)
		if err == nil {
			t.Servers = append(t.Servers, VirtualServer{Mark: uint32(m), Scheduler: field(f, 2)})
		}
		return err == nil
	case "->":
		return t.realServer(f)
	default:
		return false
	}
}

// realServer reads "-> ADDRESS:PORT Forward Weight ActiveConn InActConn".
func (t *IPVSTable) realServer(f []string) bool {
	if f[1] == "RemoteAddress:Port" {
		return true
	}
	a, ok := t.addr(f[1])
	w, err := strconv.Atoi(field(f, 3))
	if !ok || err != nil || len(t.Servers) == 0 {
		return false
	}
	v := &t.Servers[len(t.Servers)-1]
	v.Real = append(v.Real, RealServer{Addr: a, Forward: f[2], Weight: w})
	t.real++
	return true
}

func (t *IPVSTable) base() int {
	if t.Form == IPVSProc {
		return 16
	}
	return 10
}

// addr reads 0A60000A:0050 or [fd00:0000:0000:0000:0000:0000:0000:0001]:0050, or the same in decimal.
func (t *IPVSTable) addr(s string) (netip.AddrPort, bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(s[i+1:], t.base(), 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	host, v6 := strings.CutPrefix(s[:i], "[")
	if v6 || t.Form == IPVSAdm {
		a, err := netip.ParseAddr(strings.TrimSuffix(host, "]"))
		return netip.AddrPortFrom(a, uint16(port)), err == nil && a.Is6() == v6
	}
	b, err := hex.DecodeString(host)
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(port)), err == nil && ok && a.Is4()
}

func field(f []string, i int) string {
	if i < len(f) {
		return f[i]
	}
	return ""
}

// parseIPVS reads /proc/net/ip_vs; what it does not understand it passes over.
func parseIPVS(s string) []VirtualServer {
	var t IPVSTable
	for line := range strings.Lines(s) {
		t.Line(line)
	}
	return t.Servers
}

// Option names the virtual server as ipvsadm(8) wants it: "-t 10.96.0.10:80".
func (v VirtualServer) Option() string {
	switch v.Proto {
	case "TCP":
		return "-t " + v.Addr.String()
	case "UDP":
		return "-u " + v.Addr.String()
	case "SCTP":
		return "--sctp-service " + v.Addr.String()
	case "":
		return fmt.Sprintf("-f %d", v.Mark)
	default:
		return v.Addr.String()
	}
}

// String gives the virtual server's row of ipvsadm -Ln.
func (v VirtualServer) String() string {
	if v.Proto == "" {
		return strings.TrimSpace(fmt.Sprintf("FWM %d %s", v.Mark, v.Scheduler))
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", v.Proto, v.Addr, v.Scheduler))
}

// String gives the real server's row of ipvsadm -Ln, without its counts.
func (r RealServer) String() string { return fmt.Sprintf("-> %s %s %d", r.Addr, r.Forward, r.Weight) }
