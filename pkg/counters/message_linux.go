package counters

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// This file takes rtnetlink(7) answers apart. All numbers are in the machine's byte order.

// linkStats are the fields of struct rtnl_link_stats64 (linux/if_link.h). A kernel that knows fewer sends a
// shorter struct.
var linkStats = []string{
	"rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
	"multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors",
	"rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors",
	"tx_heartbeat_errors", "tx_window_errors", "rx_compressed", "tx_compressed", "rx_nohandler", "rx_otherhost_dropped",
}

// Headers and attributes that golang.org/x/sys/unix does not have.
const (
	sizeofNdtmsg     = 4  // struct ndtmsg, linux/neighbour.h
	sizeofTcmsg      = 20 // struct tcmsg, linux/rtnetlink.h
	sizeofIfStatsMsg = 12 // struct if_stats_msg, linux/if_link.h
	sizeofTunnelMsg  = 8  // struct tunnel_msg, linux/if_link.h

	ndtaName    = 1
	ndtaThresh1 = 2
	ndtaThresh3 = 4
	ndtaConfig  = 5
	ndtaStats   = 7

	tcaStatsQueue = 3          // TCA_STATS_QUEUE, linux/gen_stats.h
	tcHandleRoot  = 0xffffffff // TC_H_ROOT, linux/pkt_sched.h

	linkXstatsTypeBridge = 1 // linux/if_link.h
	bridgeXstatsSTP      = 4 // linux/if_bridge.h

	vniEntry      = 1 // VXLAN_VNIFILTER_ENTRY, linux/if_link.h
	vniEntryStart = 1
	vniEntryEnd   = 2
	vniEntryStats = 5
)

// stpStats are the fields of struct bridge_stp_xstats (linux/if_bridge.h).
var stpStats = []string{"transition_blk", "transition_fwd", "rx_bpdu", "tx_bpdu", "rx_tcn", "tx_tcn"}

// ndtStats are the fields of struct ndt_stats (linux/neighbour.h).
var ndtStats = []string{
	"allocs", "destroys", "hash_grows", "res_failed", "lookups", "hits", "rcv_probes_mcast", "rcv_probes_ucast",
	"periodic_gc_runs", "forced_gc_runs", "table_fulls",
}

// vniStats are the attributes of VXLAN_VNIFILTER_ENTRY_STATS from 1 on.
var vniStats = []string{
	"rx_bytes", "rx_packets", "rx_drops", "rx_errors", "tx_bytes", "tx_packets", "tx_drops", "tx_errors",
}

// device is what else a link message says.
type device struct {
	index int
	name  string
	kind  string // IFLA_INFO_KIND: "bridge", "vxlan"
}

// attributes walks what follows a fixed header of n bytes.
func attributes(b []byte, n int, each func(typ uint16, v []byte)) error {
	if len(b) < n {
		return errShort
	}
	ad, err := netlink.NewAttributeDecoder(b[n:])
	if err != nil {
		return err
	}
	for ad.Next() {
		each(ad.Type(), ad.Bytes())
	}
	return ad.Err()
}

// nested walks the attributes in an attribute; what is malformed in there is not there.
func nested(b []byte, each func(typ uint16, v []byte)) { _ = attributes(b, 0, each) }

// numbers gives each 64-bit number of an array its name.
func numbers(b []byte, names []string, set func(name string, v uint64)) {
	for i, name := range names {
		if len(b) < 8*(i+1) {
			return
		}
		set(name, binary.NativeEndian.Uint64(b[8*i:]))
	}
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// text reads a NUL-terminated string.
func text(b []byte) string { return unix.ByteSliceToString(b) }

// link reads RTM_NEWLINK.
func (s *Snapshot) link(b []byte) (device, error) {
	var d device
	var stats []byte
	err := attributes(b, unix.SizeofIfInfomsg, func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			d.name = text(v)
		case unix.IFLA_STATS64:
			stats = v
		case unix.IFLA_LINKINFO:
			nested(v, func(typ uint16, v []byte) {
				if typ == unix.IFLA_INFO_KIND {
					d.kind = text(v)
				}
			})
		}
	})
	if err != nil {
		return device{}, err
	}
	d.index = int(int32(u32(b[4:])))
	if d.name == "" || d.index <= 0 {
		return device{}, fmt.Errorf("link %d has no name", d.index)
	}
	s.Devices[d.name] = d.index
	numbers(stats, linkStats, func(name string, v uint64) { s.set(Key{Link, d.name, name}, v) })
	return d, nil
}

