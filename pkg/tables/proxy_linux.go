package tables

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// proxies finds who has the TUN devices of the namespace open, and its UDP sockets there. What other users'
// processes have open cannot be seen without privilege; then nothing is found.
func (r *reader) proxies() error {
	var tuns []*Link
	for i := range r.ns.Links {
		if l := &r.ns.Links[i]; l.Kind == "tun" {
			tuns = append(tuns, l)
		}
	}
	if len(tuns) == 0 {
		return nil
	}
	var sockets map[string]netip.AddrPort
	if err := r.src.Netns.Do(func() (err error) {
		sockets, err = udpSockets("/proc/thread-self/net/udp")
		return err
	}); err != nil {
		return err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		open := openFiles(dir)
		for _, l := range tuns {
			if slices.Contains(open.tuns, l.Name) {
				r.ns.Proxies = append(r.ns.Proxies, open.proxies(dir, l, sockets)...)
			}
		}
	}
	return nil
}

// files are what a process has open: TUN devices by name, sockets by inode.
type files struct{ tuns, sockets []string }

// openFiles reads /proc/PID/fd. A process that ends meanwhile, or that may not be looked at, has nothing open.
func openFiles(dir string) (f files) {
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return f
	}
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
		if err != nil {
			continue
		}
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			f.sockets = append(f.sockets, strings.TrimSuffix(inode, "]"))
		}
		if to == "/dev/net/tun" {
			f.tuns = append(f.tuns, tunOf(filepath.Join(dir, "fdinfo", fd.Name()))...)
		}
	}
	return f
}

// tunOf reads the line "iff:" of an fdinfo, which names the attached device (drivers/net/tun.c).
func tunOf(path string) (names []string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "iff:"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

// proxies are the process's UDP sockets in the device's namespace: those tell its TUN devices of the same name in
// several namespaces apart.
func (f files) proxies(dir string, l *Link, sockets map[string]netip.AddrPort) (out []Proxy) {
	pid, _ := strconv.Atoi(filepath.Base(dir))
	comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
	for _, inode := range f.sockets {
		if local, ok := sockets[inode]; ok {
			out = append(out, Proxy{Index: l.Index, PID: pid, Process: strings.TrimSpace(string(comm)), Local: local})
		}
	}
	return out
}

// udpSockets reads a table of the form of /proc/net/udp: inode to local address.
func udpSockets(path string) (map[string]netip.AddrPort, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseUDPSockets(f)
}

func parseUDPSockets(r io.Reader) (map[string]netip.AddrPort, error) {
	const local, inode, columns = 1, 9, 10
	out := make(map[string]netip.AddrPort)
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		c := strings.Fields(sc.Text())
		if len(c) < columns {
			continue
		}
		if a, ok := hexAddrPort(c[local]); ok {
			out[c[inode]] = a
		}
	}
	return out, sc.Err()
}

// hexAddrPort reads "5B0B010A:205D": the address as the machine's words show it, the port in host byte order.
func hexAddrPort(s string) (netip.AddrPort, bool) {
	a, p, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(a)
	port, err2 := strconv.ParseUint(p, 16, 16)
	if err != nil || err2 != nil || len(b) != 4 {
		return netip.AddrPort{}, false
	}
	binary.NativeEndian.PutUint32(b, binary.BigEndian.Uint32(b))
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(port)), true
}
