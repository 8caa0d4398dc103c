package cmd

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/report"
)

// The captures of a published walk through flannel's VXLAN mode, made from the header values that it states at its
// four points, and judged with its listings by the command line.

// docFrame is what the walk states of a frame at one of its points; the outer values are those at the uplink.
type docFrame struct {
	ethSrc, ethDst string
	src, dst       string // address:port
	ttl            uint8

	outerEthSrc, outerEthDst string
	outerSrc, outerDst       string // address:port; "": not encapsulated
	outerTTL                 uint8
	vxlanFlags               uint8
	vni                      uint32
}

// docPoint is one of the four points: the frame of a request there, and of a reply.
type docPoint struct {
	at             string // NODE/…/INTERFACE
	request, reply docFrame
}

const (
	docClient, docServer = "10.244.1.32:46012", "10.244.2.40:8080"
	docPod1              = "k8s-node01/default/coffee-67c6f7c5fd-2pfr4/eth0"
	docEnds              = "coffee-67c6f7c5fd-2pfr4 coffee-67c6f7c5fd-c2lpg"
)

// docPoints are the values of the document, and for the replies, which it does not show, their mirror image.
func docPoints() []docPoint {
	pod := docFrame{ethSrc: "4a:9e:70:55:74:ac", ethDst: "8e:62:4b:7f:4b:ab", src: docClient, dst: docServer, ttl: 64}
	podBack := docFrame{ethSrc: pod.ethDst, ethDst: pod.ethSrc, src: docServer, dst: docClient, ttl: 62}
	tunnel := docFrame{ethSrc: "1e:0f:7e:bb:26:2b", ethDst: "ce:b8:fc:a6:06:d2", src: docClient, dst: docServer, ttl: 63}
	tunnelBack := docFrame{ethSrc: tunnel.ethDst, ethDst: tunnel.ethSrc, src: docServer, dst: docClient, ttl: 63}
	wire, wireBack := tunnel, tunnelBack
	wire.outerEthSrc, wire.outerEthDst = "00:50:56:ab:81:34", "00:50:56:ab:00:3b"
	wire.outerSrc, wire.outerDst, wire.outerTTL, wire.vxlanFlags, wire.vni = "10.1.11.91:52543", "10.1.11.92:8472", 64, 0x08, 1
	wireBack.outerEthSrc, wireBack.outerEthDst = wire.outerEthDst, wire.outerEthSrc
	wireBack.outerSrc, wireBack.outerDst, wireBack.outerTTL, wireBack.vxlanFlags, wireBack.vni = "10.1.11.92:48211", "10.1.11.91:8472", 64, 0x08, 1
	return []docPoint{
		{docPod1, pod, podBack}, {"k8s-node01/cni0", pod, podBack},
		{"k8s-node01/flannel.1", tunnel, tunnelBack}, {"k8s-node01/ens192", wire, wireBack},
	}
}

// segment is one of the connection that curl makes.
type segment struct {
	reply    bool
	flags    uint8
	seq, ack uint32
	payload  string
}

func docSegments() []segment {
	const syn, ack, psh, fin = 0x02, 0x10, 0x08, 0x01
	get, ok := "GET /coffee HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nServer address: 10.244.2.40:8080\n"
	c, s := uint32(1000), uint32(70000)
	return []segment{
		{false, syn, c, 0, ""}, {true, syn | ack, s, c + 1, ""}, {false, ack, c + 1, s + 1, ""},
		{false, psh | ack, c + 1, s + 1, get}, {true, ack, s + 1, c + 1 + uint32(len(get)), ""},
		{true, psh | ack, s + 1, c + 1 + uint32(len(get)), ok}, {false, ack, c + 1 + uint32(len(get)), s + 1 + uint32(len(ok)), ""},
		{false, fin | ack, c + 1 + uint32(len(get)), s + 1 + uint32(len(ok)), ""},
		{true, fin | ack, s + 1 + uint32(len(ok)), c + 2 + uint32(len(get)), ""}, {false, ack, c + 2 + uint32(len(get)), s + 2 + uint32(len(ok)), ""},
	}
}

