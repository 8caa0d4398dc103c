package cluster

import "testing"

func TestControllers(t *testing.T) {
	for options, want := range map[string]string{
		"rw,relatime,memory":                 "memory",
		"rw,nosuid,nodev,noexec,cpu,cpuacct": "cpu,cpuacct",
		"rw,relatime,xattr,name=systemd":     "none,name=systemd",
		"rw,relatime,cpuset,clone_children":  "cpuset",
	} {
		if got := controllers(options); got != want {
			t.Errorf("%s: %q, want %q", options, got, want)
		}
	}
}

// TestOwnGroup: a cluster's group is a child of its maker's, unless that is itself one of a cluster.
func TestOwnGroup(t *testing.T) {
	const groups = "9:name=systemd:/\n4:memory:/user/7:b\n2:cpu,cpuacct:/a/podtrace-e2e/node1/kubepods\n0::/\n"
	for options, want := range map[string]string{
		"none,name=systemd": "/", "memory": "/user/7:b", "cpu,cpuacct": "/a", "pids": "/",
	} {
		if got := ownGroup(groups, options); got != want {
			t.Errorf("%s: %q, want %q", options, got, want)
		}
	}
}
