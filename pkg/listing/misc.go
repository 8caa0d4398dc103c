package listing

import (
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// misc reads outputs whose rows stand each for themselves.
type misc struct {
	*block
	row func(p *misc, l line, w words) bool
}

func newMisc(b *block) *misc {
	rows := map[string]func(*misc, line, words) bool{
		kindEthtool: (*misc).ethtool, kindSysctl: (*misc).sysctl, kindSysfs: (*misc).sysfs,
		kindQdisc: (*misc).qdisc, kindFilter: (*misc).filter, kindConntrack: (*misc).conntrack,
	}
	return &misc{b, rows[b.Kind]}
}

func (p *misc) line(l line) bool {
	w := wordsOf(l.text)
	return len(w) > 0 && p.row(p, l, w)
}

// end says what was listed whole.
func (p *misc) end() {
	switch {
	case p.opts.limited || p.Rows == 0:
	case p.Kind == kindConntrack:
		p.cover(tabConns, "")
	case p.Kind == kindSysctl && hasShort(p.args, "a"):
		p.cover(tabSysctls, "")
	case p.Kind == kindFilter && p.opts.dev != "":
		p.cover(tabFilters, p.opts.dev)
	}
}

var ethtoolRow = lazy(`^\s+[\w\[\]. -]+:\s?\S*`)

// ethtool reads ethtool -S, of which peer_ifindex matters, and ethtool -k, of which nothing is in a table.
func (p *misc) ethtool(l line, w words) bool {
	if w[0] == "NIC" || w[0] == "Features" {
		return true
	}
	if p.opts.dev != "" && w[0] == "peer_ifindex:" && len(w) == 2 {
		v := tables.Ifindex(number[int](w[1]))
		k := p.link(l, p.opts.dev, 0, func(n *tables.Link) { n.Kind, n.EthtoolPeer = "veth", v })
		k.ethtool, k.iflink = true, v
		return true
	}
	return ethtoolRow().MatchString(l.text)
}

// maxSysctls bounds the values of one namespace: sysctl -a has some 40 a device.
const maxSysctls = 1 << 20

// sysctl reads "net.ipv4.conf.flannel/1.forwarding = 1": sysctl(8) writes the dots of a name as slashes.
func (p *misc) sysctl(l line, _ words) bool {
	name, v, ok := strings.Cut(strings.TrimSpace(l.text), "=")
	name = strings.TrimSpace(name)
	if !ok && len(p.args) == 1 && strings.HasPrefix(p.args[0], "/proc/sys/") { // cat of one file
		name, v, ok = strings.ReplaceAll(strings.TrimPrefix(p.args[0], "/proc/sys/"), "/", "."), l.text, true
	}
	if strings.HasPrefix(name, "sysctl:") {
		return true // a complaint about a file that may not be read
	}
	if !ok || strings.ContainsAny(name, " \t") || !strings.ContainsAny(name, "./") {
		return false
	}
	name, net := strings.CutPrefix(strings.ReplaceAll(name, "/", "."), "net.")
	if p.sysctls == nil {
		p.sysctls = make(map[string]string)
	}
	if net && len(p.sysctls) < maxSysctls {
		p.sysctls[name] = strings.TrimSpace(v)
	}
	return true
}

var (
	sysfsPath = lazy(`^/sys/class/net/([^/\s]+)/(ifindex|iflink|address|mtu|operstate)(?::(\S+))?$`)
	grepped   = lazy(`grep\s+-\w*l\w*\s+(?:-w\s+)?["']?\^?(\d+)\$?["']?\s`)
)

// sysfs reads "cat /sys/class/net/eth0/iflink", which prints a number, "grep . /sys/class/net/*/iflink",
// which prints file and number, and the loop with "grep -l NUMBER", which prints the files that hold it.
func (p *misc) sysfs(l line, w words) bool {
	if len(w) != 1 {
		return false
	}
	if m := sysfsPath().FindStringSubmatch(w[0]); m != nil {
		v := m[3]
		if g := grepped().FindStringSubmatch(p.cmd.text + " "); v == "" && g != nil {
			v = g[1]
			p.col.note("%s: %s has %s %s if grep matched the whole number", p.at(l), m[1], m[2], v)
		}
		if v == "" {
			return false
		}
		return p.value(l, m[1], m[2], v)
	}
	files := sysfsFiles(p.cmd.words)
	if len(files) != 1 || p.Rows > 0 {
		return false
	}
	return p.value(l, files[0][1], files[0][2], w[0])
}

func sysfsFiles(args []string) (out [][]string) {
	for _, a := range args {
		if m := sysfsPath().FindStringSubmatch(a); m != nil {
			out = append(out, m)
		}
	}
	return out
}

func (p *misc) value(l line, dev, file, v string) bool {
	if file == "address" != isMAC(v) || file != "address" && file != "operstate" && !isNumber(v) {
		return false
	}
	k := p.link(l, dev, 0, nil)
	switch file {
	case "ifindex":
		k.index = tables.Ifindex(number[int](v))
	case "iflink":
		k.iflink = tables.Ifindex(number[int](v))
	case "address":
		k.also(func(n *tables.Link) { n.MAC = parseMAC(v) })
	case "mtu":
		k.also(func(n *tables.Link) { n.MTU = number[int](v) })
	case "operstate":
		k.also(func(n *tables.Link) { n.OperState = v })
	}
	return true
}

// qdisc reads "qdisc fq_codel 0: dev eth0 root refcnt 2 …"; lines of ip -s below it are counters.
func (p *misc) qdisc(l line, w words) bool {
	if w[0] == "Sent" || w[0] == "backlog" || w[0] == "maxpacket" || w[0] == "new_flows_len" {
		return true
	}
	if w.next() != "qdisc" || len(w) < 2 {
		return false
	}
	kind := w.next()
	dev, root := p.opts.dev, false
	for len(w) > 0 {
		switch w.next() {
		case "dev":
			dev = w.next()
		case "root":
			root = true
		}
	}
	if root && dev != "" {
		p.link(l, dev, 0, func(n *tables.Link) { n.Qdisc = kind })
	}
	return true
}

// filter reads "filter protocol all pref 1 bpf handle 0x1 NAME direct-action not_in_hw id 5 tag db59…". The
// row without a handle is the heading of a priority.
func (p *misc) filter(l line, w words) bool {
	if w[0] != "filter" {
		return strings.HasPrefix(l.text, " ") || strings.HasPrefix(l.text, "\t") // the filter's own options
	}
	h := tables.Hook{Where: "tc-ingress", Entry: strings.Join(w, " ")}
	if p.opts.egress {
		h.Where = "tc-egress"
	}
	w.next()
	dev, handle := p.opts.dev, ""
	for len(w) > 0 {
		switch key := w.next(); key {
		case "protocol", "pref", "chain":
			w.next()
		case "dev":
			dev = w.next()
		case "parent":
			if v := w.next(); v == "ffff:fff3" {
				h.Where = "tc-egress"
			}
		case "handle", "fh":
			handle = w.next()
			if h.Kind == "bpf" && strings.Contains(w.peek(), ":[") || h.Kind == "bpf" && !isBPFWord(w.peek()) {
				h.Name = w.next()
			}
		case "id":
			h.ID = number[uint32](w.next())
		case "tag":
			h.Tag = w.next()
		default:
			if h.Kind == "" {
				h.Kind = key
			}
		}
	}
	if handle != "" && dev != "" {
		p.link(l, dev, 0, func(n *tables.Link) { n.Hooks = append(n.Hooks, h) })
	}
	return true
}

func isBPFWord(s string) bool {
	return s == "" || s == "direct-action" || s == "flowid" || s == "id" || s == "tag" || s == "not_in_hw"
}

// conntrack reads conntrack -L and /proc/net/nf_conntrack.
func (p *misc) conntrack(_ line, w words) bool {
	if w[0] == "conntrack" && strings.HasPrefix(w.last(), "shown.") {
		return true
	}
	if w[0] == "ipv4" || w[0] == "ipv6" {
		w = w[min(2, len(w)):]
	}
	proto := ipProto(w.next())
	if !isNumber(w.peek()) {
		return false
	}
	if n := number[uint8](w.next()); proto == 0 {
		proto = n
	}
	e := netfilter.Entry{Timeout: number[uint32](w.peek()), Replied: true}
	e.Orig.Proto, e.Reply.Proto = proto, proto
	t := []*netfilter.Tuple{&e.Orig, &e.Reply}
	at := -1
	for _, s := range w {
		key, v, ok := strings.Cut(s, "=")
		switch {
		case s == "[UNREPLIED]":
			e.Replied = false
		case s == "[ASSURED]":
			e.Assured = true
		case !ok:
		case key == "src":
			at++
			fallthrough
		default:
			if at > 1 {
				return false
			}
			conntrackField(&e, t[max(at, 0)], key, v)
		}
	}
	if at != 1 || !e.Orig.Src.IsValid() || !e.Reply.Src.IsValid() {
		return false
	}
	p.conns = append(p.conns, e)
	return true
}

func conntrackField(e *netfilter.Entry, t *netfilter.Tuple, key, v string) {
	switch key {
	case "src":
		t.Src = parseIP(v)
	case "dst":
		t.Dst = parseIP(v)
	case "sport", "id":
		if key == "sport" || t.Proto == 1 || t.Proto == 58 { // the entry has an id too, at its end
			t.SrcPort = number[uint16](v)
		}
	case "dport":
		t.DstPort = number[uint16](v)
	case "mark":
		m, _ := strconv.ParseUint(v, 0, 32)
		e.Mark = uint32(m)
	case "zone":
		e.Zone = number[uint16](v)
	}
}

func (w words) last() string {
	if len(w) == 0 {
		return ""
	}
	return w[len(w)-1]
}