// bytes encodes a segment as a frame.
func (f docFrame) bytes(t *testing.T, s segment, id uint16) []byte {
	t.Helper()
	src, dst := netip.MustParseAddrPort(f.src), netip.MustParseAddrPort(f.dst)
	tcp := make([]byte, 20, 20+len(s.payload))
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	tcp[12], tcp[13] = 5<<4, s.flags
	binary.BigEndian.PutUint16(tcp[14:], 27960)
	tcp = append(tcp, s.payload...)
	binary.BigEndian.PutUint16(tcp[16:], l4Checksum(src.Addr(), dst.Addr(), 6, tcp))
	inner := docEthernet(t, f.ethSrc, f.ethDst, docIPv4(src.Addr(), dst.Addr(), 6, f.ttl, id, tcp))
	if f.outerSrc == "" {
		return inner
	}
	src, dst = netip.MustParseAddrPort(f.outerSrc), netip.MustParseAddrPort(f.outerDst)
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+8+len(inner)))
	udp = append(udp, 0, 0, f.vxlanFlags, 0, 0, 0) // no checksum
	udp = binary.BigEndian.AppendUint32(udp, f.vni<<8)
	return docEthernet(t, f.outerEthSrc, f.outerEthDst, docIPv4(src.Addr(), dst.Addr(), 17, f.outerTTL, id^0x5555, append(udp, inner...)))
}

func docEthernet(t *testing.T, src, dst string, payload []byte) []byte {
	t.Helper()
	s, err1 := ether.ParseMAC(src)
	d, err2 := ether.ParseMAC(dst)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return append(append(append(d[:], s[:]...), 8, 0), payload...)
}

func docIPv4(src, dst netip.Addr, proto, ttl uint8, id uint16, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, ttl, proto, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[4:], id)
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], ^sum(h))
	return append(h, payload...)
}

func l4Checksum(src, dst netip.Addr, proto uint8, b []byte) uint16 {
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, proto, byte(len(b)>>8), byte(len(b)))
	return ^sum(append(pseudo, b...))
}

// sum is the ones' complement sum of RFC 1071.
func sum(b []byte) uint16 {
	n := uint32(0)
	for i, x := range b {
		n += uint32(x) << (8 * (1 - i%2))
	}
	for n>>16 != 0 {
		n = n&0xffff + n>>16
	}
	return uint16(n)
}

// pcapOf writes frames as tcpdump does: microseconds, little-endian, Ethernet.
func pcapOf(frames [][]byte, times []int64) []byte {
	out := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	out = append(out, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	for i, f := range frames {
		out = binary.LittleEndian.AppendUint32(out, uint32(times[i]/1e6))
		out = binary.LittleEndian.AppendUint32(out, uint32(times[i]%1e6))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(f)))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}

// writeDocument writes the captures of the points, and gives the --point flags that name them.
func writeDocument(t *testing.T, points []docPoint) (flags []string) {
	t.Helper()
	dir := t.TempDir()
	for i, p := range points {
		var frames [][]byte
		var times []int64
		for k, s := range docSegments() {
			f, after := p.request, int64(i)*7
			if s.reply {
				f, after = p.reply, int64(len(points)-i)*7
			}
			frames = append(frames, f.bytes(t, s, uint16(k+1)))
			times = append(times, 1610695707_000000+int64(k)*400+after)
		}
		name := filepath.Join(dir, fmt.Sprintf("%d.pcap", i))
		if err := os.WriteFile(name, pcapOf(frames, times), 0o600); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--point", p.at+"="+name)
	}
	return flags
}

// docListings is the folder with the walk's listings, and those of the far side that it does not show.
const docListings = "../listing/testdata/doc000"

// judgeDocument judges captures beside listings by the command line.
func judgeDocument(t *testing.T, listings string, points []docPoint) (*report.Report, int) {
	t.Helper()
	s, out, errOut := buffers()
	args := append([]string{"podtrace", "analyze"}, strings.Fields(docEnds)...)
	code := Main(append(append(args, listings, "-o", "json"), writeDocument(t, points)...), s)
	if code == exitTool {
		t.Fatal(errOut)
	}
	r := new(report.Report)
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		t.Fatal(err)
	}
	return r, code
}

