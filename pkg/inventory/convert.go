package inventory

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/podtrace/podtrace/pkg/ether"
)

// defaultNamespace is the namespace of an object that names none.
const defaultNamespace = "default"

const maxVNI = 1<<24 - 1 // RFC 7348 section 5

// field is an error about one field; the parser adds the object.
func field(name string, format string, args ...any) error {
	return &ObjectError{Field: name, Err: fmt.Errorf(format, args...)}
}

func annotation(key string) string { return "metadata.annotations[" + key + "]" }

// addr reads an address as the kernel's tables hold it: no zone, no IPv4 in IPv6.
func addr(name, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, field(name, "%q is no IP address", s)
	}
	return a.Unmap(), nil
}

func addrs(name string, list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for i, s := range list {
		a, err := addr(fmt.Sprintf("%s[%d]", name, i), s)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func port(name string, v int32) (uint16, error) {
	if v < 0 || v > math.MaxUint16 {
		return 0, field(name, "%d is no port", v)
	}
	return uint16(v), nil
}

func place(a map[string]string) (Place, error) {
	p := Place{Netns: a[AnnotationNetns]}
	pid, ok := a[AnnotationPID]
	if !ok {
		return p, nil
	}
	if p.Netns != "" {
		return Place{}, field(annotation(AnnotationPID), "stands beside %s: one of them says where the namespace is", AnnotationNetns)
	}
	n, err := strconv.ParseUint(pid, 10, 31)
	if err != nil || n == 0 {
		return Place{}, field(annotation(AnnotationPID), "%q is no process id", pid)
	}
	return Place{PID: int(n)}, nil
}

func node(o *corev1.Node) (Node, error) {
	n := Node{Name: o.Name, Via: o.Annotations[AnnotationVia], Ready: true}
	var err error
	if n.Place, err = place(o.Annotations); err != nil {
		return Node{}, err
	}
	for i, a := range o.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		ip, err := addr(fmt.Sprintf("status.addresses[%d].address", i), a.Address)
		if err != nil {
			return Node{}, err
		}
		n.InternalIPs = append(n.InternalIPs, ip)
	}
	if n.PodCIDRs, err = podCIDRs(o); err != nil {
		return Node{}, err
	}
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.NodeReady {
			n.Ready = c.Status == corev1.ConditionTrue
		}
	}
	if n.Flannel, err = lease(o.Annotations); err != nil {
		return Node{}, err
	}
	if n.Plugin = plugin(o.Annotations); n.Plugin == "calico" && n.Flannel == (Lease{}) {
		n.Flannel, err = calicoLease(o.Annotations)
	}
	return n, err
}

// calicoLease reads what Calico announces of its tunnel. It announces no VNI: one number serves all nodes.
func calicoLease(a map[string]string) (Lease, error) {
	if a[CalicoTunnelAddr] == "" {
		return Lease{}, nil
	}
	l := Lease{BackendType: "vxlan"}
	var err error
	if s, _, _ := strings.Cut(a[CalicoIPv4Address], "/"); s != "" {
		if l.PublicIP, err = addr(annotation(CalicoIPv4Address), s); err != nil {
			return Lease{}, err
		}
	}
	if s := a[CalicoTunnelMAC]; s != "" {
		if l.VtepMAC, err = ether.ParseMAC(s); err != nil {
			return Lease{}, field(annotation(CalicoTunnelMAC), "%q is no MAC address", s)
		}
	}
	return l, nil
}

func host(o *corev1.Node) (Host, error) {
	n, err := node(o)
	return Host{Name: n.Name, IPs: n.InternalIPs, Place: n.Place}, err
}

// plugin tells a node's network plugin by whose annotations it has.
func plugin(a map[string]string) string {
	for _, p := range []struct{ prefix, name string }{
		{"projectcalico.org/", "calico"}, {"network.cilium.io/", "cilium"},
	} {
		for k := range a {
			if strings.HasPrefix(k, p.prefix) {
				return p.name
			}
		}
	}
	return ""
}

