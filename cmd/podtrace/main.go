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

func main() {
	os.Exit(cmd.Main(os.Args, cmd.System()))
}
