package decode

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/decode/vxlan"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/pcapfile"
)

// corpusDir gives the folder of captures with tshark's answers, which is no part of the repository.
func corpusDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("PODTRACE_CORPUS")
	if dir == "" {
		dir = "../../../shared/corpus"
	}
	if _, err := os.Stat(filepath.Join(dir, "oracle")); err != nil {
		t.Skipf("no capture corpus at %q (set PODTRACE_CORPUS)", dir)
	}
	return dir
}

// readCapture gives the packets up to the first damage: some containers are broken on purpose.
func readCapture(t *testing.T, path string) []pcapfile.Record {
	t.Helper()
	r, err := pcapfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []pcapfile.Record
	for rec := (pcapfile.Record{}); r.Next(&rec) == nil; {
		rec.Data = bytes.Clone(rec.Data)
		out = append(out, rec)
	}
	return out
}

// is reports whether the oracle's captured and original length and time are this packet's.
func is(p *pcapfile.Record, capLen, wireLen, epoch string) bool {
	return strconv.Itoa(len(p.Data)) == capLen && strconv.Itoa(p.OrigLen) == wireLen &&
		fmt.Sprintf("%d.%09d", p.Time/1e9, p.Time%1e9) == epoch
}

// explained are the frames on which tshark and this decoder differ on purpose.
var explained = map[string]bool{
	// The IPv6 header itself is cut or too short (50 and 53 bytes of frame); tshark prints the half
	// that is there, a Headers value holds whole headers only.
	"pcapflowlab--25_vxlan_outer_ipv6_fragmentation.pcap/4": true,
	"tcpdump--ipv6_invalid_length.pcap/1":                   true,
	// A broken container: tshark guesses a variant of pcap with eight more bytes a record, and so
	// reads the frame eight bytes later.
	"suricata-verify--bug-6875-01-fuzz.pcap/1": true,
	// A packet of 0x20 bytes all over: the UDP length is wrong, so there is no VXLAN header to read.
	"pcapplusplus--cf-6185045124251648.cap/1": true,
	// The inner IPv4 header is 16 bytes long and ends the packet: no header.
	"pcapflowlab--08_vxlan_truncated_inner_ipv4.pcap/1": true,
}

// row is one line of an oracle file by column name.
type row map[string]string

func readRows(t *testing.T, path string) []row {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return nil
	}
	r := csv.NewReader(bytes.NewReader(b))
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = '\t', true, -1
	lines, err := r.ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var rows []row
	for _, line := range lines[1:] {
		m := row{}
		for i, v := range line {
			m[lines[0][i]] = v
		}
		rows = append(rows, m)
	}
	return rows
}

func decodePacket(p *pcapfile.Record, f *Frame) bool {
	if p.LinkType == pcapfile.LinkEthernet {
		decoder.Decode(p.Data, p.OrigLen, f)
		return true
	}
	etherType, off, ok := p.LinkType.Payload(p.Data)
	if !ok || etherType != ether.TypeIPv4 && etherType != ether.TypeIPv6 {
		return false
	}
	decoder.DecodeIP(p.Data[off:], p.OrigLen-off, f)
	return true
}

// forEachRow decodes the packet of each line of the oracle files with the suffix and calls fn.
// Frame numbers of tshark also count pcapng blocks that are no packets; a line whose lengths or
// time are others than the packet's is left out.
func forEachRow(t *testing.T, suffix string, cols [4]string, fn func(t *testing.T, data []byte, f *Frame, r row)) {
	dir := corpusDir(t)
	paths, err := filepath.Glob(filepath.Join(dir, "captures", "*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no captures in %q: %v", dir, err)
	}
	const least = 200 // lines that the corpus has for either oracle; fewer means that nothing is matched
	compared, skipped := 0, make(map[string]int)
	for _, path := range paths {
		name := filepath.Base(path)
		rows := readRows(t, filepath.Join(dir, "oracle", name+suffix))
		packets := readCapture(t, path)
		for _, r := range rows {
			n, _ := strconv.Atoi(r[cols[0]])
			var f Frame
			id := fmt.Sprintf("%s/%d", name, n)
			if explained[id] {
				continue
			}
			if n < 1 || n > len(packets) || !is(&packets[n-1], r[cols[1]], r[cols[2]], r[cols[3]]) || !decodePacket(&packets[n-1], &f) {
				skipped[name]++
				continue
			}
			compared++
			t.Run(id, func(t *testing.T) { fn(t, packets[n-1].Data, &f, r) })
		}
	}
	t.Logf("%d lines compared", compared)
	for name, n := range skipped {
		if suffix == ".vxlan.tsv" {
			t.Errorf("%s: %d lines of tshark's have no packet to compare with", name, n)
		}
	}
	if compared < least {
		t.Errorf("only %d lines compared, want %d", compared, least)
	}
}

