package tables

import "strings"

// NotListed writes an entry of Netns.Incomplete about a whole table, or with dev about its rows of one
// device: "fdb of cni0: not listed".
func NotListed(table, dev, why string) string {
	if dev != "" {
		table += " of " + dev
	}
	return table + ": " + why
}

// Lacks reports whether rows of a table may be missing from this value because they could not be read or
// nobody listed them, as a whole or for one device. A row that is not found in such a table proves nothing.
func (n *Netns) Lacks(table, dev string) bool {
	for _, s := range n.Incomplete {
		if strings.HasPrefix(s, table+": ") || dev != "" && strings.HasPrefix(s, NotListed(table, dev, "")) {
			return true
		}
	}
	return false
}
