// Package counters reads the kernel's counters of one network namespace and says what moved between
// two readings. They are witnesses: a counter that means loss and moved while a probe was lost says
// where to look, even where no drop reason and no capture is to be had.
//
// Read: link statistics (rtnl_link_stats64), the IPv6 counters of each interface, the protocols'
// counters (/proc/net/snmp, snmp6, netstat), connection tracking, neighbour tables, queueing
// disciplines and their classes, bridge ports, the VNIs of a VXLAN device that filters them, and
// each CPU's backlog (softnet_stat). The counters of netfilter rules belong to package netfilter.
package counters

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Kind is where a counter comes from.
type Kind string

// The kinds, and the form of Key.Name in each.
const (
	Link      Kind = "link"      // rtnl_link_stats64: "rx_dropped"
	Proto     Kind = "proto"     // "Ip.InAddrErrors"; of a device: its own "Ip6.InNoRoutes"
	Conntrack Kind = "conntrack" // nf_conntrack: "insert_failed"; levels "count" and "max"
	Neigh     Kind = "neigh"     // of the machine: "arp_cache.table_fulls"; levels "arp_cache.entries", ".gc_thresh3"
	Qdisc     Kind = "qdisc"     // kind and handle: "htb[1:].drops", "clsact[ffff:].drops"
	Class     Kind = "class"     // kind and class: "htb[1:10].drops"
	Bridge    Kind = "bridge"    // spanning tree of a bridge port: "stp.transition_blk"
	VNI       Kind = "vni"       // of a VXLAN device with vnifilter: "100-199.rx_drops"
	Softnet   Kind = "softnet"   // of the machine, all CPUs: "dropped"
)

// Key names one counter of a namespace. Its order and its text are stable.
type Key struct {
	Kind   Kind
	Device string // interface name, empty for a counter of no device
	Name   string
}

// String gives "KIND/DEVICE/NAME"; neither a kind nor a device has a slash in it (dev_valid_name).
func (k Key) String() string { return string(k.Kind) + "/" + k.Device + "/" + k.Name }

// MarshalText lets JSON objects have Keys.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// maxKey bounds a Key's text in bytes; the kernel's are below 80.
const maxKey = 256

// UnmarshalText reads what String gives.
func (k *Key) UnmarshalText(b []byte) error {
	parts := strings.SplitN(string(b), "/", 3)
	if len(b) > maxKey || len(parts) != 3 || parts[0] == "" || parts[2] == "" {
		return fmt.Errorf("counter %.80q: want KIND/DEVICE/NAME", b)
	}
	*k = Key{Kind(parts[0]), parts[1], parts[2]}
	return nil
}

// Compare orders by kind, device and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Device, o.Device), cmp.Compare(k.Name, o.Name))
}

// Snapshot is one reading.
type Snapshot struct {
	Netns netns.ID  `json:"netns"`
	Taken time.Time `json:"taken"`
	// Devices are the interfaces at that time by name, with their index. A device that was deleted
	// and made again has another index, and counts from 0.
	Devices map[string]int `json:"devices"`
	// Values are all counters that are not 0.
	Values map[Key]uint64 `json:"values"`
	// Incomplete names what could not be read, and why.
	Incomplete []string `json:"incomplete,omitzero"`
}

var errShort = errors.New("message too short")

// set keeps what is not 0.
func (s *Snapshot) set(k Key, v uint64) {
	if v != 0 {
		s.Values[k] = v
	}
}
