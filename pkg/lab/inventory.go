package lab

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Annotations of an inventory: where an object's namespace is on this machine, and what the network
// plugin announces of a node.
const (
	annotationNetns = "podtrace.dev/netns"
	flannelPrefix   = "flannel.alpha.coreos.com/"
	calicoPrefix    = "projectcalico.org/"
	ciliumPrefix    = "network.cilium.io/"
)

// object is a Kubernetes object, or part of one, as it is written in YAML.
type object map[string]any

// inventory is the lab as kubectl would print it. The leases that the lab does not run are left out:
// a Node without the netns annotation would be this machine itself, which they are not.
func (c *cluster) inventory(o Options) ([]byte, error) {
	var items []object
	for _, n := range c.nodes {
		items = append(items, c.nodeObject(o, n))
	}
	for _, p := range c.pods {
		items = append(items, c.podObject(o, p))
	}
	if c.hasClient() {
		items = append(items, c.clientObject(o))
	}
	perFamily := [][]service{}
	for _, is6 := range c.families() {
		perFamily = append(perFamily, c.servicesOf(is6))
	}
	for i, s := range perFamily[0] {
		var ips []string
		for _, services := range perFamily {
			if ip := services[i].clusterIP; ip.IsValid() {
				ips = append(ips, ip.String())
			}
		}
		items = append(items, serviceObject(s, ips))
		for _, services := range perFamily {
			items = append(items, c.sliceObject(services[i]))
		}
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	err := enc.Encode(object{"apiVersion": "v1", "kind": "List", "items": items})
	return out.Bytes(), err
}

// servicesOf are those of kube-proxy as a family sees them; without it headless ones, as an address would lead nowhere.
func (c *cluster) servicesOf(is6 bool) []service {
	if c.spec.Services != "" {
		return c.seedServices(is6)
	}
	services := []service{{name: "coffee", app: "coffee"}, {name: "tea", app: "tea"}}
	for i := range services {
		services[i].ports = []servicePort{{name: "http", proto: "tcp", port: httpPort, target: httpPort}}
		for _, p := range c.pods {
			if p.app == services[i].app {
				services[i].endpoints = append(services[i].endpoints, endpoint{of(p.ips, is6), p.node})
			}
		}
	}
	return services
}

func (c *cluster) nodeObject(o Options, n node) object {
	annotations := c.announce(n)
	annotations[annotationNetns] = o.netnsPath(n.name)
	var addresses []object
	for _, ip := range n.ips {
		addresses = append(addresses, object{"type": "InternalIP", "address": ip.String()})
	}
	if n.public.IsValid() {
		addresses = append(addresses, object{"type": "ExternalIP", "address": n.public.String()})
	}
	spec := object{}
	if len(n.podCIDRs) > 0 {
		spec = object{"podCIDR": n.podCIDR().String(), "podCIDRs": texts(n.podCIDRs)}
	}
	return object{
		"apiVersion": "v1", "kind": "Node",
		"metadata": object{
			"name":        n.name,
			"labels":      object{"kubernetes.io/hostname": n.name, "kubernetes.io/os": "linux"},
			"annotations": annotations,
		},
		"spec": spec,
		"status": object{
			"addresses":  append(addresses, object{"type": "Hostname", "address": n.name}),
			"conditions": []object{{"type": "Ready", "status": "True"}},
		},
	}
}

// clientObject is the machine outside of the cluster: podtrace's own kind, for Kubernetes has none.
func (c *cluster) clientObject(o Options) object {
	var addresses []object
	for _, p := range c.clientPrefixes() {
		addresses = append(addresses, object{"type": "InternalIP", "address": p.Addr().String()})
	}
	return object{
		"apiVersion": "podtrace.dev/v1", "kind": "Host",
		"metadata": object{"name": clientName, "annotations": object{annotationNetns: o.netnsPath(clientName)}},
		"status":   object{"addresses": addresses},
	}
}

// announce gives the annotations that the network plugin puts on its node.
func (c *cluster) announce(n node) object {
	switch c.spec.Datapath {
	case CalicoVXLAN:
		return object{
			calicoPrefix + "IPv4Address":         netip.PrefixFrom(n.ip(), n.lan.Bits()).String(),
			calicoPrefix + "IPv4VXLANTunnelAddr": n.vtep(false).String(),
			calicoPrefix + "VXLANTunnelMACAddr":  n.vtepMAC,
		}
	case CiliumENI:
		return object{ciliumPrefix + "ipv4-cilium-host": n.eni.router.String()}
	case Kind: // kindnetd announces nothing
		return object{}
	}
	return c.announceFlannel(n)
}

// announceFlannel is what flanneld's kube subnet manager writes: data of the backend is "null" where it
// has none, and left out for a family that is off.
func (c *cluster) announceFlannel(n node) object {
	a := object{flannelPrefix + "backend-type": "vxlan", flannelPrefix + "kube-subnet-manager": "true"}
	switch c.spec.Datapath {
	case FlannelHostGW, FlannelUDP:
		a[flannelPrefix+"backend-type"] = "host-gw"
		if c.spec.Datapath == FlannelUDP {
			a[flannelPrefix+"backend-type"] = "" // its lease does not say (flannel's pkg/backend/udp/udp_amd64.go)
		}
		a[flannelPrefix+"backend-data"] = "null"
	default:
		for _, is6 := range c.families() {
			key := flannelPrefix + "backend-data"
			if is6 {
				key = flannelPrefix + "backend-v6-data"
			}
			a[key] = fmt.Sprintf(`{"VNI":%d,"VtepMAC":%q}`, c.spec.VNI, n.mac(is6))
		}
	}
	if c.v4 {
		a[flannelPrefix+"public-ip"] = n.announced(false).String()
	}
	if c.v6 {
		a[flannelPrefix+"public-ipv6"] = n.announced(true).String()
	}
	if n.public.IsValid() { // what an administrator sets, for flanneld to take it over
		a[flannelPrefix+"public-ip-overwrite"] = n.public.String()
	}
	return a
}

func texts(list []netip.Prefix) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return out
}

