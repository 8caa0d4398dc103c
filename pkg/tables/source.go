package tables

import (
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
)

// Source is a namespace to read, and what to call it in the snapshot.
type Source struct {
	Netns *netns.Handle // stays owned by the caller
	Node  string        // Netns.Node
	Name  string        // Netns.Name: HostName or "NAMESPACE/POD"
	Exec  string        // Netns.Exec
	// Conns says which tracked connections are wanted; the zero value: all, up to a bound.
	Conns netfilter.ReadOptions
}
