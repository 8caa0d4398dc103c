package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// space is one open namespace of the lab with an rtnetlink socket inside it.
type space struct {
	name  string
	netns *netns.Handle
	nl    *netlink.Handle
}

// spaces are the namespaces of a lab by name (without prefix).
type spaces map[string]*space

// openSpaces opens the namespaces of ps, which must exist. The caller closes them.
func openSpaces(o Options, ps plans) (spaces, error) {
	all := spaces{}
	for _, p := range ps {
		s, err := openSpace(p.name, o.netnsPath(p.name))
		if err != nil {
			all.close()
			return nil, err
		}
		all[p.name] = s
	}
	return all, nil
}

func openSpace(name, path string) (*space, error) {
	h, err := netns.Open(path)
	if err != nil {
		return nil, err
	}
	s := &space{name: name, netns: h}
	err = h.Do(func() (err error) {
		s.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		_ = h.Close()
		return nil, fmt.Errorf("open rtnetlink in %q: %w", path, err)
	}
	return s, nil
}

func (all spaces) close() {
	for _, s := range all {
		s.nl.Close()
		_ = s.netns.Close()
	}
}

// isDeviceSysctl reports whether the file exists only while a device does: "FAMILY/conf/DEV/KEY" or
// "FAMILY/neigh/DEV/KEY".
func isDeviceSysctl(path string) bool {
	parts := strings.Split(path, "/")
	return len(parts) == 4 && (parts[1] == "conf" || parts[1] == "neigh") && parts[2] != "all" && parts[2] != "default"
}

// writeSysctls writes those of p that are about devices or those that are not. A value that is
// right already is not written, as writing ip_forward resets others.
func (s *space) writeSysctls(p *plan, devices bool) error {
	return s.netns.Do(func() error {
		for _, c := range p.sysctls {
			if isDeviceSysctl(c.path) != devices {
				continue
			}
			if err := writeSysctl(c); err != nil {
				return fmt.Errorf("set sysctl net/%s in %q: %w", c.path, s.name, err)
			}
		}
		return nil
	})
}

func writeSysctl(c sysctl) error {
	path := filepath.Join("/proc/sys/net", c.path)
	old, err := os.ReadFile(path)
	// A device that a fault took away has no files.
	if errors.Is(err, fs.ErrNotExist) && (c.optional || isDeviceSysctl(c.path)) {
		return nil
	}
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(old)) == c.value {
		return nil
	}
	return os.WriteFile(path, []byte(c.value), 0)
}
