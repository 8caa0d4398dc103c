package tables

import "net/netip"

// IPCacheEntry is what Cilium's ipcache says of an address: which node's tunnel endpoint its packets are sent to
// ("cilium bpf ipcache list").
type IPCacheEntry struct {
	Addr     netip.Addr `json:"addr"`
	Identity uint32     `json:"identity"`
	Tunnel   netip.Addr `json:"tunnel,omitzero"`      // invalid: none
	Skip     bool       `json:"skipTunnel,omitempty"` // it is sent without the tunnel
}
