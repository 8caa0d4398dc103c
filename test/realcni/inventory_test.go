package realcni

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
)

// object is a Kubernetes object, or part of one.
type object map[string]any

// flannelPrefix begins flanneld's annotations.
const flannelPrefix = "flannel.alpha.coreos.com/"

// writeInventory writes the cluster as kubectl would print it, with the annotations that flanneld's kube subnet manager
// would have put on nodes: what etcd knows.
func (w *world) writeInventory() {
	var items []object
	for _, n := range w.nodes {
		items = append(items, w.nodeObject(n))
	}
	for _, p := range w.pods {
		var ips []object
		for _, ip := range w.ips(p) {
			ips = append(ips, object{"ip": ip})
		}
		items = append(items, object{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": object{"name": p.name, "namespace": "default", "annotations": object{"podtrace.dev/netns": "/run/netns/" + p.ns}},
			"spec":     object{"nodeName": p.node.name},
			"status":   object{"phase": "Running", "hostIP": w.addresses(p.node)[0], "podIP": w.ips(p)[0], "podIPs": ips},
		})
	}
	text, err := json.MarshalIndent(object{"apiVersion": "v1", "kind": "List", "items": items}, "", "  ") // JSON is YAML
	w.must(err)
	w.inv = filepath.Join(w.dir, "cluster.yaml")
	w.must(os.WriteFile(w.inv, text, 0o644))
}

// nodeObject is a node as the API server would have it: with flanneld's annotations, or, where it keeps its leases in
// etcd, those that it would have written.
func (w *world) nodeObject(n *node) object {
	annotations := map[string]string{}
	if w.cfg.kube {
		annotations = maps.Clone(w.api.annotations(n.name))
	} else {
		annotations[flannelPrefix+"backend-type"], annotations[flannelPrefix+"public-ip"] = n.lease.BackendType, n.lease.PublicIP
		annotations[flannelPrefix+"backend-data"] = "null"
		if len(n.lease.BackendData) > 0 {
			annotations[flannelPrefix+"backend-data"] = string(n.lease.BackendData)
		}
		if w.cfg.dual {
			annotations[flannelPrefix+"backend-v6-data"], annotations[flannelPrefix+"public-ipv6"] = string(n.lease.BackendV6Data), n.lease.PublicIPv6
		}
	}
	annotations["podtrace.dev/netns"] = "/run/netns/" + n.ns
	var addresses []object
	for _, ip := range w.addresses(n) {
		addresses = append(addresses, object{"type": "InternalIP", "address": ip})
	}
	cidrs := w.cidrs(n)
	return object{
		"apiVersion": "v1", "kind": "Node",
		"metadata": object{"name": n.name, "annotations": annotations},
		"spec":     object{"podCIDR": cidrs[0], "podCIDRs": cidrs},
		"status":   object{"addresses": addresses},
	}
}

// addresses are a node's own.
func (w *world) addresses(n *node) (addresses []string) {
	if w.cfg.v4() {
		addresses = append(addresses, n.ip)
	}
	if w.cfg.v6() {
		addresses = append(addresses, n.ip6)
	}
	return addresses
}
