package tables

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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
	b, err := readValue("/proc/sys/net/" + file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "read", Path: "/proc/sys/net/" + file, Err: err}
	}
	out[strings.ReplaceAll(file, "/", ".")] = string(bytes.TrimSpace(b))
	return nil
}

// readValue reads a file of one value. There are dozens in each namespace, and os.ReadFile makes three times the
// system calls: it sees to files that are long, or that block.
func readValue(file string) ([]byte, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 256)
	n, err := unix.Read(fd, b)
	return b[:max(n, 0)], err
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
