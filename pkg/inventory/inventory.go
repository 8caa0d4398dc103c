// Package inventory reads what the control plane meant: Node, Pod, Service and EndpointSlice objects
// from a file, as kubectl prints them, and finds the endpoints that a person names in them.
//
// It keeps the few fields that bear on a packet's path, as values of its own; what flanneld announces
// about a node comes from its annotations. It asks no API server and no kernel, and judges nothing.
package inventory

import (
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/ether"
)

// Annotations that say where the namespaces of objects are on this machine.
const (
	AnnotationNetns = "podtrace.dev/netns" // of Node, Pod: path of a network namespace
	AnnotationPID   = "podtrace.dev/pid"   // of Node, Pod: a process in it, instead of the path
	AnnotationVia   = "podtrace.dev/via"   // of Node: how to reach one that is not on this machine
)

// Annotations of flanneld on a Node (the lease that it announces).
const (
	FlannelBackendType   = "flannel.alpha.coreos.com/backend-type"
	FlannelBackendData   = "flannel.alpha.coreos.com/backend-data"
	FlannelBackendV6Data = "flannel.alpha.coreos.com/backend-v6-data"
	FlannelPublicIP      = "flannel.alpha.coreos.com/public-ip"
	FlannelPublicIPv6    = "flannel.alpha.coreos.com/public-ipv6"
)

// Inventory holds the objects of a cluster in the order of the file.
type Inventory struct {
	Nodes          []Node
	Pods           []Pod
	Services       []Service
	EndpointSlices []EndpointSlice
	Hosts          []Host
	// Notes says what was left out: objects of kinds that podtrace does not read, one line a kind.
	Notes []string
}

// Place is where an object's network namespace is. At most one of Netns and PID is set.
type Place struct {
	Netns string // path of a namespace, "" when not said
	PID   int    // a process in it, 0 when not said
}

// IsZero reports whether the object does not say.
func (p Place) IsZero() bool { return p == Place{} }

// Node is a machine of the cluster.
type Node struct {
	Name        string
	InternalIPs []netip.Addr // status.addresses of type InternalIP, in order
	PodCIDRs    []netip.Prefix
	Flannel     Lease  // also of Calico, whose tunnels are announced by other names
	Plugin      string // the network plugin other than flannel that annotates it: "calico", "cilium"; "" else
	Place
	Via   string // AnnotationVia as it stands
	Ready bool   // condition Ready; true where there are no conditions
}

// Network is the network plugin that speaks of the node, "" when none does.
func (n *Node) Network() string {
	if n.Plugin == "" && n.Flannel.BackendType != "" {
		return "flannel"
	}
	return n.Plugin
}

// Host is a machine outside of the cluster. Kubernetes has no object for one; podtrace reads "kind: Host" of
// its own, which is written as a Node is.
type Host struct {
	Name string
	IPs  []netip.Addr
	Place
}

// Annotations of Calico on a Node whose pods are reached by VXLAN.
const (
	CalicoIPv4Address = "projectcalico.org/IPv4Address" // with or without the length of its subnet
	CalicoTunnelAddr  = "projectcalico.org/IPv4VXLANTunnelAddr"
	CalicoTunnelMAC   = "projectcalico.org/VXLANTunnelMACAddr"
)

// Lease is what flanneld announces about its node; the zero value is "nothing announced".
type Lease struct {
	BackendType string     // "vxlan", "host-gw", "wireguard", …; "udp" where flanneld left it empty
	PublicIP    netip.Addr // where the node's tunnel ends; invalid when not announced
	PublicIPv6  netip.Addr
	VtepMAC     ether.MAC // of the vxlan device; zero when not announced
	VtepV6MAC   ether.MAC
	VNI         uint32 // 24 bits; 0 when not announced
}

// Pod is a pod that has been scheduled or not.
type Pod struct {
	Namespace, Name string
	Node            string       // spec.nodeName; "" before it is scheduled
	IPs             []netip.Addr // status.podIPs, the primary one first
	HostNetwork     bool         // shares its node's namespace: no interface of its own
	Phase           string       // "Pending", "Running", "Succeeded", "Failed", "" when not said
	Ready           bool         // condition Ready; Phase decides where there are no conditions
	Labels          map[string]string
	Owner           string // name of the Deployment behind its ReplicaSet; "" for other owners
	Place
	Ports []ContainerPort
	OS    string // spec.os.name; "" when not said
	UID   string
}

