package cmd

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
)

// garbage is by how many percent the heap may grow before it is collected.
var garbage atomic.Int32

// hurry has the first collection wait until there are 32 MB: most commands are through before, and what a start
// allocates is not looked through again and again.
func hurry() {
	const usual, first = 100, 800 // of the 4 MB that the runtime begins with
	garbage.Store(usual)
	debug.SetGCPercent(first)
	runtime.AddCleanup(new(int64), func(struct{}) { debug.SetGCPercent(int(garbage.Load())) }, struct{}{})
}

// thrifty keeps the heap near what is in use, for what reads whole captures, or watches for days: hardly anything is
// allocated meanwhile, so that collecting often costs nothing. What only the start needed is given back.
func thrifty() {
	const percent = 20
	garbage.Store(percent)
	debug.SetGCPercent(percent)
	rest()
}

// rest gives back what is in memory and not needed for now: a watch may last for days.
func rest() {
	debug.FreeOSMemory()
	dropProgramPages()
}
