package cmd

import "runtime/debug"

// thrifty keeps the heap near what is in use: hardly anything is allocated while a watch goes on, so that
// collecting often costs nothing.
func thrifty() {
	const percent = 20
	debug.SetGCPercent(percent)
}

// rest gives back what is in memory and not needed for now: a watch may last for days.
func rest() {
	debug.FreeOSMemory()
	dropProgramPages()
}