// same compares one field, where the oracle has one.
func same(t *testing.T, field, want string, got any) {
	t.Helper()
	if want == "" {
		return
	}
	if n, err := strconv.ParseUint(want, 0, 64); err == nil {
		want = strconv.FormatUint(n, 10)
	}
	if g := fmt.Sprint(got); g != want {
		t.Errorf("%s: got %s, tshark says %s", field, g, want)
	}
}

func sameAddr(t *testing.T, field, want string, got netip.Addr) {
	t.Helper()
	if addr, err := netip.ParseAddr(want); err == nil && addr != got {
		t.Errorf("%s: got %v, tshark says %v", field, got, addr)
	}
}

func TestOraclePackets(t *testing.T) {
	forEachRow(t, ".packets.tsv", [4]string{"frame.number", "frame.cap_len", "frame.len", "frame.time_epoch"}, comparePacket)
}

// isPlain reports whether the first IP header of tshark's stack follows straight on the Ethernet
// header and its tags: what is behind PPPoE, MPLS, MACsec or LLC is not this decoder's.
func isPlain(protocols string) bool {
	for p := range strings.SplitSeq(protocols, ":") {
		switch p {
		case "ip", "ipv6":
			return true
		case "raw", "eth", "ethertype", "vlan", "ieee8021ad":
		default:
			return false
		}
	}
	return false
}

func comparePacket(t *testing.T, _ []byte, f *Frame, r row) {
	h := &f.Outer
	if strings.HasPrefix(r["frame.protocols"], "eth:") && (h.HasL4 || h.EtherType != 0 && !h.EthSrc.IsZero()) {
		same(t, "eth.src", r["eth.src"], h.EthSrc)
		same(t, "eth.dst", r["eth.dst"], h.EthDst)
	}
	if !isPlain(r["frame.protocols"]) {
		return
	}
	src, dst := r["ip.src"], r["ip.dst"]
	if h.EtherType == 0x86dd {
		src, dst = r["ipv6.src"], r["ipv6.dst"]
	}
	sameAddr(t, "ip.src", src, h.Src)
	sameAddr(t, "ip.dst", dst, h.Dst)
	switch {
	case !h.HasL4:
	case h.Proto == ProtoTCP:
		same(t, "tcp.srcport", r["tcp.srcport"], h.SrcPort)
		same(t, "tcp.dstport", r["tcp.dstport"], h.DstPort)
	case h.Proto == ProtoUDP:
		same(t, "udp.srcport", r["udp.srcport"], h.SrcPort)
		same(t, "udp.dstport", r["udp.dstport"], h.DstPort)
	}
}

func TestOracleVXLAN(t *testing.T) {
	forEachRow(t, ".vxlan.tsv", [4]string{"frame", "cap_len", "orig_len", "time_epoch"}, compareVXLAN)
}

func compareVXLAN(t *testing.T, data []byte, f *Frame, r row) {
	depth, _ := strconv.Atoi(r["depth"])
	for range depth - 1 { // one level is decoded, what is nested in it is payload: the header there begins another frame
		if f.Inner.Proto != ProtoUDP || !f.Inner.HasL4 {
			t.Fatalf("depth %d: no UDP inside", depth)
		}
		nested := Frame{Outer: f.Inner, PayloadOff: f.PayloadOff, PayloadEnd: f.PayloadEnd}
		h, _, err := vxlan.Parse(data[f.PayloadOff:f.PayloadEnd])
		if err == nil {
			nested.VXLAN, nested.HasVXLAN = h, true
			var in Frame
			data = data[f.PayloadOff+vxlan.HeaderLen:]
			decoder.Decode(data, len(data), &in)
			nested.Inner, nested.PayloadOff, nested.PayloadEnd = in.Outer, in.PayloadOff, in.PayloadEnd
			if in.HasVXLAN { // the next round takes it from its own header
				nested.PayloadOff, nested.PayloadEnd = l4Payload(&in), len(data)
			}
		}
		f = &nested
	}
	flags, _ := strconv.ParseUint(r["vxlan_flags"], 0, 16)
	switch {
	case r["udp_dst"] != "4789" && r["udp_dst"] != "8472":
		// tshark goes by either port, RFC 7348 section 5 by the destination's.
		if f.HasVXLAN {
			t.Errorf("VXLAN on destination port %s", r["udp_dst"])
		}
		return
	case flags&0x0800 == 0:
		// tshark decodes without the I flag, a receiver drops the packet (RFC 7348 section 5).
		if want := (Problem{Malformed, LayerVXLAN, 42}); f.HasVXLAN || f.Problem != want {
			t.Errorf("no I flag: VXLAN %t, problem %+v", f.HasVXLAN, f.Problem)
		}
		return
	case !f.HasVXLAN:
		t.Fatalf("no VXLAN: %v", f.Problem.Err())
	}
	same(t, "vxlan_flags", r["vxlan_flags"], f.VXLAN.Flags())
	same(t, "vni", r["vni"], f.VXLAN.VNI)
	same(t, "vxlan_gbp", r["vxlan_gbp"], f.VXLAN.Group)
	if r["outer_l2"] == "eth" {
		same(t, "outer_eth_src", r["outer_eth_src"], f.Outer.EthSrc)
		same(t, "outer_eth_dst", r["outer_eth_dst"], f.Outer.EthDst)
		same(t, "outer_vlans", r["outer_vlans"], vlans(&f.Outer))
	}
	same(t, "outer_ip_id", r["outer_ip_id"], f.Outer.ID)
	same(t, "outer_ip_ttl", r["outer_ip_ttl"], f.Outer.TTL)
	same(t, "udp_src", r["udp_src"], f.Outer.SrcPort)
	same(t, "udp_dst", r["udp_dst"], f.Outer.DstPort)
	sameAddr(t, "outer_ip_src", r["outer_ip_src"], f.Outer.Src)
	sameAddr(t, "outer_ip_dst", r["outer_ip_dst"], f.Outer.Dst)
	same(t, "inner_vlans", r["inner_vlans"], vlans(&f.Inner))
	compareInner(t, &f.Inner, r)
}

