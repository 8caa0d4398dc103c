package pcapfile

import (
	"bytes"
	"encoding/csv"
	"errors"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corpusDir gives the folder of captures with tshark's and tcpdump's answers, which is no part of
// the repository.
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

// readTable reads a table with one line of column names, separated by tabs.
func readTable(t *testing.T, path string) []map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || len(b) == 0 {
		return nil
	}
	r := csv.NewReader(bytes.NewReader(b))
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = '\t', true, -1
	lines, err := r.ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var rows []map[string]string
	for _, line := range lines[1:] {
		row := map[string]string{}
		for i, v := range line {
			row[lines[0][i]] = v
		}
		rows = append(rows, row)
	}
	return rows
}

// differs names the files in which tshark and this reader see different packets, each for a reason.
var differs = map[string]bool{
	// The captured lengths of the first record are wrong. tshark guesses a variant of pcap with
	// record headers of 24 bytes, which no magic says, and reads a packet eight bytes later, twice.
	// tcpdump reads one packet, like this reader.
	"suricata-verify--bug-6875-01-fuzz.pcap": true,
	// The microseconds are no number below a million; tshark makes nanoseconds of them in 32 bits,
	// which overflow. Number and lengths agree.
	"pcapplusplus--crash-eec28dafde1f1ac2299674a75a914ae16d4046fa.cap": true,
	// An original length beyond 2^31, which tshark holds in a signed number. Number, captured
	// lengths and times agree.
	"pcapplusplus--cf-5755755617189888.cap": true,
}

// TestCorpusPackets compares the packets of every file with tshark's: their number, captured and
// original lengths, times, and interfaces.
func TestCorpusPackets(t *testing.T) {
	dir := corpusDir(t)
	index := readTable(t, filepath.Join(dir, "index.tsv"))
	if len(index) < 150 {
		t.Fatalf("only %d files in the index", len(index))
	}
	for _, entry := range index {
		name := entry["file"]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := readAll(t, filepath.Join(dir, "captures", name))
			var want []packet
			for _, row := range readTable(t, filepath.Join(dir, "oracle", name+".packets.tsv")) {
				// tshark counts blocks that are no packets (custom, journal) as frames without an
				// encapsulation.
				if row["frame.encap_type"] != "" {
					want = append(want, packet{
						row["frame.cap_len"], row["frame.len"], wrap(t, row["frame.time_epoch"]), row["frame.interface_id"]})
				}
			}
			if !differs[name] {
				if d := cmp.Diff(want, got, compare); d != "" {
					t.Errorf("(-tshark +got)\n%s", d)
				}
				return
			}
			if cmp.Equal(want, got, compare) {
				t.Error("does not differ from tshark any more")
			}
			switch name {
			case "suricata-verify--bug-6875-01-fuzz.pcap":
				if n := strconv.Itoa(len(got)); n != entry["packets_tcpdump"] {
					t.Errorf("%s packets, tcpdump says %s", n, entry["packets_tcpdump"])
				}
			case "pcapplusplus--crash-eec28dafde1f1ac2299674a75a914ae16d4046fa.cap":
				got[0].time = want[0].time
			case "pcapplusplus--cf-5755755617189888.cap":
				got[0].orig = want[0].orig
			}
			if d := cmp.Diff(want, got, compare); d != "" && len(want) == len(got) {
				t.Errorf("differs from tshark in more than is explained (-tshark +got)\n%s", d)
			}
		})
	}
}

// packet is what tshark's table and a Record both have, as text. Times are ns since the epoch in 64
// bits: a file of the corpus has some before it, which tshark takes for very late.
type packet struct{ captured, orig, time, iface string }

var compare = cmp.AllowUnexported(packet{})

// wrap converts "seconds.nanoseconds" to ns modulo 2^64. A simple packet block has no time.
func wrap(t *testing.T, epoch string) string {
	t.Helper()
	if epoch == "" {
		return "0"
	}
	ns, ok := new(big.Int).SetString(strings.Replace(epoch, ".", "", 1), 10)
	if !ok {
		t.Fatalf("time %q", epoch)
	}
	return ns.And(ns, new(big.Int).SetUint64(math.MaxUint64)).String()
}

// readAll reads a file; more packets than bytes would be a loop without end.
func readAll(t *testing.T, path string) []packet {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []packet
	for rec := (Record{}); r.Next(&rec) == nil; {
		p := packet{strconv.Itoa(len(rec.Data)), strconv.Itoa(rec.OrigLen), strconv.FormatUint(uint64(rec.Time), 10), ""}
		if _, ng := r.format.(*ng); ng {
			p.iface = strconv.Itoa(r.Interfaces()[rec.Interface].ID) // tshark counts by section
		}
		if out = append(out, p); int64(len(out)) > r.Offset() {
			t.Fatal("more packets than bytes")
		}
	}
	return out
}

// tolerated are the files that the corpus calls broken and that have no damage for this reader.
var tolerated = map[string]bool{
	// Version 2.8224, which tcpdump refuses; tshark and this reader take it for version 2.4.
	"pcapplusplus--cf-6185045124251648.cap": true,
}

// TestCorpusDamage: the files that the corpus calls broken are the ones with damage, each at its
// place.
func TestCorpusDamage(t *testing.T) {
	dir := corpusDir(t)
	for _, entry := range readTable(t, filepath.Join(dir, "index.tsv")) {
		path := filepath.Join(dir, "captures", entry["file"])
		r, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for rec := (Record{}); r.Next(&rec) == nil; {
		}
		d := r.Damage()
		r.Close()
		if want := entry["malformed"] == "file" && !tolerated[entry["file"]]; (d != nil) != want {
			t.Errorf("%s: damage %v, the corpus calls it malformed: %s", entry["file"], d, entry["malformed"])
		}
		if d == nil {
			continue
		}
		if size, _ := os.Stat(path); d.Offset > size.Size() || d.File != path {
			t.Errorf("%s: damage at byte %d of %d", d.File, d.Offset, size.Size())
		}
	}
}