func podCIDRs(o *corev1.Node) ([]netip.Prefix, error) {
	list, name := o.Spec.PodCIDRs, "spec.podCIDRs"
	if len(list) == 0 && o.Spec.PodCIDR != "" {
		list, name = []string{o.Spec.PodCIDR}, "spec.podCIDR"
	}
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, field(name, "%q is no address range", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// lease reads flanneld's annotations.
func lease(a map[string]string) (Lease, error) {
	l := Lease{BackendType: a[FlannelBackendType]}
	for _, f := range []struct {
		key string
		to  *netip.Addr
	}{{FlannelPublicIP, &l.PublicIP}, {FlannelPublicIPv6, &l.PublicIPv6}} {
		if s := a[f.key]; s != "" {
			ip, err := addr(annotation(f.key), s)
			if err != nil {
				return Lease{}, err
			}
			*f.to = ip
		}
	}
	v4, err := backendData(a, FlannelBackendData)
	if err != nil {
		return Lease{}, err
	}
	v6, err := backendData(a, FlannelBackendV6Data)
	if err != nil {
		return Lease{}, err
	}
	l.VtepMAC, l.VtepV6MAC, l.VNI = v4.mac, v6.mac, cmp.Or(v4.vni, v6.vni)
	if announced, ok := a[FlannelBackendType]; ok && announced == "" && l.PublicIP.IsValid() {
		l.BackendType = "udp" // the one backend that leaves it empty: flannel's pkg/backend/udp/udp_amd64.go
	}
	return l, nil
}

type backend struct {
	mac ether.MAC
	vni uint32
}

// backendData reads {"VNI":1,"VtepMAC":"…"}; other backends write other JSON, or null.
func backendData(a map[string]string, key string) (backend, error) {
	s := a[key]
	if s == "" {
		return backend{}, nil
	}
	var d struct {
		VNI     *int64
		VtepMAC string
	}
	if err := json.Unmarshal([]byte(s), &d); err != nil {
		return backend{}, field(annotation(key), "%q is not what flannel writes", s)
	}
	var b backend
	if d.VNI != nil {
		if *d.VNI < 0 || *d.VNI > maxVNI {
			return backend{}, field(annotation(key), "VNI %d is not of 24 bits", *d.VNI)
		}
		b.vni = uint32(*d.VNI)
	}
	if d.VtepMAC != "" {
		m, err := ether.ParseMAC(d.VtepMAC)
		if err != nil {
			return backend{}, field(annotation(key), "%w", err)
		}
		b.mac = m
	}
	return b, nil
}

func pod(o *corev1.Pod) (Pod, error) {
	p := Pod{
		Namespace: cmp.Or(o.Namespace, defaultNamespace), Name: o.Name, Node: o.Spec.NodeName,
		HostNetwork: o.Spec.HostNetwork, Phase: string(o.Status.Phase), Labels: o.Labels, Owner: deployment(o), UID: string(o.UID),
	}
	if o.Spec.OS != nil {
		p.OS = string(o.Spec.OS.Name)
	}
	p.Ready = p.Running()
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			p.Ready = c.Status == corev1.ConditionTrue
		}
	}
	var err error
	if p.Place, err = place(o.Annotations); err != nil {
		return Pod{}, err
	}
	if p.IPs, err = podIPs(o); err != nil {
		return Pod{}, err
	}
	for i := range o.Spec.Containers {
		for k, c := range o.Spec.Containers[i].Ports {
			n, err := port(fmt.Sprintf("spec.containers[%d].ports[%d].containerPort", i, k), c.ContainerPort)
			if err != nil {
				return Pod{}, err
			}
			var host uint16
			if c.HostPort != 0 {
				if host, err = port(fmt.Sprintf("spec.containers[%d].ports[%d].hostPort", i, k), c.HostPort); err != nil {
					return Pod{}, err
				}
			}
			p.Ports = append(p.Ports, ContainerPort{Name: c.Name, Port: n, HostPort: host, Proto: cmp.Or(string(c.Protocol), "TCP")})
		}
	}
	return p, nil
}

