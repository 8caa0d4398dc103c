package counters

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

const readTimeout = 5 * time.Second

// Read takes one reading of a namespace. What a kernel does not have is left out, what could not be
// read is named in Snapshot.Incomplete; an error means that there are not even links.
func Read(ctx context.Context, h *netns.Handle) (*Snapshot, error) {
	r := &reader{s: &Snapshot{
		Netns: h.ID(), Taken: time.Now().UTC(), Devices: make(map[string]int), Values: make(map[Key]uint64, 256),
	}, names: make(map[int]string)}
	if err := h.Do(r.inside); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	defer r.conn.Close() //nolint:errcheck // only read
	deadline, ok := ctx.Deadline()
	if end := time.Now().Add(readTimeout); !ok || end.Before(deadline) {
		deadline = end
	}
	if err := r.conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	if err := r.links(); err != nil {
		return nil, fmt.Errorf("read counters: links: %w", err)
	}
	r.part("neighbour tables", r.neighTables())
	r.part("queueing disciplines", r.qdiscs())
	if slices.Contains(r.kinds, "bridge") {
		r.part("bridge ports", r.bridgePorts())
	}
	if slices.Contains(r.kinds, "vxlan") {
		r.part("VXLAN VNIs", r.tunnels())
	}
	return r.s, ctx.Err()
}

// reader reads one namespace.
type reader struct {
	s     *Snapshot
	conn  *netlink.Conn
	names map[int]string // of devices, by index
	kinds []string       // of devices
}

// part notes a part that could not be read. One that the kernel does not have is not incomplete.
func (r *reader) part(name string, err error) {
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		r.s.Incomplete = append(r.s.Incomplete, name+": "+err.Error())
	}
}

// inside does what has to be done in the namespace: files are those of the thread that opens them.
func (r *reader) inside() (err error) {
	if r.conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		kind  Kind
		pre   string
		parse func([]byte, func(string, uint64))
	}{
		{"snmp", Proto, "", parseSNMP},
		{"netstat", Proto, "", parseSNMP},
		{"snmp6", Proto, "", parseSNMP6},
		{"softnet_stat", Softnet, "", parseSoftnet},
		// in the first namespace only, and only this column is not in netlink's answer
		{"stat/arp_cache", Neigh, "arp_cache.", only("unresolved_discards")},
		{"stat/ndisc_cache", Neigh, "ndisc_cache.", only("unresolved_discards")},
	} {
		b, err := os.ReadFile("/proc/thread-self/net/" + f.name) // /proc/net is the thread group leader's
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		r.part(f.name, err)
		f.parse(b, func(name string, v uint64) { r.s.set(Key{f.kind, "", f.pre + name}, v) })
	}
	r.part("IPv6 of devices", r.inet6())
	r.part("conntrack", r.conntrack())
	return nil
}

// inet6 reads what IPv6 counts for each device. IFLA_INET6_STATS would come with the links, but it is an array
// without names, whose order differs from kernel to kernel.
func (r *reader) inet6() error {
	const dir = "/proc/thread-self/net/dev_snmp6"
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		b, err := os.ReadFile(dir + "/" + f.Name())
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) { // the device is gone
			continue
		}
		if err != nil {
			return err
		}
		parseSNMP6(b, func(name string, v uint64) {
			if strings.HasPrefix(name, "Ip6.") {
				r.s.set(Key{Proto, f.Name(), name}, v)
			}
		})
	}
	return err
}

// only reads one column of a file of /proc/net/stat.
func only(column string) func([]byte, func(string, uint64)) {
	return func(b []byte, set func(string, uint64)) {
		parseStat(b, func(name string, v uint64) {
			if name == column {
				set(name, v)
			}
		})
	}
}

// conntrack reads nothing, and loads no module, where there is no connection tracking.
func (r *reader) conntrack() error {
	set := func(name string, v uint64) { r.s.set(Key{Conntrack, "", name}, v) }
	for _, name := range []string{"count", "max"} {
		b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_" + name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return fmt.Errorf("nf_conntrack_%s: %w", name, err)
		}
		set(name, v)
	}
	b, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without CONFIG_NF_CONNTRACK_PROCFS
		return ctnetlink(set)
	}
	if err != nil {
		return err
	}
	parseConntrack(b, set)
	return nil
}

// ctnetlink asks IPCTNL_MSG_CT_GET_STATS_CPU in the namespace of the calling thread.
func ctnetlink(set func(name string, v uint64)) error {
	c, err := conntrack.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // only read
	cpus, err := c.Stats()
	if err != nil {
		return err
	}
	sums := make(map[string]uint64)
	for _, s := range cpus {
		for name, v := range map[string]uint32{
			"found": s.Found, "invalid": s.Invalid, "insert": s.Insert, "insert_failed": s.InsertFailed, "drop": s.Drop,
			"early_drop": s.EarlyDrop, "error": s.Error, "search_restart": s.SearchRestart, "ignore": s.Ignore,
		} {
			sums[name] += uint64(v)
		}
	}
	for name, v := range sums {
		set(name, v)
	}
	return nil
}

// dump asks for a whole table.
func (r *reader) dump(typ uint16, req []byte, each func([]byte) error) error {
	msgs, err := r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Dump}, Data: req,
	})
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if err := each(m.Data); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) links() error {
	return r.dump(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func(b []byte) error {
		d, err := r.s.link(b)
		if err != nil {
			return err
		}
		r.names[d.index] = d.name
		r.kinds = append(r.kinds, d.kind)
		return nil
	})
}

func (r *reader) neighTables() error {
	return r.dump(unix.RTM_GETNEIGHTBL, make([]byte, sizeofNdtmsg), r.s.neighTable)
}

// classful are the disciplines whose classes have queues of their own that no other answer has. (Those of mq and
// prio are disciplines again, and in the list of those.)
var classful = []string{"htb", "hfsc", "drr", "qfq", "ets", "cbq"}

func (r *reader) qdiscs() error {
	var withClasses []int
	err := r.dump(unix.RTM_GETQDISC, make([]byte, sizeofTcmsg), func(b []byte) error {
		index, kind, err := r.s.queue(Qdisc, b, r.names)
		if slices.Contains(classful, kind) && !slices.Contains(withClasses, index) {
			withClasses = append(withClasses, index)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, index := range withClasses {
		err := r.dump(unix.RTM_GETTCLASS, request(sizeofTcmsg, index), func(b []byte) error {
			_, _, err := r.s.queue(Class, b, r.names)
			return err
		})
		if err != nil {
			return fmt.Errorf("classes of %q: %w", r.names[index], err)
		}
	}
	return nil
}

// request is a header of n bytes with an interface index in its usual place.
func request(n, index int) []byte {
	b := make([]byte, n)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

func (r *reader) bridgePorts() error {
	req := make([]byte, sizeofIfStatsMsg)
	binary.NativeEndian.PutUint32(req[8:], 1<<(unix.IFLA_STATS_LINK_XSTATS_SLAVE-1))
	return r.dump(unix.RTM_GETSTATS, req, func(b []byte) error { return r.s.bridgePort(b, r.names) })
}

// tunnels asks a VXLAN driver of Linux 5.18 or later for the VNIs that its devices filter.
func (r *reader) tunnels() error {
	req := make([]byte, sizeofTunnelMsg)
	req[0], req[1] = unix.AF_BRIDGE, 1 // TUNNEL_MSG_FLAG_STATS
	return r.dump(unix.RTM_GETTUNNEL, req, func(b []byte) error { return r.s.vnis(b, r.names) })
}
