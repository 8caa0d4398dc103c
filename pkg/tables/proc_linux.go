package tables

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// sysctlFiles are the values that decide forwarding and belong to no device.
var sysctlFiles = []string{
	"ipv4/ip_forward", "ipv4/ip_default_ttl", "ipv4/fib_multipath_hash_policy", "ipv4/fwmark_reflect",
	"ipv4/icmp_echo_ignore_all", "ipv4/ip_local_port_range", "ipv4/nexthop_compat_mode", "ipv4/ip_forward_use_pmtu", "ipv4/ip_no_pmtu_disc",
	"ipv4/vs/conntrack",
	"ipv6/fib_multipath_hash_policy", "ipv6/fwmark_reflect", "ipv6/conf/all/forwarding",
	"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", "bridge/bridge-nf-call-arptables",
	"bridge/bridge-nf-filter-vlan-tagged", "netfilter/nf_conntrack_max", "netfilter/nf_conntrack_count",
}

// readSysctls reads the namespace of the calling thread: /proc/sys/net shows whoever opens a file
// there his own. A file that is not there is a feature that this kernel does not have.
func readSysctls(out map[string]string) error {
	for _, f := range sysctlFiles {
		if err := readSysctl(f, out); err != nil {
			return err
		}
	}
	for _, dev := range []string{"all", "default"} {
		for _, c := range ipv4Conf {
			if err := readSysctl("ipv4/conf/"+dev+"/"+c.name, out); err != nil {
				return err
			}
		}
		for _, c := range ipv6Conf {
			if err := readSysctl("ipv6/conf/"+dev+"/"+c.name, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func readSysctl(file string, out map[string]string) error {
	b, err := os.ReadFile("/proc/sys/net/" + file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	out[strings.ReplaceAll(file, "/", ".")] = string(bytes.TrimSpace(b))
	return nil
}

// readSNMP reads the protocol counters of the calling thread's namespace. /proc/net would be those
// of the thread group leader.
func readSNMP() (map[string]uint64, error) {
	out := make(map[string]uint64, 512)
	for _, name := range []string{"snmp", "netstat", "snmp6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // snmp6 without IPv6
		}
		if err != nil {
			return nil, err
		}
		if name == "snmp6" {
			parseSNMP6(b, out)
			continue
		}
		parseSNMP(b, out)
	}
	return out, nil
}

// parseSNMP reads pairs of lines, "Udp: InDatagrams NoPorts" and "Udp: 12 0". Values that are no
// counters (Tcp.MaxConn is -1) are left out.
func parseSNMP(b []byte, out map[string]uint64) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20)
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
				out[proto+"."+head[i]] = v
			}
		}
		head = nil
	}
}

// parseSNMP6 reads "Ip6InReceives  12" lines; the protocol is the part up to the 6.
func parseSNMP6(b []byte, out map[string]uint64) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) != 2 {
			continue
		}
		v, err := strconv.ParseUint(fields[1], 10, 64)
		proto, name, ok := strings.Cut(fields[0], "6")
		if err == nil && ok {
			out[proto+"6."+name] = v
		}
	}
}
