package tables

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// VirtualServer is a service of IPVS (ip_vs_ctl.c): what comes to it is sent on to one of its real servers.
type VirtualServer struct {
	Proto string         `json:"proto,omitempty"` // "TCP", "UDP", "SCTP"; "" of one that is chosen by Mark
	Addr  netip.AddrPort `json:"addr,omitzero"`
	Mark  uint32         `json:"mark,omitempty"`
	Real  []string       `json:"real,omitempty"` // addresses with ports, in order
}

// maxVirtualServers bounds the services of a namespace.
const maxVirtualServers = 65536

// parseIPVS reads /proc/net/ip_vs; what it does not understand it passes over.
func parseIPVS(s string) (out []VirtualServer) {
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) < 2 || len(out) > maxVirtualServers {
			continue
		}
		switch f[0] {
		case "TCP", "UDP", "SCTP":
			if a, ok := ipvsAddr(f[1]); ok {
				out = append(out, VirtualServer{Proto: f[0], Addr: a})
			}
		case "FWM":
			if m, err := strconv.ParseUint(f[1], 16, 32); err == nil {
				out = append(out, VirtualServer{Mark: uint32(m)})
			}
		case "->":
			if a, ok := ipvsAddr(f[1]); ok && len(out) > 0 {
				v := &out[len(out)-1]
				v.Real = append(v.Real, a.String())
			}
		}
	}
	return out
}

// ipvsAddr reads 0A60000A:0050 or [fd00:0000:0000:0000:0000:0000:0000:0001]:0050: address and port in base 16.
func ipvsAddr(s string) (netip.AddrPort, bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(s[i+1:], 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	if host, ok := strings.CutPrefix(s[:i], "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(host, "]"))
		return netip.AddrPortFrom(a, uint16(port)), err == nil
	}
	b, err := hex.DecodeString(s[:i])
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(port)), err == nil && ok && a.Is4()
}