func (c *cluster) podObject(o Options, p pod) object {
	var ips []object
	for _, ip := range p.ips {
		ips = append(ips, object{"ip": ip.String()})
	}
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
			"phase": "Running", "hostIP": c.nodeOf(p).ip().String(), "podIP": p.ip().String(), "podIPs": ips,
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

func serviceObject(s service, ips []string) object {
	var ports []object
	for _, p := range s.ports {
		port := object{"name": p.name, "port": p.port, "protocol": strings.ToUpper(p.proto), "targetPort": p.target}
		if p.nodePort != 0 {
			port["nodePort"] = p.nodePort
		}
		ports = append(ports, port)
	}
	spec := object{"clusterIP": "None", "ports": ports}
	if s.app != "" {
		spec["selector"] = object{"app": s.app}
	}
	if len(ips) > 0 {
		spec["clusterIP"], spec["clusterIPs"] = ips[0], ips
	}
	if s.nodePorts() {
		spec["type"], spec["externalTrafficPolicy"] = "NodePort", "Cluster"
		if s.local {
			spec["externalTrafficPolicy"] = "Local"
		}
	}
	if s.affinity != 0 {
		spec["sessionAffinity"] = "ClientIP"
		spec["sessionAffinityConfig"] = object{"clientIP": object{"timeoutSeconds": s.affinity}}
	}
	return object{
		"apiVersion": "v1", "kind": "Service",
		"metadata": object{"name": s.name, "namespace": "default"},
		"spec":     spec,
	}
}

func (c *cluster) sliceObject(s service) object {
	family, name := "IPv4", s.name+"-lab"
	var endpoints, ports []object
	for _, e := range s.endpoints {
		i := slices.IndexFunc(c.pods, func(p pod) bool { return slices.Contains(p.ips, e.ip) })
		endpoints = append(endpoints, object{
			"addresses": []string{e.ip.String()}, "nodeName": e.node,
			"conditions": object{"ready": true},
			"targetRef":  object{"kind": "Pod", "name": c.pods[i].name, "namespace": "default"},
		})
		if e.ip.Is6() {
			family = "IPv6"
		}
	}
	if s.clusterIP.Is6() {
		family = "IPv6"
	}
	if c.v4 && family == "IPv6" { // beside that of IPv4
		name += "6"
	}
	for _, p := range s.ports {
		ports = append(ports, object{"name": p.name, "port": p.target, "protocol": strings.ToUpper(p.proto)})
	}
	return object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
		"metadata":  object{"name": name, "namespace": "default", "labels": object{"kubernetes.io/service-name": s.name}},
		"endpoints": endpoints,
		"ports":     ports,
	}
}
