package tables

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const sizeofTcMsg = 20 // struct tcmsg of linux/rtnetlink.h

// Parents under which clsact and ingress keep their filters (linux/pkt_sched.h).
const (
	tcIngress = 0xfffffff2
	tcEgress  = 0xfffffff3
)

// parseXDP reads IFLA_XDP.
func parseXDP(b []byte) []Hook {
	modes := map[uint16]string{
		unix.IFLA_XDP_DRV_PROG_ID: "xdp", unix.IFLA_XDP_SKB_PROG_ID: "xdpgeneric", unix.IFLA_XDP_HW_PROG_ID: "xdpoffload",
	}
	var out []Hook
	for t, v := range attrs(b) {
		if mode, ok := modes[t]; ok && u32(v) != 0 {
			out = append(out, Hook{Where: "xdp", Kind: "bpf", ID: u32(v), Entry: fmt.Sprintf("prog/%s id %d", mode, u32(v))})
		}
	}
	return out
}

// readFilters adds the tc filters of every device that has a place for them.
func (r *reader) readFilters(ctx context.Context) error {
	var kinds map[Ifindex]string
	err := r.conn.dump(ctx, unix.RTM_GETQDISC, make([]byte, sizeofTcMsg),
		func() { kinds = make(map[Ifindex]string) },
		func(m message) {
			for t, v := range attrs(after(m.data, sizeofTcMsg)) {
				if k := text(v); t == unix.TCA_KIND && (k == "clsact" || k == "ingress") {
					kinds[index(after(m.data, 4))] = k
				}
			}
		})
	if err != nil {
		return err
	}
	for dev, kind := range kinds {
		l := r.ns.Link(dev)
		if l == nil {
			continue
		}
		hooks, err := r.filters(ctx, dev, tcIngress, "tc-ingress")
		l.Hooks = append(l.Hooks, hooks...)
		if err == nil && kind == "clsact" {
			hooks, err = r.filters(ctx, dev, tcEgress, "tc-egress")
			l.Hooks = append(l.Hooks, hooks...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) filters(ctx context.Context, dev Ifindex, parent uint32, where string) ([]Hook, error) {
	req := make([]byte, sizeofTcMsg)
	binary.NativeEndian.PutUint32(req[4:], uint32(dev))
	binary.NativeEndian.PutUint32(req[12:], parent)
	var out []Hook
	err := r.conn.dump(ctx, unix.RTM_GETTFILTER, req, func() { out = nil }, func(m message) {
		if h, ok := parseFilter(m.data, where); ok {
			out = append(out, h)
		}
	})
	if errors.Is(err, unix.EINVAL) { // an ingress qdisc that went away meanwhile
		return out, nil
	}
	return out, err
}

// parseFilter reads one filter. The kernel sends a heading without handle for every priority too.
func parseFilter(b []byte, where string) (Hook, bool) {
	if len(b) < sizeofTcMsg {
		return Hook{}, false
	}
	handle, info := u32(b[8:]), u32(b[16:])
	h := Hook{Where: where}
	var options []byte
	for t, v := range attrs(b[sizeofTcMsg:]) {
		switch t {
		case unix.TCA_KIND:
			h.Kind = text(v)
		case unix.TCA_OPTIONS:
			options = v
		}
	}
	if handle == 0 || len(options) == 0 || (h.Kind == "u32" && handle&0xfffff == 0) { // a hash table of u32
		return Hook{}, false
	}
	h.Entry = fmt.Sprintf("filter protocol %s pref %d %s handle %#x", etherTypeName(uint16(info)), info>>16, h.Kind, handle)
	if h.Kind == "bpf" {
		parseBPFFilter(&h, options)
	}
	return h, true
}

func parseBPFFilter(h *Hook, options []byte) {
	const bpfName, bpfTag, bpfID = 7, 10, 11 // TCA_BPF_* of linux/pkt_cls.h
	for t, v := range attrs(options) {
		switch t {
		case bpfName:
			h.Name = text(v)
		case bpfTag:
			h.Tag = hex.EncodeToString(v)
		case bpfID:
			h.ID = u32(v)
		}
	}
	h.Entry += fmt.Sprintf(" %s id %d tag %s", h.Name, h.ID, h.Tag)
}

// etherTypeName names the protocol of a filter, which comes in network byte order.
func etherTypeName(v uint16) string {
	v = v<<8 | v>>8
	switch v {
	case unix.ETH_P_ALL:
		return "all"
	case unix.ETH_P_IP:
		return "ip"
	case unix.ETH_P_IPV6:
		return "ipv6"
	case unix.ETH_P_ARP:
		return "arp"
	default:
		return fmt.Sprintf("[%d]", v)
	}
}

// attachPoints are the hooks that no rtnetlink message shows.
var attachPoints = []struct {
	where  string
	kind   string // of link; "": any
	attach ebpf.AttachType
}{
	{"tcx-ingress", "", ebpf.AttachTCXIngress},
	{"tcx-egress", "", ebpf.AttachTCXEgress},
	{"netkit", "netkit", ebpf.AttachNetkitPrimary},
	{"netkit", "netkit", ebpf.AttachNetkitPeer},
}

// queryPrograms asks bpf(2) for the programs of every device, in the namespace of the calling
// thread. One refused question ends it: the next would be refused as well.
func queryPrograms(links []Link) (map[Ifindex][]Hook, error) {
	out := make(map[Ifindex][]Hook)
	for i := range links {
		l := &links[i]
		for _, p := range attachPoints {
			if p.kind != "" && p.kind != l.Kind {
				continue
			}
			res, err := link.QueryPrograms(link.QueryOptions{Target: int(l.Index), Attach: p.attach})
			switch {
			case errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.ENOSYS):
				return out, nil // before Linux 6.6 there is no tcx
			case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EACCES): // gone; the other end of a netkit
				continue
			case errors.Is(err, fs.ErrPermission):
				return out, fmt.Errorf("%w (needs CAP_BPF or CAP_NET_ADMIN)", unix.EPERM)
			case err != nil:
				return out, err
			}
			for _, prog := range res.Programs {
				out[l.Index] = append(out[l.Index], Hook{Where: p.where, Kind: "bpf", ID: uint32(prog.ID)})
			}
		}
	}
	return out, nil
}

// describe fills in name and tag of the programs that are known by id alone, where bpf(2) lets us.
func describe(hooks []Hook) {
	for i := range hooks {
		h := &hooks[i]
		if h.ID != 0 && h.Tag == "" {
			describeProgram(h)
		}
		if h.Entry == "" {
			h.Entry = strings.TrimSpace(fmt.Sprintf("%s %s prog_id %d", h.Where, h.Name, h.ID))
		}
	}
}

func describeProgram(h *Hook) {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(h.ID))
	if err != nil {
		return
	}
	defer func() { _ = p.Close() }()
	if info, err := p.Info(); err == nil {
		h.Name, h.Tag = info.Name, info.Tag
	}
}
