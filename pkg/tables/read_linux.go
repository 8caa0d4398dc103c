package tables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
)

// rtextFilterBRVLAN asks for the VLAN tables of bridge ports (RTEXT_FILTER_BRVLAN).
const rtextFilterBRVLAN = 1 << 1

// Read takes a snapshot: everything of every source, the namespaces side by side, each once however
// often it is named. What a kernel could not say whole is named in Netns.Incomplete; an error means
// that a namespace could not be read at all, and names it.
func Read(ctx context.Context, sources []Source) (*Snapshot, error) {
	sources = distinct(sources)
	s := &Snapshot{Netns: make([]*Netns, len(sources))}
	groups := sync.OnceValue(func() map[netns.ID][]string { return cgroups(sources) }) // goes through all processes
	g, ctx := errgroup.WithContext(ctx)
	for i, src := range sources {
		g.Go(func() error {
			ns, err := readNetns(ctx, src, sources, groups)
			if err != nil {
				return fmt.Errorf("read tables of %q on node %q: %w", src.Name, src.Node, err)
			}
			s.Netns[i] = ns
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return s, nil
}

func distinct(sources []Source) []Source {
	seen := make(map[NetnsID]bool, len(sources))
	var out []Source
	for _, s := range sources {
		if id := s.Netns.ID(); !seen[id] {
			seen[id] = true
			out = append(out, s)
		}
	}
	return out
}

// reader reads one namespace.
type reader struct {
	src  Source
	conn *rtnl
	tool ethtool
	ns   *Netns
	// groups gives the cgroups of the processes in each namespace.
	groups func() map[netns.ID][]string
}

func readNetns(ctx context.Context, src Source, all []Source, groups func() map[netns.ID][]string) (*Netns, error) {
	r := &reader{src: src, groups: groups, ns: &Netns{
		ID: src.Netns.ID(), Node: src.Node, Name: src.Name, Exec: src.Exec, Taken: time.Now().UTC(),
		Sysctls: make(map[string]string),
	}}
	if err := src.Netns.Do(r.open); err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.links(ctx); err != nil {
		return nil, fmt.Errorf("links: %w", err)
	}
	for _, p := range r.parts(ctx, all) {
		if err := p.read(); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			r.ns.Incomplete = append(r.ns.Incomplete, p.name+": "+err.Error())
		}
	}
	for i := range r.ns.Links {
		describe(r.ns.Links[i].Hooks)
	}
	return r.ns, nil
}

// open runs inside the namespace.
func (r *reader) open() (err error) {
	if r.conn, err = openRTNL(); err != nil {
		return err
	}
	if r.tool, err = openEthtool(); err != nil {
		_ = r.conn.Close()
	}
	return err
}

// close leaves nothing open; there is nothing to do about an error.
func (r *reader) close() {
	_ = r.conn.Close()
	_ = r.tool.Close()
}

// part is a table that a snapshot can do without, if it says so.
type part struct {
	name string
	read func() error
}

func (r *reader) parts(ctx context.Context, all []Source) []part {
	return []part{
		{"addresses", func() error { return r.addrs(ctx) }},
		{"rules", func() error { return r.rules(ctx) }},
		{"routes", func() error { return r.routes(ctx) }},
		{"neighbours", func() error { return r.neighs(ctx) }},
		{"fdb", func() error { return r.fdb(ctx) }},
		{"bridge vlans", func() error { return r.portVLANs(ctx) }},
		{"peers", func() error { return r.peers(all) }},
		{"ethtool", r.ethtoolPeers},
		{"tc filters", func() error { return r.readFilters(ctx) }},
		{"proc", func() error { return r.src.Netns.Do(r.proc) }},
		{"bpf programs", func() error { return r.src.Netns.Do(r.programs) }},
		{"tun proxies", r.proxies},
		{"netfilter", func() error { return r.netfilter(ctx) }},
		{"ipsec", func() error { return r.ipsec(ctx) }},
		{"ipcache", r.ipcache},
	}
}

// collect dumps one table into a slice. The messages of other families, which a kernel without the
// one that was asked for sends instead, are parse's to refuse.
func collect[T any](ctx context.Context, c *rtnl, typ uint16, req []byte, parse func([]byte) (T, bool)) ([]T, error) {
	var out []T
	err := c.dump(ctx, typ, req, func() { out = nil }, func(m message) {
		if v, ok := parse(m.data); ok {
			out = append(out, v)
		}
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // a kernel without the feature has an empty table
	}
	return out, err
}

// header is the request for a family: its first byte in every struct that rtnetlink takes.
func header(family uint8, size int) []byte {
	b := make([]byte, size)
	b[0] = family
	return b
}

// both dumps a table of each address family.
func both[T any](ctx context.Context, c *rtnl, typ uint16, size int, parse func([]byte) (T, bool)) ([]T, error) {
	var out []T
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		part, err := collect(ctx, c, typ, header(family, size), func(b []byte) (T, bool) {
			if len(b) == 0 || b[0] != family {
				var none T
				return none, false
			}
			return parse(b)
		})
		out = append(out, part...)
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

func (r *reader) links(ctx context.Context) error {
	out, err := collect(ctx, r.conn, unix.RTM_GETLINK, header(unix.AF_UNSPEC, unix.SizeofIfInfomsg),
		func(b []byte) (Link, bool) { return parseLink(b, r.ns.Sysctls) })
	r.ns.Links = out
	if errors.Is(err, errInterrupted) {
		r.ns.Incomplete = append(r.ns.Incomplete, "links: "+err.Error())
		return nil
	}
	return err
}

func (r *reader) addrs(ctx context.Context) (err error) {
	r.ns.Addrs, err = collect(ctx, r.conn, unix.RTM_GETADDR, header(unix.AF_UNSPEC, unix.SizeofIfAddrmsg), parseAddr)
	return err
}

func (r *reader) rules(ctx context.Context) (err error) {
	r.ns.Rules, err = both(ctx, r.conn, unix.RTM_GETRULE, sizeofFibRuleHdr, parseRule)
	return err
}

// routes reads nexthop objects first: a route may name one made in between, never one that is gone.
// A dump that asks for nothing in particular holds the cached routes too.
func (r *reader) routes(ctx context.Context) error {
	objects, nhErr := collect(ctx, r.conn, unix.RTM_GETNEXTHOP, header(unix.AF_UNSPEC, sizeofNhMsg), parseNexthop)
	byID := make(map[uint32]nexthop, len(objects))
	for _, o := range objects {
		byID[o.ID] = o
		r.ns.Nexthops = append(r.ns.Nexthops, o.Nexthop)
	}
	all, err := both(ctx, r.conn, unix.RTM_GETROUTE, unix.SizeofRtMsg, parseRoute)
	resolveNexthops(all, byID)
	kept := all[:0]
	for i := range all {
		if isException(&all[i]) {
			r.ns.Exceptions = append(r.ns.Exceptions, all[i])
			continue
		}
		kept = append(kept, all[i])
	}
	r.ns.Routes = kept
	return errors.Join(nhErr, err)
}

// neighs reads the caches, and the proxy entries, which are a table of their own.
func (r *reader) neighs(ctx context.Context) error {
	out, err := collect(ctx, r.conn, unix.RTM_GETNEIGH, header(unix.AF_UNSPEC, sizeofNdMsg), parseNeigh)
	r.ns.Neighs = out
	errs := []error{err}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := header(family, sizeofNdMsg)
		req[10] = unix.NTF_PROXY
		out, err := collect(ctx, r.conn, unix.RTM_GETNEIGH, req, parseNeigh)
		for _, n := range out {
			if n.Proxy {
				r.ns.Neighs = append(r.ns.Neighs, n)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *reader) fdb(ctx context.Context) (err error) {
	r.ns.FDB, err = collect(ctx, r.conn, unix.RTM_GETNEIGH, header(unix.AF_BRIDGE, sizeofNdMsg), parseFDB)
	return err
}

func (r *reader) portVLANs(ctx context.Context) error {
	lists := make(map[Ifindex]*[]VLAN)
	for i := range r.ns.Links {
		switch l := &r.ns.Links[i]; {
		case l.Port != nil:
			lists[l.Index] = &l.Port.VLANs
		case l.Bridge != nil:
			lists[l.Index] = &l.Bridge.VLANs
		}
	}
	if len(lists) == 0 {
		return nil
	}
	req := append(header(unix.AF_BRIDGE, unix.SizeofIfInfomsg), attrU32(unix.IFLA_EXT_MASK, rtextFilterBRVLAN)...)
	_, err := collect(ctx, r.conn, unix.RTM_GETLINK, req, func(b []byte) (struct{}, bool) {
		dev, vlans := parsePortVLANs(b)
		if to := lists[dev]; to != nil {
			*to = vlans
		}
		return struct{}{}, false
	})
	return err
}

// peers asks which netnsid this namespace knows each of the others by. The ids that links name exist
// by now: the kernel gives one when it shows IFLA_LINK_NETNSID.
func (r *reader) peers(all []Source) error {
	r.ns.Peers = make(map[int]NetnsID)
	for _, s := range all {
		id := s.Netns.ID()
		if id == r.ns.ID {
			continue
		}
		// struct rtgenmsg, padded, then NETNSA_FD
		req := append(make([]byte, 4), attrU32(unix.NETNSA_FD, uint32(s.Netns.Fd()))...)
		err := r.conn.get(unix.RTM_GETNSID, req, func(m message) {
			for t, v := range attrs(after(m.data, 4)) {
				if nsid := int32(u32(v)); t == unix.NETNSA_NSID && nsid >= 0 {
					r.ns.Peers[int(nsid)] = id
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) ethtoolPeers() error {
	for i := range r.ns.Links {
		l := &r.ns.Links[i]
		if l.Kind != "veth" {
			continue
		}
		peer, err := r.tool.peerIndex(l.Name)
		if errors.Is(err, unix.ENODEV) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%q: %w", l.Name, err)
		}
		l.EthtoolPeer = peer
	}
	return nil
}

// proc runs inside the namespace.
func (r *reader) proc() (err error) {
	if err = readSysctls(r.ns.Sysctls); err != nil {
		return err
	}
	if b, err := os.ReadFile("/proc/thread-self/net/ip_vs"); err == nil { // only where the module is loaded
		r.ns.IPVS = parseIPVS(string(b))
	}
	r.ns.SNMP, err = readSNMP()
	return err
}

// programs runs inside the namespace.
func (r *reader) programs() error {
	hooks, err := queryPrograms(r.ns.Links)
	for i := range r.ns.Links {
		l := &r.ns.Links[i]
		l.Hooks = append(l.Hooks, hooks[l.Index]...)
	}
	if err == nil {
		r.ns.Cgroup, err = r.cgroupPrograms()
	}
	return err
}

func (r *reader) netfilter(context.Context) error {
	rs, err := netfilter.Read(r.src.Netns, r.src.Conns)
	if err != nil {
		return err
	}
	r.ns.Netfilter = rs
	r.ns.Incomplete = append(r.ns.Incomplete, rs.Incomplete...)
	return nil
}
