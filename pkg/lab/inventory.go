package lab

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Annotations of an inventory: where an object's namespace is on this machine, and what flanneld
// announces of a node.
const (
	annotationNetns = "podtrace.dev/netns"
	flannelPrefix   = "flannel.alpha.coreos.com/"
)

// object is a Kubernetes object, or part of one, as it is written in YAML.
type object map[string]any

// inventory is the lab as kubectl would print it. The other two leases of document 000 are left
// out: a Node without the netns annotation would be this machine itself, which they are not.
func inventory(o Options) ([]byte, error) {
	var items []object
	for _, n := range nodes {
		items = append(items, nodeObject(o, n))
	}
	for _, p := range pods {
		items = append(items, podObject(o, p))
	}
	for _, app := range []string{"coffee", "tea"} {
		items = append(items, serviceObject(app), sliceObject(app))
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	err := enc.Encode(object{"apiVersion": "v1", "kind": "List", "items": items})
	return out.Bytes(), err
}

func nodeObject(o Options, n node) object {
	return object{
		"apiVersion": "v1", "kind": "Node",
		"metadata": object{
			"name":   n.name,
			"labels": object{"kubernetes.io/hostname": n.name, "kubernetes.io/os": "linux"},
			"annotations": object{
				annotationNetns:                       o.netnsPath(n.name),
				flannelPrefix + "backend-data":        fmt.Sprintf(`{"VNI":%d,"VtepMAC":%q}`, vxlanVNI, n.vtepMAC),
				flannelPrefix + "backend-type":        "vxlan",
				flannelPrefix + "kube-subnet-manager": "true",
				flannelPrefix + "public-ip":           n.ip.String(),
			},
		},
		"spec": object{"podCIDR": n.podCIDR.String(), "podCIDRs": []string{n.podCIDR.String()}},
		"status": object{
			"addresses": []object{
				{"type": "InternalIP", "address": n.ip.String()},
				{"type": "Hostname", "address": n.name},
			},
			"conditions": []object{{"type": "Ready", "status": "True"}},
		},
	}
}

func podObject(o Options, p pod) object {
	return object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{
			"name": p.name, "namespace": "default",
			"labels":      object{"app": p.app},
			"annotations": object{annotationNetns: o.netnsPath(p.name)},
		},
		"spec": object{
			"nodeName":   p.node,
			"containers": []object{{"name": p.app, "image": "nginxdemos/nginx-hello:plain-text", "ports": podPorts()}},
		},
		"status": object{
			"phase": "Running", "hostIP": nodeOf(p).ip.String(), "podIP": p.ip.String(),
			"podIPs":     []object{{"ip": p.ip.String()}},
			"conditions": []object{{"type": "Ready", "status": "True"}},
		},
	}
}

func podPorts() []object {
	return []object{
		{"name": "http", "containerPort": httpPort, "protocol": "TCP"},
		{"name": "echo", "containerPort": echoPort, "protocol": "TCP"},
		{"name": "echo-udp", "containerPort": echoPort, "protocol": "UDP"},
	}
}

// serviceObject is headless: the lab has no kube-proxy, so an address would lead nowhere.
func serviceObject(app string) object {
	return object{
		"apiVersion": "v1", "kind": "Service",
		"metadata": object{"name": app, "namespace": "default"},
		"spec": object{
			"clusterIP": "None", "selector": object{"app": app},
			"ports": []object{{"name": "http", "port": httpPort, "protocol": "TCP", "targetPort": httpPort}},
		},
	}
}

func sliceObject(app string) object {
	var endpoints []object
	for _, p := range pods {
		if p.app == app {
			endpoints = append(endpoints, object{
				"addresses": []string{p.ip.String()}, "nodeName": p.node,
				"conditions": object{"ready": true},
				"targetRef":  object{"kind": "Pod", "name": p.name, "namespace": "default"},
			})
		}
	}
	return object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata":  object{"name": app + "-lab", "namespace": "default", "labels": object{"kubernetes.io/service-name": app}},
		"endpoints": endpoints,
		"ports":     []object{{"name": "http", "port": httpPort, "protocol": "TCP"}},
	}
}
