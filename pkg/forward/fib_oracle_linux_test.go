package forward

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
	"github.com/podtrace/podtrace/pkg/tables"
)

var (
	seedFlag      = flag.Uint64("seed", 1, "seed of the random cases, 0: by the clock")
	questionsFlag = flag.Int("questions", 12000, "route questions to compare with the kernel")
)

func newSeed(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (repeat with -seed=%d)", seed, seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// fibLab is one namespace with random rules and routes, and a socket to ask its kernel.
type fibLab struct {
	t     *testing.T
	r     *rand.Rand
	ns    *netns.Handle
	nl    *netlink.Handle
	sock  *nl.NetlinkSocket
	links []netlink.Link
	own   netip.Prefix // holds the devices' subnets
	// objects are the IPv6 next hops of nexthop objects, as words6 has them.
	objects map[string]bool
}

const fibDevs = 5

// newFIBLab makes a namespace with a few veth pairs, both ends inside, so that all have carrier.
func newFIBLab(t *testing.T, r *rand.Rand) *fibLab {
	t.Helper()
	l := &fibLab{t: t, r: r, ns: nstest.New(t), own: netip.MustParsePrefix("10.0.0.0/16"), objects: make(map[string]bool)}
	err := l.ns.Do(func() (err error) {
		if l.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		l.sock, err = nl.Subscribe(unix.NETLINK_ROUTE)
		return err
	})
	l.must(err)
	t.Cleanup(func() { l.nl.Close(); l.sock.Close() })
	l.sysctls()
	for i := range fibDevs {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("d%d", i)}, PeerName: fmt.Sprintf("p%d", i)}
		l.must(l.nl.LinkAdd(v))
		for _, name := range []string{v.Name, v.PeerName} {
			link, err := l.nl.LinkByName(name)
			l.must(err)
			l.must(l.nl.LinkSetUp(link))
			if name == v.Name {
				l.links = append(l.links, link)
			}
		}
		l.addr(i, fmt.Sprintf("10.0.%d.1/24", i))
		l.addr(i, fmt.Sprintf("fd00:0:0:%d::1/64", i))
	}
	lo, err := l.nl.LinkByName("lo")
	l.must(err)
	l.must(l.nl.LinkSetUp(lo))
	return l
}

func (l *fibLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// sysctls lets every input question through to the tables: they are what is compared here.
func (l *fibLab) sysctls() {
	for _, kv := range [][2]string{
		{"ipv4/ip_forward", "1"}, {"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/default/rp_filter", "0"},
		{"ipv4/conf/all/accept_local", "1"}, {"ipv4/conf/default/accept_local", "1"},
		{"ipv6/conf/all/forwarding", "1"}, {"ipv6/conf/default/accept_dad", "0"}, {"ipv6/conf/all/accept_dad", "0"},
	} {
		l.must(l.ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+kv[0], []byte(kv[1]), 0o644) }))
	}
}

func (l *fibLab) addr(i int, cidr string) {
	a, err := netlink.ParseAddr(cidr)
	l.must(err)
	a.Flags = unix.IFA_F_NODAD
	l.must(l.nl.AddrAdd(l.links[i], a))
}

func (l *fibLab) pick(v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte{10, byte(l.r.IntN(4)), byte(l.r.IntN(8)), byte(l.r.IntN(256))})
	}
	b := [16]byte{0xfd, 0}
	b[7], b[8], b[15] = byte(l.r.IntN(8)), byte(l.r.IntN(3)), byte(l.r.IntN(250)+2)
	return netip.AddrFrom16(b)
}

