package counters

import (
	"bufio"
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// levels are values among the protocols' counters that are none: settings and states.
var levels = map[string]bool{
	"Ip.Forwarding": true, "Ip.DefaultTTL": true,
	"Tcp.RtoAlgorithm": true, "Tcp.RtoMin": true, "Tcp.RtoMax": true, "Tcp.MaxConn": true, "Tcp.CurrEstab": true,
}

func hasSuffix(s string, suffixes ...string) bool {
	return slices.ContainsFunc(suffixes, func(x string) bool { return strings.HasSuffix(s, x) })
}

// parseSNMP reads the pairs of lines of /proc/net/snmp and netstat, "Udp: InDatagrams NoPorts" and "Udp: 12 0",
// as "Udp.NoPorts". A value that is no unsigned number (Tcp.MaxConn is -1) is left out.
func parseSNMP(b []byte, set func(name string, v uint64)) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20) // TcpExt is a long line
	var head []string
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) == 0 || len(head) == 0 || head[0] != fields[0] {
			head = fields
			continue
		}
		proto := strings.TrimSuffix(fields[0], ":")
		for i := 1; i < min(len(head), len(fields)); i++ {
			if v, err := strconv.ParseUint(fields[i], 10, 64); err == nil {
				set(proto+"."+head[i], v)
			}
		}
		head = nil
	}
}

// parseSNMP6 reads the lines "Ip6InReceives  12" of /proc/net/snmp6, as "Ip6.InReceives"; those that are 0 are left out.
func parseSNMP6(b []byte, set func(name string, v uint64)) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		line := sc.Bytes() // there are a hundred a device: those that are 0 make no strings
		name, value, _ := bytes.Cut(line, []byte{' '})
		if i := bytes.IndexByte(line, '\t'); i >= 0 {
			name, value = line[:i], line[i:]
		}
		v, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64)
		proto, rest, ok := bytes.Cut(bytes.TrimSpace(name), []byte{'6'})
		if err == nil && ok && v != 0 && len(rest) > 0 {
			set(string(proto)+"6."+string(rest), v)
		}
	}
}

// parseStat reads the files of /proc/net/stat: a line of names, then a line a CPU of 32-bit numbers in hex. It
// gives each column's sum. A kernel may have more columns than names; those have no meaning that can be told.
func parseStat(b []byte, set func(name string, v uint64)) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	if !sc.Scan() {
		return
	}
	head := strings.Fields(sc.Text())
	sums := make([]uint64, len(head))
	for sc.Scan() {
		for i, f := range strings.Fields(sc.Text()) {
			if v, err := strconv.ParseUint(f, 16, 32); err == nil && i < len(sums) {
				sums[i] += v
			}
		}
	}
	for i, name := range head {
		set(name, sums[i])
	}
}

// softnetColumns of /proc/net/softnet_stat, which has no line of names (net/core/net-procfs.c).
var softnetColumns = map[int]string{0: "processed", 1: "dropped", 2: "time_squeeze", 9: "received_rps", 10: "flow_limit"}

func parseSoftnet(b []byte, set func(name string, v uint64)) {
	sums := make(map[string]uint64)
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		for i, f := range strings.Fields(sc.Text()) {
			name, ok := softnetColumns[i]
			if v, err := strconv.ParseUint(f, 16, 32); err == nil && ok {
				sums[name] += v
			}
		}
	}
	for name, v := range sums {
		set(name, v)
	}
}

// conntrackNames gives columns of /proc/net/stat/nf_conntrack the names that ctnetlink and conntrack(8) have.
var conntrackNames = map[string]string{
	"clashres": "clash_resolve", "chainlength": "chain_toolong", "icmp_error": "error",
}

// parseConntrack reads /proc/net/stat/nf_conntrack.
func parseConntrack(b []byte, set func(name string, v uint64)) {
	parseStat(b, func(name string, v uint64) {
		if name == "entries" { // the namespace's count, once a CPU
			return
		}
		if n, ok := conntrackNames[name]; ok {
			name = n
		}
		set(name, v)
	})
}
