// Command podtrace finds where a packet between two pods gets lost, and why. Under the name
// kubectl-podtrace it is a kubectl plugin. All of it is in pkg/cmd.
package main

import (
	"os"
	"runtime"

	"github.com/podtrace/podtrace/pkg/cmd"
)

// The startup thread is the one that /proc/self describes, and it cannot be thrown away: kept by
// main, it never runs a goroutine that enters another network namespace.
func init() { runtime.LockOSThread() }

// main does nothing but wait: a goroutine that is bound to a thread is slow to talk to others.
func main() {
	status := make(chan int)
	go func() { status <- cmd.Main(os.Args, cmd.System()) }()
	os.Exit(<-status)
}