func TestDocumentHealthy(t *testing.T) {
	r, code := judgeDocument(t, docListings, docPoints())
	if code != 0 || r.Verdict.Status != report.Healthy {
		t.Errorf("status %d: %+v", code, r.Verdict)
	}
}

// TestDocumentNotes: what the walk's listings show beside the path is noted, in the report itself.
func TestDocumentNotes(t *testing.T) {
	r, _ := judgeDocument(t, docListings, docPoints())
	var rows []string
	for _, f := range r.Findings {
		if f.Cause == "fdb-leftover" && f.Severity == report.SeverityNote && f.Node == "k8s-node01" && f.Interface == "flannel.1" {
			rows = append(rows, f.Evidence[0])
		}
	}
	if len(rows) != 2 || !strings.HasPrefix(rows[0], "06:ee:53:fd:1a:a9 ") || !strings.HasPrefix(rows[1], "36:36:40:76:1c:9f ") {
		t.Errorf("left over: %q", rows)
	}
	if len(r.Findings) != 2 {
		t.Errorf("%+v", r.Findings)
	}
}

// TestDocumentCaptureChanged changes one header value of the requests, or of the replies, at one point at a time: each
// has to be found, at that point.
func TestDocumentCaptureChanged(t *testing.T) {
	fields := map[string]func(*docFrame){
		"ethSrc": func(f *docFrame) { f.ethSrc = "02:00:00:00:00:99" },
		"ethDst": func(f *docFrame) { f.ethDst = "02:00:00:00:00:99" },
		"ttl":    func(f *docFrame) { f.ttl -= 5 },
	}
	outer := map[string]func(*docFrame){
		"outer.ethSrc":  func(f *docFrame) { f.outerEthSrc = "02:00:00:00:00:99" },
		"outer.ethDst":  func(f *docFrame) { f.outerEthDst = "02:00:00:00:00:99" },
		"outer.ipSrc":   func(f *docFrame) { f.outerSrc = "10.1.11.77:52543" },
		"outer.ipDst":   func(f *docFrame) { f.outerDst = "10.1.11.77:8472" },
		"outer.dstPort": func(f *docFrame) { f.outerDst = strings.Replace(f.outerDst, ":8472", ":8473", 1) },
		"vni":           func(f *docFrame) { f.vni = 4097 },
		"vxlan flags":   func(f *docFrame) { f.vxlanFlags = 0 },
	}
	for listings, dir := range map[string]string{"both sides": docListings, "as it stands": docAsItStands(t)} {
		t.Run(listings, func(t *testing.T) { changeCaptures(t, dir, fields, outer) })
	}
}

func changeCaptures(t *testing.T, dir string, fields, outer map[string]func(*docFrame)) {
	t.Helper()
	for i, p := range docPoints() {
		all := maps.Clone(fields)
		if p.request.outerSrc != "" {
			maps.Copy(all, outer)
		}
		for name, change := range all {
			for _, leg := range []string{report.Request, report.Reply} {
				t.Run(fmt.Sprintf("%s/%s/%s", filepath.Base(p.at), leg, name), func(t *testing.T) {
					points := docPoints()
					if leg == report.Request {
						change(&points[i].request)
					} else {
						change(&points[i].reply)
					}
					r, code := judgeDocument(t, dir, points)
					v := r.Verdict
					if code != report.ExitFault || v.Status != report.Degraded || v.Cause == "" || v.Leg != leg || v.Node != "k8s-node01" {
						t.Fatalf("status %d: %+v", code, v)
					}
					// the sender's own TTL may be any: it is the next point that differs from it
					here, shifted := filepath.Base(p.at), name == "ttl" && (i == 0 && leg == report.Request || i == 3 && leg == report.Reply && dir != docListings)
					if v.Interface != here && !shifted {
						t.Errorf("found at %s, want %s: %s", v.Interface, here, v.Summary)
					}
					if want := "wrong-" + strings.ReplaceAll(name, ".", "-"); v.Cause != want && v.Cause != "unseen-at-"+here {
						t.Errorf("cause %s, want %s", v.Cause, want)
					}
				})
			}
		}
	}
}
