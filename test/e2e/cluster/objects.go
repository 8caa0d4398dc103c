package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Objects lists the cluster's nodes, pods, services and endpoint slices as kubectl prints them, with annotations that
// say by which process of this machine each node's and pod's namespaces are found.
func (c *Cluster) Objects(ctx context.Context) ([]byte, error) {
	out, err := c.Command(ctx, "kubectl", "get", "nodes,pods,services,endpointslices", "-A", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	var list struct {
		APIVersion string           `json:"apiVersion"`
		Kind       string           `json:"kind"`
		Items      []map[string]any `json:"items"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, err
	}
	for _, o := range list.Items {
		meta, _ := o["metadata"].(map[string]any)
		pid := 0
		switch o["kind"] {
		case "Node":
			pid, err = c.PID(fmt.Sprint(meta["name"]))
		case "Pod":
			pid, err = c.podPID(fmt.Sprint(meta["uid"]))
		}
		if err != nil {
			return nil, err
		}
		if pid == 0 {
			continue
		}
		notes, _ := meta["annotations"].(map[string]any)
		if notes == nil {
			notes = map[string]any{}
		}
		notes["podtrace.dev/pid"] = fmt.Sprint(pid)
		meta["annotations"] = notes
	}
	return json.Marshal(list)
}

// podPID finds a process of a pod as the host numbers it, 0 where it has none.
func (c *Cluster) podPID(uid string) (int, error) {
	s, err := load(c.Dir)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(s.Hierarchies, func(h hierarchy) bool { return h.Options == "pids" })
	if i < 0 {
		return 0, fmt.Errorf("no pids hierarchy")
	}
	for _, dir := range s.Hierarchies[i].groups() {
		if !strings.Contains(dir, "/pod"+uid) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue // ended meanwhile
		}
		var pid int
		if _, err := fmt.Sscan(string(text), &pid); err == nil {
			return pid, nil
		}
	}
	return 0, nil
}
