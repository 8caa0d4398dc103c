package listing

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/podtrace/podtrace/pkg/ether"
)

// pattern is a regular expression that is compiled when it is first matched: sixty of them are a millisecond, which a
// command that reads no listing does not wait for.
type pattern func() *regexp.Regexp

func lazy(expr string) pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// words are the rest of a row.
type words []string

func wordsOf(s string) words { return strings.Fields(s) }

// next takes one word, "" at the end.
func (w *words) next() string {
	if len(*w) == 0 {
		return ""
	}
	s := (*w)[0]
	*w = (*w)[1:]
	return s
}

func (w *words) peek() string {
	if len(*w) == 0 {
		return ""
	}
	return (*w)[0]
}

// skip takes the next word if it is s.
func (w *words) skip(s string) bool {
	if w.peek() != s || len(*w) == 0 {
		return false
	}
	w.next()
	return true
}

// number reads decimal or 0x numbers, 0 for anything else.
func number[T ~int | ~uint8 | ~uint16 | ~uint32 | ~uint64](s string) T {
	v, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		return 0
	}
	if T(v) < 0 || uint64(T(v)) != v {
		return 0
	}
	return T(v)
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 0, 64)
	return err == nil
}

// truth reads what tools print for yes.
func truth(s string) bool { return s == "on" || s == "true" || s == "yes" || s == "1" }

// parseIP reads an address without its zone; the zero value when it is none.
func parseIP(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.WithZone("").Unmap()
}

// parsePrefix reads ADDR or ADDR/LEN, unmasked. A lone address has all bits.
func parsePrefix(s string) (netip.Prefix, bool) {
	addr, bits, ok := strings.Cut(s, "/")
	a := parseIP(addr)
	if !a.IsValid() && ok { // "10.244/16", as old tools shorten it
		for strings.Count(addr, ".") < 3 && addr != "" && !strings.Contains(addr, ":") {
			addr += ".0"
		}
		a = parseIP(addr)
	}
	if !a.IsValid() {
		return netip.Prefix{}, false
	}
	if !ok {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	n, err := strconv.Atoi(bits)
	if err != nil || n < 0 || n > a.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, n), true
}

// maskBits counts the ones of a dotted netmask; false when they are not in a row.
func maskBits(s string) (int, bool) {
	a := parseIP(s)
	if !a.Is4() {
		return 0, false
	}
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n := 0
	for v&(1<<31) != 0 {
		n++
		v <<= 1
	}
	return n, v == 0
}

func parseMAC(s string) ether.MAC {
	m, err := ether.ParseMAC(s)
	if err != nil {
		return ether.MAC{}
	}
	return m
}

func isMAC(s string) bool {
	_, err := ether.ParseMAC(s)
	return err == nil
}

// family is 2 or 10, as Linux numbers AF_INET and AF_INET6.
func family(a netip.Addr) uint8 {
	if a.Is6() {
		return afInet6
	}
	return afInet
}

const (
	afInet  uint8 = 2
	afInet6 uint8 = 10
)
