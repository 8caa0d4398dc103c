package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Traces are what Leftovers looks for: all that a cluster is made of, taken down while it is up.
type Traces struct {
	dir         string
	hierarchies []hierarchy
	namespaces  map[string]bool // "net:[4026532345]", also of pods
}

// Traces lists what the cluster consists of.
func (c *Cluster) Traces() (Traces, error) {
	s, err := load(c.Dir)
	if err != nil {
		return Traces{}, err
	}
	t := Traces{c.Dir, s.Hierarchies, map[string]bool{}}
	own := namespaces("self")
	for _, h := range s.Hierarchies {
		for _, pid := range h.processes() {
			for ns := range namespaces(strconv.Itoa(pid)) {
				if !own[ns] {
					t.namespaces[ns] = true
				}
			}
		}
	}
	if len(t.namespaces) == 0 {
		return t, errors.New("the cluster has no namespace")
	}
	return t, nil
}

// Leftovers lists what is still there of a cluster, one line a thing; none after Down.
func Leftovers(t Traces) []string {
	var out []string
	if _, err := os.Lstat(t.dir); !errors.Is(err, fs.ErrNotExist) {
		out = append(out, "folder "+t.dir)
	}
	for _, h := range t.hierarchies {
		for _, dir := range h.groups() {
			out = append(out, "cgroup "+dir)
		}
	}
	// a namespace lives as long as a process in it or a mount of it; so does a mount namespace's mount
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		for ns := range namespaces(filepath.Base(proc)) {
			if t.namespaces[ns] {
				out = append(out, "process "+filepath.Base(proc)+" in "+ns)
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		for f := range strings.FieldsSeq(line) {
			if t.namespaces[f] || strings.HasPrefix(f, t.dir+"/") {
				out = append(out, "mount "+strings.TrimSpace(line))
			}
		}
	}
	return out
}

// namespaces are those of a process, by name and number; none when it is gone.
func namespaces(pid string) map[string]bool {
	out := map[string]bool{}
	links, _ := filepath.Glob("/proc/" + pid + "/ns/*")
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil {
			out[ns] = true
		}
	}
	return out
}