func podIPs(o *corev1.Pod) ([]netip.Addr, error) {
	var out []netip.Addr
	if o.Status.PodIP != "" {
		a, err := addr("status.podIP", o.Status.PodIP)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	for i, e := range o.Status.PodIPs {
		a, err := addr(fmt.Sprintf("status.podIPs[%d].ip", i), e.IP)
		if err != nil {
			return nil, err
		}
		if len(out) == 0 || a != out[0] {
			out = append(out, a)
		}
	}
	return out, nil
}

// deployment is the Deployment behind the pod's ReplicaSet, whose name is the Deployment's and the
// hash of its pod template.
func deployment(o *corev1.Pod) string {
	for _, r := range o.OwnerReferences {
		if r.Kind != "ReplicaSet" || r.Controller == nil || !*r.Controller {
			continue
		}
		if hash := o.Labels["pod-template-hash"]; hash != "" {
			if name, ok := strings.CutSuffix(r.Name, "-"+hash); ok {
				return name
			}
			return "" // a ReplicaSet of its own
		}
		if i := strings.LastIndexByte(r.Name, '-'); i > 0 {
			return r.Name[:i]
		}
	}
	return ""
}

func service(o *corev1.Service) (Service, error) {
	s := Service{
		Namespace: cmp.Or(o.Namespace, defaultNamespace), Name: o.Name, Type: cmp.Or(string(o.Spec.Type), "ClusterIP"),
		Selector: o.Spec.Selector, ExternalPolicy: string(o.Spec.ExternalTrafficPolicy), SessionAffinity: string(o.Spec.SessionAffinity),
		Headless: o.Spec.ClusterIP == corev1.ClusterIPNone,
	}
	if o.Spec.InternalTrafficPolicy != nil {
		s.InternalPolicy = string(*o.Spec.InternalTrafficPolicy)
	}
	ips := o.Spec.ClusterIPs
	if len(ips) == 0 && o.Spec.ClusterIP != "" {
		ips = []string{o.Spec.ClusterIP}
	}
	if s.Headless {
		ips = nil
	}
	var err, extErr error
	s.ClusterIPs, err = addrs("spec.clusterIPs", ips)
	s.ExternalIPs, extErr = addrs("spec.externalIPs", o.Spec.ExternalIPs)
	if err := cmp.Or(err, extErr); err != nil {
		return Service{}, err
	}
	for i, in := range o.Status.LoadBalancer.Ingress {
		if in.IP == "" {
			continue
		}
		a, err := addr(fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), in.IP)
		if err != nil {
			return Service{}, err
		}
		s.LoadBalancerIPs = append(s.LoadBalancerIPs, a)
	}
	s.Ports, err = servicePorts(o.Spec.Ports)
	return s, err
}

func servicePorts(list []corev1.ServicePort) ([]ServicePort, error) {
	var out []ServicePort
	for i, p := range list {
		name := fmt.Sprintf("spec.ports[%d]", i)
		n, err := port(name+".port", p.Port)
		nodePort, nodeErr := port(name+".nodePort", p.NodePort)
		if err := errors.Join(err, nodeErr); err != nil {
			return nil, err
		}
		out = append(out, ServicePort{
			Name: p.Name, Proto: cmp.Or(string(p.Protocol), "TCP"), Port: n, NodePort: nodePort, Target: p.TargetPort.String(),
		})
	}
	return out, nil
}

func slice(o *discoveryv1.EndpointSlice) (EndpointSlice, error) {
	s := EndpointSlice{
		Namespace: cmp.Or(o.Namespace, defaultNamespace), Name: o.Name, Service: o.Labels[discoveryv1.LabelServiceName],
	}
	for i, p := range o.Ports {
		if p.Port == nil {
			continue // every port, of a headless service without ports
		}
		n, err := port(fmt.Sprintf("ports[%d].port", i), *p.Port)
		if err != nil {
			return EndpointSlice{}, err
		}
		sp := SlicePort{Port: n, Proto: "TCP"}
		if p.Name != nil {
			sp.Name = *p.Name
		}
		if p.Protocol != nil {
			sp.Proto = string(*p.Protocol)
		}
		s.Ports = append(s.Ports, sp)
	}
	if o.AddressType == discoveryv1.AddressTypeFQDN {
		return s, nil
	}
	for i := range o.Endpoints {
		e, err := sliceEndpoint(fmt.Sprintf("endpoints[%d]", i), &o.Endpoints[i])
		if err != nil {
			return EndpointSlice{}, err
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s, nil
}

// sliceEndpoint reads one backend; conditions that are not said are as the API documents them.
func sliceEndpoint(name string, o *discoveryv1.Endpoint) (SliceEndpoint, error) {
	e := SliceEndpoint{Ready: true, Serving: true}
	if c := o.Conditions.Ready; c != nil {
		e.Ready, e.Serving = *c, *c
	}
	if c := o.Conditions.Serving; c != nil {
		e.Serving = *c
	}
	if c := o.Conditions.Terminating; c != nil {
		e.Terminating = *c
	}
	if o.NodeName != nil {
		e.Node = *o.NodeName
	}
	if r := o.TargetRef; r != nil && r.Kind == "Pod" {
		e.Pod = r.Name
	}
	var err error
	e.IPs, err = addrs(name+".addresses", o.Addresses)
	return e, err
}