func (l *fibLab) prefix(v4 bool) netip.Prefix {
	a := l.pick(v4)
	bits := []int{0, 8, 14, 16, 20, 23, 24, 28, 32}
	if !v4 {
		bits = []int{0, 16, 48, 62, 64, 72, 120, 128}
	}
	return netip.PrefixFrom(a, bits[l.r.IntN(len(bits))]).Masked()
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

var fibTables = []int{254, 254, 254, 253, 100, 101, 102}

// gateway is an address on a device's own subnet.
func (l *fibLab) gateway(dev int, v4 bool) net.IP {
	if v4 {
		return net.IPv4(10, 0, byte(dev), byte(2+l.r.IntN(200)))
	}
	return net.ParseIP(fmt.Sprintf("fd00:0:0:%d::%x", dev, 2+l.r.IntN(200)))
}

// nexthops makes nexthop objects: one a device and family, groups of them, a blackhole of each family.
func (l *fibLab) nexthops() {
	var batch strings.Builder
	for i := range fibDevs {
		fmt.Fprintf(&batch, "nexthop add id %d via %s dev d%d\n", 1+i, l.gateway(i, true), i)
		gw := l.gateway(i, false)
		fmt.Fprintf(&batch, "nexthop add id %d via %s dev d%d\n", 11+i, gw, i)
		l.objects[fmt.Sprintf("%d/%s", l.links[i].Attrs().Index, gw)] = true
	}
	batch.WriteString("nexthop add id 6 dev d0\nnexthop add id 7 blackhole\n")
	batch.WriteString("nexthop add id 8 group 1/2,3/4\nnexthop add id 9 group 5/1\nnexthop add id 18 group 11/12,3/13\n")
	l.ip(batch.String())
	l.ip("nexthop add id 17 blackhole\n", "-6")
}

// ip runs ip -batch inside.
func (l *fibLab) ip(batch string, options ...string) {
	l.t.Helper()
	l.must(l.ns.Do(func() error {
		c := exec.Command("ip", append(options, "-batch", "-")...)
		c.Stdin = strings.NewReader(batch)
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}))
}

// objectRoutes puts routes in that name a nexthop object; no two have the same destination, table and metric.
func (l *fibLab) objectRoutes(n int) {
	var batch strings.Builder
	for i := range n {
		v4 := l.r.IntN(2) == 0
		id := 1 + l.r.IntN(9)
		if !v4 {
			id = []int{11, 12, 13, 14, 15, 17, 18}[l.r.IntN(7)]
		}
		fmt.Fprintf(&batch, "route add %s table %d metric %d nhid %d\n", l.prefix(v4), fibTables[l.r.IntN(len(fibTables))], 2000+i, id) // 1024 is the default in IPv6
	}
	l.ip(batch.String())
}

// routes puts random routes in; those that the kernel refuses do not matter.
func (l *fibLab) routes(n int) (added int) {
	for range n {
		v4 := l.r.IntN(2) == 0
		rt := &netlink.Route{
			Dst: ipnet(l.prefix(v4)), Table: fibTables[l.r.IntN(len(fibTables))],
			Priority: l.r.IntN(4) * 50, Family: family(v4),
		}
		if v4 && l.r.IntN(6) == 0 {
			rt.Tos = 0x10
		}
		switch k := l.r.IntN(12); {
		case k == 0:
			rt.Type = []int{unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW}[l.r.IntN(4)]
		case k <= 2:
			for range 2 + l.r.IntN(2) {
				d := l.r.IntN(fibDevs)
				rt.MultiPath = append(rt.MultiPath, &netlink.NexthopInfo{LinkIndex: l.links[d].Attrs().Index, Gw: l.gateway(d, v4), Hops: l.r.IntN(3)})
			}
		case k <= 4:
			rt.LinkIndex = l.links[l.r.IntN(fibDevs)].Attrs().Index
		case k == 5 && v4:
			rt.LinkIndex, rt.Gw, rt.Flags = l.links[0].Attrs().Index, net.IPv4(192, 0, 2, 9), unix.RTNH_F_ONLINK
		default:
			d := l.r.IntN(fibDevs)
			rt.LinkIndex, rt.Gw = l.links[d].Attrs().Index, l.gateway(d, v4)
		}
		if l.nl.RouteAppend(rt) == nil {
			added++
		}
	}
	return added
}

func family(v4 bool) int {
	if v4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// rules puts random policy rules in.
func (l *fibLab) rules(n int) (added int) {
	for range n {
		v4 := l.r.IntN(2) == 0
		ru := netlink.NewRule()
		ru.Family, ru.Priority = family(v4), 1+l.r.IntN(60)
		ru.Table = []int{254, 253, 100, 101, 102, 103}[l.r.IntN(6)]
		l.selectors(ru, v4)
		if l.r.IntN(6) == 0 {
			ru.SuppressPrefixlen = []int{0, 8, 16, 24}[l.r.IntN(4)]
		}
		switch l.r.IntN(14) {
		case 0:
			ru.Table, ru.Goto = -1, ru.Priority+1+l.r.IntN(10)
		case 1:
			ru.Table, ru.Type = -1, []uint8{unix.FR_ACT_BLACKHOLE, unix.FR_ACT_UNREACHABLE, unix.FR_ACT_PROHIBIT}[l.r.IntN(3)]
		}
		if l.nl.RuleAdd(ru) == nil {
			added++
		}
	}
	return added
}

func (l *fibLab) selectors(ru *netlink.Rule, v4 bool) {
	for range 1 + l.r.IntN(2) {
		switch l.r.IntN(10) {
		case 0:
			ru.Src = ipnet(l.prefix(v4))
		case 1:
			ru.Dst = ipnet(l.prefix(v4))
		case 2:
			ru.IifName = []string{"lo", "d0", "d1", "d2"}[l.r.IntN(4)]
		case 3:
			ru.OifName = []string{"d0", "d1", "d3"}[l.r.IntN(3)]
		case 4:
			mask := uint32(0xf)
			ru.Mark, ru.Mask = uint32(l.r.IntN(4)), &mask
		case 5:
			ru.IPProto = []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP}[l.r.IntN(2)]
		case 6:
			ru.Dport = netlink.NewRulePortRange(80, uint16(80+l.r.IntN(2)*1000))
		case 7:
			ru.Invert = true
		case 9:
			ru.UIDRange = netlink.NewRuleUIDRange(uint32(l.r.IntN(2))*1000, uint32(1000+l.r.IntN(2)*500))
		case 8:
			if v4 {
				ru.Tos = 0x10
			}
		}
	}
}

// question is one lookup, for the kernel and for the model.
type question struct {
	q   query
	iif int
	oif int
}

func (l *fibLab) question() question {
	v4 := l.r.IntN(2) == 0
	// a question without a protocol is one about UDP (inet_rtm_getroute)
	q := question{q: query{dst: l.pick(v4), mark: uint32(l.r.IntN(5)), iif: loopback, proto: unix.IPPROTO_UDP, uid: uint32(l.r.IntN(4)) * 500}}
	if v4 && l.r.IntN(4) == 0 {
		q.q.tos = 0x10
	}
	if l.r.IntN(2) == 0 {
		q.q.proto = []uint8{6, 17}[l.r.IntN(2)]
		q.q.sport, q.q.dport = uint16(1000+l.r.IntN(9)), uint16([]int{80, 81, 443, 1080, 2000}[l.r.IntN(5)])
	}
	d := l.r.IntN(fibDevs)
	switch l.r.IntN(4) {
	case 0, 1: // forwarded
		q.iif, q.q.iif = l.links[d].Attrs().Index, l.links[d].Attrs().Name
		q.q.uid = 0 // whom forwarded packets belong to
		for q.q.src = l.pick(v4); v4 && l.own.Contains(q.q.src); {
			q.q.src = l.pick(v4) // a broadcast address is refused as a source, whatever the tables say
		}
	case 2: // from here, source chosen
		q.q.src = netip.MustParseAddr(fmt.Sprintf("10.0.%d.1", d))
		if !v4 {
			q.q.src = netip.MustParseAddr(fmt.Sprintf("fd00:0:0:%d::1", d))
		}
	case 3:
		// In IPv6 a device that is asked for can make the kernel (6.18) answer with a route whose prefix
		// does not hold the destination; such questions say nothing about the model.
		if v4 && l.r.IntN(2) == 0 {
			q.oif, q.q.oif = l.links[d].Attrs().Index, l.links[d].Attrs().Name
		}
	}
	return q
}

const (
	rtmFLookupTable = 0x1000
	rtmFFibMatch    = 0x2000
	rtaIPProto      = 27
	rtaSport        = 28
	rtaDport        = 29
)

// kernelAnswer is the route that the kernel matched, in comparable words.
func (l *fibLab) ask(q question) (string, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	req.Sockets = nil
	msg := nl.NewRtMsg()
	msg.Family = uint8(family(q.q.dst.Is4()))
	if q.q.dst.Is4() {
		msg.Flags = rtmFLookupTable | rtmFFibMatch // in IPv6 it takes another way through the tables than packets do
	}
	msg.Tos = q.q.tos
	msg.Table, msg.Scope, msg.Protocol, msg.Type = 0, 0, 0, 0
	var attrs []*nl.RtAttr
	add := func(t int, b []byte) { attrs = append(attrs, nl.NewRtAttr(t, b)) }
	u32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	add(unix.RTA_DST, q.q.dst.AsSlice())
	msg.Dst_len = uint8(q.q.dst.BitLen())
	if q.q.src.IsValid() {
		add(unix.RTA_SRC, q.q.src.AsSlice())
		msg.Src_len = uint8(q.q.src.BitLen())
	}
	if q.iif != 0 {
		add(unix.RTA_IIF, u32(uint32(q.iif)))
	}
	if q.oif != 0 {
		add(unix.RTA_OIF, u32(uint32(q.oif)))
	}
	if q.q.mark != 0 {
		add(unix.RTA_MARK, u32(q.q.mark))
	}
	add(unix.RTA_UID, u32(q.q.uid))
	if q.q.proto != 0 {
		add(rtaIPProto, []byte{q.q.proto})
		add(rtaSport, binary.BigEndian.AppendUint16(nil, q.q.sport))
		add(rtaDport, binary.BigEndian.AppendUint16(nil, q.q.dport))
	}
	req.AddData(msg)
	for _, a := range attrs {
		req.AddData(a)
	}
	if err := l.sock.Send(req); err != nil {
		return "", err
	}
	msgs, _, err := l.sock.Receive()
	if err != nil {
		return "", err
	}
	for _, m := range msgs {
		if m.Header.Seq != req.Seq {
			continue
		}
		if m.Header.Type == unix.NLMSG_ERROR {
			e := int32(binary.NativeEndian.Uint32(m.Data))
			return "", syscall.Errno(-e)
		}
		return l.parse(m.Data)
	}
	return "", errors.New("no answer")
}

// parse puts the kernel's route into the words of routeWords.
func (l *fibLab) parse(b []byte) (string, error) {
	msg := nl.DeserializeRtMsg(b)
	attrs, err := nl.ParseRouteAttr(b[msg.Len():])
	if err != nil {
		return "", err
	}
	dst := netip.IPv4Unspecified()
	if msg.Family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	table, metric := uint32(msg.Table), uint32(0)
	var hops []string
	dev, gw := 0, ""
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_TABLE:
			table = binary.NativeEndian.Uint32(a.Value)
		case unix.RTA_PRIORITY:
			metric = binary.NativeEndian.Uint32(a.Value)
		case unix.RTA_OIF:
			dev = int(binary.NativeEndian.Uint32(a.Value))
		case unix.RTA_GATEWAY:
			g, _ := netip.AddrFromSlice(a.Value)
			gw = g.String()
		case unix.RTA_MULTIPATH:
			hops = parseHops(a.Value)
		}
	}
	if len(hops) == 0 && dev != 0 {
		hops = []string{fmt.Sprintf("%d/%s", dev, gw)}
	}
	slices.Sort(hops)
	if msg.Family == unix.AF_INET6 {
		if int(msg.Type) == unix.RTN_BLACKHOLE || int(msg.Type) == unix.RTN_UNREACHABLE || int(msg.Type) == unix.RTN_PROHIBIT {
			return "", syscall.EHOSTUNREACH
		}
		return l.words6(table, metric, int(msg.Type), strings.Join(hops, " ")), nil
	}
	if msg.Type != unix.RTN_UNICAST && table == unix.RT_TABLE_MAIN {
		table = unix.RT_TABLE_LOCAL // both are one without policy rules, and the kernel names the wrong half
	}
	return fmt.Sprintf("table %d %s/%d tos %d metric %d type %d via %s", table, dst, msg.Dst_len, msg.Tos, metric, msg.Type, strings.Join(hops, " ")), nil
}