// l4Payload is where the UDP payload of the outer headers begins, of an Ethernet frame over IPv4 or IPv6 without
// options, as all nested ones of the corpus are.
func l4Payload(f *Frame) int {
	off := ether.HeaderLen + 4*int(f.Outer.VLANCount) + 20 + 8
	if f.Outer.Src.Is6() {
		off += 20
	}
	return off
}

// vlans are the ids of the tags, outermost first, as the oracle lists them.
func vlans(h *Headers) string {
	var out []string
	for _, v := range h.VLANs[:h.VLANCount] {
		out = append(out, strconv.Itoa(int(v.ID())))
	}
	return strings.Join(out, ",")
}

func compareInner(t *testing.T, h *Headers, r row) {
	same(t, "inner_eth_src", r["inner_eth_src"], h.EthSrc)
	same(t, "inner_eth_dst", r["inner_eth_dst"], h.EthDst)
	same(t, "inner_ethertype", r["inner_ethertype"], h.EtherType)
	if h.EtherType == 0x0806 {
		sameAddr(t, "arp sender", r["inner_ip_src"], h.ARPSrcIP)
		sameAddr(t, "arp target", r["inner_ip_dst"], h.ARPDstIP)
		same(t, "arp_op", r["arp_op"], h.ARPOp)
		return
	}
	sameAddr(t, "inner_ip_src", r["inner_ip_src"], h.Src)
	sameAddr(t, "inner_ip_dst", r["inner_ip_dst"], h.Dst)
	same(t, "inner_ip_id", r["inner_ip_id"], h.ID)
	same(t, "inner_ip_ttl", r["inner_ip_ttl"], h.TTL)
	same(t, "inner_proto", r["inner_proto"], h.Proto)
	same(t, "inner_sport", r["inner_sport"], h.SrcPort)
	same(t, "inner_dport", r["inner_dport"], h.DstPort)
	same(t, "tcp_seq_raw", r["tcp_seq_raw"], h.TCPSeq)
	same(t, "tcp_ack_raw", r["tcp_ack_raw"], h.TCPAck)
	same(t, "tcp_flags", r["tcp_flags"], h.TCPFlags)
	same(t, "icmp_type", r["icmp_type"], h.ICMPType)
	same(t, "icmp_code", r["icmp_code"], h.ICMPCode)
	same(t, "icmp_id", r["icmp_id"], h.ICMPID)
	same(t, "icmp_seq", r["icmp_seq"], h.ICMPSeq)
}

// TestOracleBigTCP uses the answers that tcpdump's own tests ship (oracle/*.upstream.txt): tshark
// 4.0 calls packets with zero length fields malformed.
func TestOracleBigTCP(t *testing.T) {
	dir := corpusDir(t)
	for _, name := range []string{"tcpdump--bigtcp-ipv4-vxlan-ipv4.pcap", "tcpdump--bigtcp-ipv6-vxlan-ipv6.pcap"} {
		want, err := os.ReadFile(filepath.Join(dir, "oracle", name+".upstream.txt"))
		if err != nil {
			t.Fatal(err)
		}
		var f Frame
		packets := readCapture(t, filepath.Join(dir, "captures", name))
		if len(packets) != 1 || !decodePacket(&packets[0], &f) || !f.HasVXLAN || f.Problem.Err() != nil {
			t.Fatalf("%s: %d packets, problem %v", name, len(packets), f.Problem.Err())
		}
		for _, field := range []string{
			fmt.Sprintf("vni %d", f.VXLAN.VNI),
			fmt.Sprintf("seq %d:%d", f.Inner.TCPSeq, f.Inner.TCPSeq+uint32(f.Inner.PayloadLen)),
			fmt.Sprintf("ack %d", f.Inner.TCPAck),
			fmt.Sprintf("%v.%d > %v.%d", f.Inner.Src, f.Inner.SrcPort, f.Inner.Dst, f.Inner.DstPort),
		} {
			if !strings.Contains(string(want), field) {
				t.Errorf("%s: tcpdump has no %q in %s", name, field, want)
			}
		}
	}
}
