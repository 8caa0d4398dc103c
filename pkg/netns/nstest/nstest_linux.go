package nstest

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// New makes a namespace with its loopback up, and closes it when the test ends.
func New(t testing.TB) *netns.Handle {
	t.Helper()
	h, err := netns.New()
	if err != nil {
		Skip(t, err)
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	Up(t, h, "lo")
	return h
}

// Skip ends the test as skipped if err is a missing privilege, as failed if CI=true is set too; with
// any other error it returns.
func Skip(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, fs.ErrPermission) {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("kernel tests must run in CI: %v", err)
	}
	t.Skipf("needs root: %v", err)
}

// Do runs f with a netlink handle of the namespace and fails the test on an error.
func Do(t testing.TB, h *netns.Handle, f func(*netlink.Handle) error) {
	t.Helper()
	var nl *netlink.Handle
	err := h.Do(func() (err error) {
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	if err := f(nl); err != nil {
		t.Fatal(err)
	}
}

// Up sets an interface up.
func Up(t testing.TB, h *netns.Handle, name string) {
	t.Helper()
	Do(t, h, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		return nl.LinkSetUp(link)
	})
}

// Veth joins two namespaces (or one with itself) by a veth pair, both ends up.
func Veth(t testing.TB, a *netns.Handle, nameA string, b *netns.Handle, nameB string) {
	t.Helper()
	Do(t, a, func(nl *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nameA
		return nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(b.Fd())})
	})
	Up(t, a, nameA)
	Up(t, b, nameB)
	carrier(t, a, nameA)
	carrier(t, b, nameB)
}

// carrier waits until the kernel has noticed that an interface may send: until then its queue is one that
// drops everything, and on a busy machine that lasts long enough to lose a first packet.
func carrier(t testing.TB, h *netns.Handle, name string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		up := false
		Do(t, h, func(nl *netlink.Handle) error {
			link, err := nl.LinkByName(name)
			if err == nil {
				up = link.Attrs().OperState == netlink.OperUp
			}
			return err
		})
		if up {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("interface %q has no carrier", name)
		}
	}
}

// Addr gives an interface an address ("10.0.0.1/24", "fd00::1/64"), usable at once: without
// duplicate address detection.
func Addr(t testing.TB, h *netns.Handle, name, prefix string) {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	Do(t, h, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(p.String())
		if err != nil {
			return err
		}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		return nl.AddrAdd(link, addr)
	})
}

// Ifindex gives the index of an interface.
func Ifindex(t testing.TB, h *netns.Handle, name string) int {
	t.Helper()
	var index int
	Do(t, h, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err == nil {
			index = link.Attrs().Index
		}
		return err
	})
	return index
}

// Delete removes an interface.
func Delete(t testing.TB, h *netns.Handle, name string) {
	t.Helper()
	Do(t, h, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		return nl.LinkDel(link)
	})
}
