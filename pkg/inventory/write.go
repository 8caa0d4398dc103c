package inventory

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/podtrace/podtrace/pkg/ether"
)

// Marshal gives the objects as a List in YAML with the fields that podtrace uses and no others. Parse reads the
// same inventory from it, but for Notes: what was left out is not in it.
func Marshal(inv *Inventory) ([]byte, error) {
	items := []any{}
	for i := range inv.Nodes {
		items = append(items, nodeObject(&inv.Nodes[i]))
	}
	for i := range inv.Hosts {
		items = append(items, hostObject(&inv.Hosts[i]))
	}
	for i := range inv.Pods {
		items = append(items, podObject(&inv.Pods[i]))
	}
	for i := range inv.Services {
		items = append(items, serviceObject(&inv.Services[i]))
	}
	for i := range inv.EndpointSlices {
		items = append(items, sliceObject(&inv.EndpointSlices[i]))
	}
	return yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
}

func typed(version, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: version, Kind: kind}
}

// set adds an annotation unless it is empty.
func set(to *map[string]string, key, value string) {
	if value == "" {
		return
	}
	if *to == nil {
		*to = make(map[string]string)
	}
	(*to)[key] = value
}

func setPlace(to *map[string]string, p Place) {
	set(to, AnnotationNetns, p.Netns)
	if p.PID != 0 {
		set(to, AnnotationPID, strconv.Itoa(p.PID))
	}
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func texts[T interface{ String() string }](list []T) (out []string) {
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

// pluginKeys are annotations by which a network plugin is known, of which no other value is read.
var pluginKeys = map[string]string{"calico": "projectcalico.org/podtrace", "cilium": "network.cilium.io/podtrace"}

func nodeObject(n *Node) *corev1.Node {
	o := &corev1.Node{TypeMeta: typed("v1", "Node"), ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	a := &o.Annotations
	setPlace(a, n.Place)
	set(a, AnnotationVia, n.Via)
	if key := pluginKeys[n.Plugin]; key != "" {
		set(a, key, "true") // that it is there tells the plugin; what it says is written as flannel's below
	}
	l := n.Flannel
	set(a, FlannelBackendType, l.BackendType)
	set(a, FlannelPublicIP, text(l.PublicIP))
	set(a, FlannelPublicIPv6, text(l.PublicIPv6))
	set(a, FlannelBackendData, leaseData(l.VtepMAC, l.VNI))
	if !l.VtepV6MAC.IsZero() {
		set(a, FlannelBackendV6Data, leaseData(l.VtepV6MAC, 0))
	}
	o.Spec.PodCIDRs = texts(n.PodCIDRs)
	o.Status.Addresses = addresses(n.InternalIPs)
	if !n.Ready {
		o.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}
	}
	return o
}

func addresses(ips []netip.Addr) (out []corev1.NodeAddress) {
	for _, ip := range ips {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	return out
}

// hostObject is written as a Node is.
func hostObject(h *Host) *corev1.Node {
	o := &corev1.Node{TypeMeta: typed("podtrace.dev/v1", "Host"), ObjectMeta: metav1.ObjectMeta{Name: h.Name}}
	setPlace(&o.Annotations, h.Place)
	o.Status.Addresses = addresses(h.IPs)
	return o
}

// leaseData is what flanneld writes; "" for nothing.
func leaseData(mac ether.MAC, vni uint32) string {
	if mac.IsZero() && vni == 0 {
		return ""
	}
	b, _ := json.Marshal(struct { // two plain values
		VNI     uint32    `json:",omitempty"`
		VtepMAC ether.MAC `json:",omitzero"`
	}{vni, mac})
	return string(b)
}

func podObject(p *Pod) *corev1.Pod {
	o := &corev1.Pod{TypeMeta: typed("v1", "Pod"), ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels}}
	setPlace(&o.Annotations, p.Place)
	o.UID = types.UID(p.UID)
	if p.Owner != "" {
		yes := true
		o.OwnerReferences = []metav1.OwnerReference{{
			Kind: "ReplicaSet", Name: p.Owner + "-" + cmp.Or(p.Labels["pod-template-hash"], "0"), Controller: &yes,
		}}
	}
	o.Spec.NodeName, o.Spec.HostNetwork = p.Node, p.HostNetwork
	if p.OS != "" {
		o.Spec.OS = &corev1.PodOS{Name: corev1.OSName(p.OS)}
	}
	if len(p.Ports) > 0 {
		c := corev1.Container{}
		for _, t := range p.Ports {
			c.Ports = append(c.Ports, corev1.ContainerPort{
				Name: t.Name, ContainerPort: int32(t.Port), HostPort: int32(t.HostPort), Protocol: corev1.Protocol(t.Proto),
			})
		}
		o.Spec.Containers = []corev1.Container{c}
	}
	o.Status.Phase = corev1.PodPhase(p.Phase)
	for i, ip := range p.IPs {
		if i == 0 {
			o.Status.PodIP = ip.String()
		}
		o.Status.PodIPs = append(o.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	if p.Ready != p.Running() {
		o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: condition(p.Ready)}}
	}
	return o
}

func condition(v bool) corev1.ConditionStatus {
	if v {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func serviceObject(s *Service) *corev1.Service {
	o := &corev1.Service{TypeMeta: typed("v1", "Service"), ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}}
	o.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceType(s.Type), ClusterIPs: texts(s.ClusterIPs), ExternalIPs: texts(s.ExternalIPs), Selector: s.Selector,
		ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicy(s.ExternalPolicy), SessionAffinity: corev1.ServiceAffinity(s.SessionAffinity),
	}
	if s.InternalPolicy != "" {
		v := corev1.ServiceInternalTrafficPolicy(s.InternalPolicy)
		o.Spec.InternalTrafficPolicy = &v
	}
	if s.Headless {
		o.Spec.ClusterIP = corev1.ClusterIPNone
	}
	for _, ip := range s.LoadBalancerIPs {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip.String()})
	}
	for _, p := range s.Ports {
		o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{
			Name: p.Name, Protocol: corev1.Protocol(p.Proto), Port: int32(p.Port), NodePort: int32(p.NodePort), TargetPort: intstr.Parse(p.Target),
		})
	}
	return o
}

func sliceObject(s *EndpointSlice) *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{
		TypeMeta:   typed("discovery.k8s.io/v1", "EndpointSlice"),
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}, AddressType: discoveryv1.AddressTypeIPv4,
	}
	set(&o.Labels, discoveryv1.LabelServiceName, s.Service)
	for i := range s.Ports {
		p := &s.Ports[i]
		number, proto := int32(p.Port), corev1.Protocol(p.Proto)
		o.Ports = append(o.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &number, Protocol: &proto})
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		d := discoveryv1.Endpoint{
			Addresses:  texts(e.IPs),
			Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating},
		}
		if len(e.IPs) > 0 && e.IPs[0].Is6() {
			o.AddressType = discoveryv1.AddressTypeIPv6
		}
		if e.Node != "" {
			d.NodeName = &e.Node
		}
		if e.Pod != "" {
			d.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: e.Pod}
		}
		o.Endpoints = append(o.Endpoints, d)
	}
	return o
}
