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

// settle gives back what only the start needed: for what reads whole captures, and has to be small.
func settle() {
	debug.SetGCPercent(int(garbage.Load()))
	rest()
}

// thrifty keeps the heap near what is in use: hardly anything is allocated while a watch goes on, so that
// collecting often costs nothing.
func thrifty() {
	garbage.Store(20)
	settle()
}

// rest gives back what is in memory and not needed for now: a watch may last for days.
func rest() {
	debug.FreeOSMemory()
	dropProgramPages()
}