// words6 is an answer in IPv6. The kernel keeps one destination for each CPU with a nexthop object, which names the
// first of the object's routes that was asked for (rt6_get_pcpu_route): of those, only where they lead is said.
func (l *fibLab) words6(table, metric uint32, kind int, via string) string {
	if l.objects[via] {
		return fmt.Sprintf("object type %d via %s", kind, via)
	}
	return fmt.Sprintf("table %d metric %d type %d via %s", table, metric, kind, via)
}

func parseHops(b []byte) (hops []string) {
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b))
		idx := int(binary.NativeEndian.Uint32(b[4:]))
		gw := ""
		as, _ := nl.ParseRouteAttr(b[unix.SizeofRtNexthop:n])
		for _, a := range as {
			if a.Attr.Type == unix.RTA_GATEWAY {
				g, _ := netip.AddrFromSlice(a.Value)
				gw = g.String()
			}
		}
		hops = append(hops, fmt.Sprintf("%d/%s", idx, gw))
		b = b[min((n+3)&^3, len(b)):]
	}
	return hops
}

var typeNumber = map[tables.RouteType]int{
	tables.RouteUnicast: unix.RTN_UNICAST, tables.RouteLocal: unix.RTN_LOCAL, tables.RouteBroadcast: unix.RTN_BROADCAST,
	tables.RouteAnycast: unix.RTN_ANYCAST, tables.RouteMulticast: unix.RTN_MULTICAST,
}