// neighTable reads RTM_NEWNEIGHTBL. The dump has messages for the parameters of each device too, which have no
// statistics.
func (s *Snapshot) neighTable(b []byte) error {
	var table string
	found := make(map[string]uint64)
	err := attributes(b, sizeofNdtmsg, func(typ uint16, v []byte) {
		switch typ {
		case ndtaName:
			table = text(v)
		case ndtaThresh1, ndtaThresh1 + 1, ndtaThresh3:
			found[fmt.Sprintf("gc_thresh%d", typ-ndtaThresh1+1)] = uint64(u32(v))
		case ndtaConfig: // struct ndt_config: two 16-bit numbers, then ndtc_entries
			if len(v) >= 8 {
				found["entries"] = uint64(u32(v[4:]))
			}
		case ndtaStats:
			numbers(v, ndtStats, func(name string, n uint64) { found[name] = n })
		}
	})
	if err != nil {
		return err
	}
	for name, v := range found {
		s.set(Key{Neigh, "", table + "." + name}, v)
	}
	return nil
}

// queue reads RTM_NEWQDISC and RTM_NEWTCLASS, and gives the device and the kind of the discipline.
func (s *Snapshot) queue(k Kind, b []byte, names map[int]string) (index int, kind string, err error) {
	var stats []byte
	err = attributes(b, sizeofTcmsg, func(typ uint16, v []byte) {
		switch typ {
		case unix.TCA_KIND:
			kind = text(v)
		case unix.TCA_STATS2:
			nested(v, func(typ uint16, v []byte) {
				if typ == tcaStatsQueue {
					stats = v
				}
			})
		}
	})
	if err != nil {
		return 0, "", err
	}
	index = int(int32(u32(b[4:])))
	dev, ok := names[index]
	if !ok { // made since the links were read
		return index, kind, nil
	}
	id := kind + "[" + handle(k, u32(b[8:]), u32(b[12:])) + "]."
	for i, name := range []string{"qlen", "backlog", "drops", "requeues", "overlimits"} { // struct gnet_stats_queue
		if len(stats) >= 4*(i+1) {
			s.set(Key{k, dev, id + name}, uint64(u32(stats[4*i:])))
		}
	}
	return index, kind, nil
}

// handle writes a handle as tc(8) does. A queue of the default kind has none, only its place.
func handle(k Kind, h, parent uint32) string {
	major, minor := h>>16, h&0xffff
	switch {
	case k == Class:
		return fmt.Sprintf("%x:%x", major, minor)
	case h != 0:
		return fmt.Sprintf("%x:", major)
	case parent == 0 || parent == tcHandleRoot:
		return "root"
	}
	return fmt.Sprintf("parent %x:%x", parent>>16, parent&0xffff)
}

// bridgePort reads RTM_NEWSTATS with IFLA_STATS_LINK_XSTATS_SLAVE: what a bridge knows of its port.
func (s *Snapshot) bridgePort(b []byte, names map[int]string) error {
	return attributes(b, sizeofIfStatsMsg, func(typ uint16, v []byte) {
		dev, ok := names[int(int32(u32(b[4:])))]
		if typ != unix.IFLA_STATS_LINK_XSTATS_SLAVE || !ok {
			return
		}
		nested(v, func(typ uint16, v []byte) {
			if typ != linkXstatsTypeBridge {
				return
			}
			nested(v, func(typ uint16, v []byte) {
				if typ == bridgeXstatsSTP {
					numbers(v, stpStats, func(name string, v uint64) { s.set(Key{Bridge, dev, "stp." + name}, v) })
				}
			})
		})
	})
}

// vnis reads RTM_NEWTUNNEL: the VNIs that a VXLAN device lets in, each with its counters.
func (s *Snapshot) vnis(b []byte, names map[int]string) error {
	return attributes(b, sizeofTunnelMsg, func(typ uint16, v []byte) {
		if dev, ok := names[int(int32(u32(b[4:])))]; ok && typ == vniEntry {
			s.vni(dev, v)
		}
	})
}

func (s *Snapshot) vni(dev string, b []byte) {
	var start, end uint32
	var stats []byte
	nested(b, func(typ uint16, v []byte) {
		switch typ {
		case vniEntryStart:
			start = u32(v)
		case vniEntryEnd:
			end = u32(v)
		case vniEntryStats:
			stats = v
		}
	})
	id := fmt.Sprint(start)
	if end > start {
		id = fmt.Sprintf("%d-%d", start, end)
	}
	nested(stats, func(typ uint16, v []byte) {
		if i := int(typ) - 1; i >= 0 && i < len(vniStats) && len(v) >= 8 {
			s.set(Key{VNI, dev, id + "." + vniStats[i]}, binary.NativeEndian.Uint64(v))
		}
	})
}