// Running reports whether the pod has a network namespace, as far as its phase says.
func (p *Pod) Running() bool { return p.Phase == "Running" || p.Phase == "" }

// Key gives "NAMESPACE/NAME", which is also the name of its namespace in a snapshot.
func (p *Pod) Key() string { return p.Namespace + "/" + p.Name }

// ContainerPort is a port that a container declares.
type ContainerPort struct {
	Name     string
	Port     uint16
	HostPort uint16 // of the pod's node, which leads to Port; 0: none
	Proto    string // "TCP", "UDP", "SCTP"
}

// Service is a service.
type Service struct {
	Namespace, Name string
	Type            string       // "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"
	ClusterIPs      []netip.Addr // none for a headless one
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	Headless        bool
	Ports           []ServicePort
	Selector        map[string]string
	InternalPolicy  string // internalTrafficPolicy: "Cluster", "Local"
	ExternalPolicy  string // externalTrafficPolicy
	SessionAffinity string // "None", "ClientIP"
}

// ServicePort is one port of a service.
type ServicePort struct {
	Name     string
	Proto    string
	Port     uint16
	NodePort uint16 // 0: none
	Target   string // targetPort, a number or a container port's name
}

// EndpointSlice is a part of the endpoints behind a service.
type EndpointSlice struct {
	Namespace, Name string
	Service         string // label kubernetes.io/service-name
	Ports           []SlicePort
	Endpoints       []SliceEndpoint
}

// SlicePort is a port of every endpoint of a slice.
type SlicePort struct {
	Name  string
	Proto string
	Port  uint16
}

// SliceEndpoint is one backend.
type SliceEndpoint struct {
	IPs         []netip.Addr
	Ready       bool
	Serving     bool
	Terminating bool
	Node        string
	Pod         string // name of the pod in the slice's namespace; "" for others
}

// Node returns the node of that name, nil when there is none.
func (inv *Inventory) Node(name string) *Node {
	for i := range inv.Nodes {
		if inv.Nodes[i].Name == name {
			return &inv.Nodes[i]
		}
	}
	return nil
}

// Pod returns the pod of that name, nil when there is none.
func (inv *Inventory) Pod(namespace, name string) *Pod {
	for i := range inv.Pods {
		if p := &inv.Pods[i]; p.Namespace == namespace && p.Name == name {
			return p
		}
	}
	return nil
}

// Service returns the service of that name, nil when there is none.
func (inv *Inventory) Service(namespace, name string) *Service {
	for i := range inv.Services {
		if s := &inv.Services[i]; s.Namespace == namespace && s.Name == name {
			return s
		}
	}
	return nil
}

// PodByIP returns the pod whose own address ip is: not one that has ended, whose address may be
// another's by now, nor one that uses its node's address.
func (inv *Inventory) PodByIP(ip netip.Addr) *Pod {
	for i := range inv.Pods {
		p := &inv.Pods[i]
		if p.HostNetwork || p.Phase == "Succeeded" || p.Phase == "Failed" {
			continue
		}
		if slices.Contains(p.IPs, ip) {
			return p
		}
	}
	return nil
}

// NodeByIP returns the node that has ip as an internal address or announces it as its tunnel's end.
func (inv *Inventory) NodeByIP(ip netip.Addr) *Node {
	for i := range inv.Nodes {
		n := &inv.Nodes[i]
		if ip == n.Flannel.PublicIP || ip == n.Flannel.PublicIPv6 || slices.Contains(n.InternalIPs, ip) {
			return n
		}
	}
	return nil
}

// NodeByPodIP returns the node whose pod range holds ip, the longest where they nest.
func (inv *Inventory) NodeByPodIP(ip netip.Addr) *Node {
	var best *Node
	bits := -1
	for i := range inv.Nodes {
		for _, c := range inv.Nodes[i].PodCIDRs {
			if c.Contains(ip) && c.Bits() > bits {
				best, bits = &inv.Nodes[i], c.Bits()
			}
		}
	}
	return best
}
