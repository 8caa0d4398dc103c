package cmd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// byteSize is a number of bytes as a flag: 1048576, 256KiB, 64MiB, 1GiB, or with MB and GB for powers of ten.
type byteSize int64

var byteUnits = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1},
}

// Set parses a size.
func (b *byteSize) Set(s string) error {
	for _, u := range byteUnits {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		switch {
		case err != nil || n < 0:
			return errors.New("want a number of bytes such as 64MiB")
		case n > (1<<62)/u.factor:
			return fmt.Errorf("%q is too large", s)
		}
		*b = byteSize(n * u.factor)
		return nil
	}
	return nil
}

// String gives the form that Set takes, with the largest unit that divides it.
func (b byteSize) String() string {
	for _, u := range []int{2, 1, 0} {
		if f := byteUnits[u].factor; int64(b) >= f && int64(b)%f == 0 {
			return strconv.FormatInt(int64(b)/f, 10) + byteUnits[u].suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Type is the placeholder in the help.
func (b byteSize) Type() string { return "bytes" }
