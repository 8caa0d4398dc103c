package realcni

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// object is a Kubernetes object, or part of one.
type object map[string]any

// writeInventory writes the cluster as kubectl would print it, with the annotations that flanneld's kube subnet manager
// would have put on nodes: what etcd knows.
func (w *world) writeInventory() {
	var items []object
	for _, n := range w.nodes {
		items = append(items, w.nodeObject(n))
	}
	for _, p := range w.pods {
		ips := []object{{"ip": p.ip}}
		if w.cfg.dual {
			ips = append(ips, object{"ip": p.ip6})
		}
		items = append(items, object{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": object{"name": p.name, "namespace": "default", "annotations": object{"podtrace.dev/netns": "/run/netns/" + p.ns}},
			"spec":     object{"nodeName": p.node.name},
			"status":   object{"phase": "Running", "hostIP": p.node.ip, "podIP": p.ip, "podIPs": ips},
		})
	}
	text, err := json.MarshalIndent(object{"apiVersion": "v1", "kind": "List", "items": items}, "", "  ") // JSON is YAML
	w.must(err)
	w.inv = filepath.Join(w.dir, "cluster.yaml")
	w.must(os.WriteFile(w.inv, text, 0o644))
}

func (w *world) nodeObject(n *node) object {
	const prefix = "flannel.alpha.coreos.com/"
	annotations := object{
		"podtrace.dev/netns": "/run/netns/" + n.ns, prefix + "backend-type": n.lease.BackendType, prefix + "public-ip": n.lease.PublicIP,
		prefix + "backend-data": "null",
	}
	if len(n.lease.BackendData) > 0 {
		annotations[prefix+"backend-data"] = string(n.lease.BackendData)
	}
	cidrs := []string{n.subnet + ".0/24"}
	addresses := []object{{"type": "InternalIP", "address": n.ip}}
	if w.cfg.dual {
		annotations[prefix+"backend-v6-data"], annotations[prefix+"public-ipv6"] = string(n.lease.BackendV6Data), n.lease.PublicIPv6
		cidrs, addresses = append(cidrs, n.subnet6+"::/64"), append(addresses, object{"type": "InternalIP", "address": n.ip6})
	}
	return object{
		"apiVersion": "v1", "kind": "Node",
		"metadata": object{"name": n.name, "annotations": annotations},
		"spec":     object{"podCIDR": cidrs[0], "podCIDRs": cidrs},
		"status":   object{"addresses": addresses},
	}
}