// routeWords is an answer in the words of parse: in IPv4 the whole route, in IPv6 the next hop taken.
func (l *fibLab) routeWords(a answer, v4 bool) string {
	r := a.route
	if !v4 {
		gw := ""
		if a.hop.Gateway.IsValid() {
			gw = a.hop.Gateway.String()
		}
		return l.words6(r.Table, r.Metric, typeNumber[r.Type], fmt.Sprintf("%d/%s", a.hop.Index, gw))
	}
	var hops []string
	for _, nh := range r.NextHops {
		gw := ""
		if nh.Gateway.IsValid() {
			gw = nh.Gateway.String()
		}
		hops = append(hops, fmt.Sprintf("%d/%s", nh.Index, gw))
	}
	slices.Sort(hops)
	return fmt.Sprintf("table %d %s tos %d metric %d type %d via %s", r.Table, r.Dst, r.TOS, r.Metric, typeNumber[r.Type], strings.Join(hops, " "))
}

// TestRouteLookupAgainstKernel asks the model and the kernel the same questions.
func TestRouteLookupAgainstKernel(t *testing.T) {
	r := newSeed(t)
	asked, found := 0, 0
	for round := 0; asked < *questionsFlag; round++ {
		l := newFIBLab(t, r)
		l.nexthops() // first: random routes may lead a gateway elsewhere
		routes, rules := l.routes(150), l.rules(r.IntN(12))
		l.objectRoutes(30)
		snap, err := tables.Read(t.Context(), []tables.Source{{Netns: l.ns, Node: "n", Name: tables.HostName}})
		l.must(err)
		h := New(snap, Options{}).order[0]
		for range 1000 {
			q := l.question()
			asked++
			want, err := l.ask(q)
			as := h.routes(q.q)
			got := []string{"error"}
			if as[0].reason == "" {
				found++
				got = nil
				for _, a := range as {
					got = append(got, l.routeWords(a, q.q.dst.Is4()))
				}
			}
			if err != nil {
				want = "error"
			}
			if !slices.Contains(got, want) {
				t.Errorf("round %d (%d routes, %d rules): dst %s src %s iif %q oif %q mark %d tos %#x proto %d dport %d uid %d\n model  %s (%s)\n kernel %s (%v)",
					round, routes, rules, q.q.dst, q.q.src, q.q.iif, q.q.oif, q.q.mark, q.q.tos, q.q.proto, q.q.dport, q.q.uid, got, as[0].reason, want, err)
				dumpRules(t, h, q)
				if t.Failed() {
					return
				}
			}
		}
	}
	t.Logf("%d questions, %d with a route, no disagreement", asked, found)
	if found < asked/4 {
		t.Errorf("only %d of %d questions had a route: the cases say too little", found, asked)
	}
}

func dumpRules(t *testing.T, h *host, q question) {
	t.Helper()
	for _, r := range h.rulesFor(q.q.dst) {
		t.Logf("  rule %s", h.FormatRule(*r))
	}
	for i := range h.Routes {
		if r := &h.Routes[i]; r.Dst.Contains(q.q.dst) {
			t.Logf("  route table %d %s", r.Table, h.FormatRoute(*r))
		}
	}
}
