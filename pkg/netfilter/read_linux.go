package netfilter

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// maxConns bounds the connections of a snapshot.
const maxConns = 65536

// manyConns is when the kernel is asked to choose: to take a longer table whole costs more than to ask for each address.
const manyConns = 8192

// Read takes the rules of both backends and the tracked connections of a namespace. What can't be read
// is named in Incomplete; nothing is created by asking.
func Read(h *netns.Handle, o ReadOptions) (*Ruleset, error) {
	r := &Ruleset{}
	if err := r.readNFT(h); err != nil {
		r.incomplete("nftables", err)
	}
	r.readLegacy(h, FamilyIPv4, "ip_tables_names")
	r.readLegacy(h, FamilyIPv6, "ip6_tables_names")
	r.readLegacy(h, FamilyARP, "arp_tables_names")
	if err := r.readIPSets(h); err != nil {
		r.incomplete("ipset", err)
	}
	if err := h.Do(r.readRecent); err != nil {
		r.incomplete("lists of -m recent", err)
	}
	for _, table := range ebtablesInUse("/sys/module") {
		r.incomplete("ebtables table "+table, errEbtables)
	}
	if err := r.readConns(h, o); err != nil {
		r.incomplete("conntrack", err)
	}
	return r, nil
}

func (r *Ruleset) incomplete(what string, err error) {
	r.Incomplete = append(r.Incomplete, what+": "+err.Error())
}

// readLegacy reads the tables that exist. To ask for one that does not would create it, so the names come
// from /proc first.
func (r *Ruleset) readLegacy(h *netns.Handle, fam Family, names string) {
	err := h.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/" + names)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		domain, level := unix.AF_INET, unix.SOL_IP
		if fam == FamilyIPv6 {
			domain, level = unix.AF_INET6, unix.SOL_IPV6
		}
		tables := strings.Fields(string(b))
		if len(tables) == 0 {
			return nil
		}
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		for _, name := range tables {
			read := readLegacyTable
			if fam == FamilyARP {
				read = readARPTable
			}
			t, err := read(fd, level, fam, name)
			if err != nil {
				r.incomplete("iptables table "+name, err)
				continue
			}
			r.Tables = append(r.Tables, t)
		}
		return nil
	})
	if err != nil {
		r.incomplete("iptables "+names, err)
	}
}

var errEbtables = errors.New("legacy ebtables has rules in some namespace, which are not read")

// ebtablesInUse names the tables of legacy ebtables that hold rules: those hold a reference to their module.
// To ask the kernel for a table would create it.
func ebtablesInUse(modules string) (tables []string) {
	for _, t := range []string{"broute", "filter", "nat"} {
		b, err := os.ReadFile(modules + "/ebtable_" + t + "/refcnt")
		if n, _ := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 {
			tables = append(tables, t)
		}
	}
	return tables
}

// readRecent reads the lists of xt_recent.
func (r *Ruleset) readRecent() error {
	const dir = "/proc/thread-self/net/xt_recent"
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil //nolint:nilerr // none was ever used
	}
	for _, f := range files {
		b, err := os.ReadFile(dir + "/" + f.Name())
		if err != nil {
			return err
		}
		r.Recent = append(r.Recent, parseRecent(f.Name(), string(b)))
	}
	return nil
}

// readConns reads the tracked connections, where conntrack is at work at all.
func (r *Ruleset) readConns(h *netns.Handle, o ReadOptions) error {
	if o.Addrs != nil && len(o.Addrs)+len(o.Nodes) == 0 {
		return nil
	}
	count := 0
	var conn *conntrack.Conn
	err := h.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err != nil {
			return nil //nolint:nilerr // no conntrack in this kernel
		}
		if count, _ = strconv.Atoi(strings.TrimSpace(string(b))); count == 0 {
			return nil
		}
		conn, err = conntrack.Dial(nil)
		return err
	})
	if err != nil || conn == nil {
		return err
	}
	if o.Addrs != nil && count > manyConns {
		return errors.Join(r.askConns(h, o), conn.Close())
	}
	defer conn.Close() //nolint:errcheck // only read
	flows, err := conn.Dump(nil)
	if err != nil {
		return err
	}
	for i := range flows {
		e := entryOf(&flows[i])
		if !o.wants(e) {
			continue
		}
		if len(r.Conns) >= maxConns {
			return fmt.Errorf("more than %d connections", maxConns)
		}
		r.Conns = append(r.Conns, e)
	}
	return nil
}

func (o ReadOptions) wants(e Entry) bool {
	if o.Addrs == nil {
		return true
	}
	for _, a := range o.Addrs {
		if a == e.Orig.Src || a == e.Orig.Dst || a == e.Reply.Src || a == e.Reply.Dst {
			return true
		}
	}
	return e.Orig.Src != e.Orig.Dst && slices.Contains(o.Nodes, e.Orig.Src) && slices.Contains(o.Nodes, e.Orig.Dst)
}

func entryOf(f *conntrack.Flow) Entry {
	return Entry{
		Orig: tupleOf(&f.TupleOrig), Reply: tupleOf(&f.TupleReply), Mark: f.Mark, Timeout: f.Timeout, Zone: f.Zone,
		Replied: f.Status.SeenReply(), Assured: f.Status.Assured(), Expected: f.Status.Expected(),
		Closed: f.ProtoInfo.TCP != nil && f.ProtoInfo.TCP.State >= tcpTimeWait,
	}
}

// tcpTimeWait is TCP_CONNTRACK_TIME_WAIT; CLOSE follows it.
const tcpTimeWait = 7

func tupleOf(t *conntrack.Tuple) Tuple {
	out := Tuple{
		Src: t.IP.SourceAddress.Unmap(), Dst: t.IP.DestinationAddress.Unmap(), Proto: t.Proto.Protocol,
		SrcPort: t.Proto.SourcePort, DstPort: t.Proto.DestinationPort,
	}
	if isICMP(out.Proto) {
		out.SrcPort, out.DstPort = t.Proto.ICMPID, 0
	}
	return out
}
