package bundle

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// maxNameLen bounds a part of a path in bytes: file systems take 255, and the ending has to fit.
const maxNameLen = 200

// tableName is the path of a namespace's file: tables/NODE/NETNS.json, unlike those in taken also where a file
// system knows no case.
func tableName(node, netns string, taken map[string]bool) string {
	base := "tables/" + escape(node) + "/" + escape(netns)
	name := base + ".json"
	for n := 2; taken[strings.ToLower(name)]; n++ {
		name = fmt.Sprintf("%s~%d.json", base, n)
	}
	taken[strings.ToLower(name)] = true
	return name
}

// escape makes any string one part of a path on every system: letters, digits and "-_.", every other byte and a
// dot in front as %XX. A string too long ends in a hash of itself.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	out := b.String()
	switch {
	case out == "":
		return "%"
	case len(out) > maxNameLen:
		sum := sha256.Sum256([]byte(s))
		return fmt.Sprintf("%s~%x", out[:maxNameLen-20], sum[:8])
	}
	return out
}
