// Package kube lets a trace use a cluster: Load asks the API server for the few objects that a path is about, and
// Agents runs one short-lived pod on each of its nodes and talks to it over an exec stream. Kubernetes is all the
// engine there is: it schedules, authenticates, isolates and cleans up.
package kube

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/resolve"
)

// pageSize bounds what one answer of the API server holds.
const pageSize = 500

// Objects is what a cluster says of a path.
type Objects struct {
	*inventory.Inventory
	// Notes are what should be known about the endpoints and is no fault.
	Notes []string
	// NotReady says of nodes why the control plane takes them for not ready.
	NotReady map[string]string
}

// Load fetches the objects that the endpoints need, and no list of everything: each endpoint by its name or by a field
// selector, then the nodes that they are on. Whatever the cluster's size, it is a handful of requests.
func Load(ctx context.Context, c *Client, namespace string, args ...string) (*Objects, error) {
	l := &loader{
		client: c, namespace: cmp.Or(namespace, metav1.NamespaceDefault), nodes: make(map[string]bool),
		out: &Objects{Inventory: &inventory.Inventory{}, NotReady: make(map[string]string)},
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, arg := range args {
		g.Go(func() error { return l.endpoint(gctx, arg) })
	}
	if err := g.Wait(); err != nil {
		return nil, explain(err)
	}
	if err := l.loadNodes(ctx); err != nil {
		return nil, explain(err)
	}
	slices.Sort(l.out.Notes)
	return l.out, nil
}

// loader gathers objects. Endpoints are asked for side by side.
type loader struct {
	client    *Client
	namespace string

	mu    sync.Mutex
	out   *Objects
	nodes map[string]bool // that are needed
}

func (l *loader) add(objects ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Add(objects...)
}

func (l *loader) need(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if node != "" {
		l.nodes[node] = true
	}
}

// endpoint fetches what one argument stands for; its forms are those of inventory.Lookup, which finds it again.
func (l *loader) endpoint(ctx context.Context, arg string) error {
	if ip, err := netip.ParseAddr(arg); err == nil && ip.Zone() == "" {
		return l.address(ctx, ip.Unmap(), 0)
	}
	if a, err := netip.ParseAddrPort(arg); err == nil && a.Addr().Zone() == "" {
		return l.address(ctx, a.Addr().Unmap(), a.Port())
	}
	kind, name, slashed := strings.Cut(arg, "/")
	if !slashed {
		return l.pod(ctx, l.namespace, arg)
	}
	if name == "" || kind == "" || strings.Contains(name, "/") {
		return nil // Lookup says what is wrong with it
	}
	switch kind {
	case "pod", "pods", "po":
		return l.pod(ctx, l.namespace, name)
	case "deploy", "deployment", "deployments":
		return l.deployment(ctx, name)
	case "svc", "service", "services":
		name, _, _ = strings.Cut(name, ":")
		return l.service(ctx, l.namespace, name)
	case "node", "nodes", "no":
		name, port, hasPort := strings.Cut(name, ":")
		l.need(name)
		if n, err := strconv.ParseUint(port, 10, 16); hasPort && err == nil {
			return l.nodePort(ctx, name, uint16(n))
		}
		return nil
	default:
		return l.pod(ctx, kind, name)
	}
}

func (l *loader) pod(ctx context.Context, namespace, name string) error {
	p, err := get(ctx, l.client, podKind, namespace, name)
	if apierrors.IsNotFound(err) {
		return &inventory.NotFoundError{Arg: name, Kind: "pod", Namespace: namespace, Close: l.elsewhere(ctx, name)}
	}
	if err != nil {
		return err
	}
	return l.take(ctx, p)
}

// elsewhere finds pods of that name in other namespaces, if that is permitted.
func (l *loader) elsewhere(ctx context.Context, name string) (out []string) {
	const few = 3
	found, err := list(ctx, l.client, podKind, metav1.NamespaceAll, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(), Limit: few,
	})
	if err != nil {
		return nil
	}
	for i := range found.Items {
		if found.Items[i].Name == name && len(out) < few {
			out = append(out, found.Items[i].Namespace+"/"+name)
		}
	}
	return out
}

// take adds a pod that is an endpoint, and others that have its address, for two of them are a fault.
func (l *loader) take(ctx context.Context, p *corev1.Pod) error {
	if err := traceable(p); err != nil {
		return err
	}
	if note := interfaces(p); note != "" {
		l.mu.Lock()
		l.out.Notes = append(l.out.Notes, note)
		l.mu.Unlock()
	}
	l.need(p.Spec.NodeName)
	if err := l.add(p); err != nil {
		return err
	}
	if p.Spec.HostNetwork || p.Status.PodIP == "" {
		return nil
	}
	others, err := l.podsWithIP(ctx, p.Status.PodIP)
	if err != nil {
		return nil //nolint:nilerr // without the right to look further there is one witness less
	}
	for _, o := range others {
		if !o.Spec.HostNetwork && o.Spec.NodeName == p.Spec.NodeName && o.Status.Phase == corev1.PodRunning {
			if err := l.add(o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loader) podsWithIP(ctx context.Context, ip string) ([]*corev1.Pod, error) {
	const few = 20
	found, err := list(ctx, l.client, podKind, metav1.NamespaceAll, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("status.podIP", ip).String(), Limit: few,
	})
	if err != nil {
		return nil, err
	}
	var out []*corev1.Pod
	for i := range found.Items {
		if p := &found.Items[i]; p.Status.PodIP == ip {
			out = append(out, p)
		}
	}
	return out, nil
}

// deployment takes the first ready pod of it, page by page: of five hundred, one is enough.
func (l *loader) deployment(ctx context.Context, name string) error {
	d, err := get(ctx, l.client, deploymentKind, l.namespace, name)
	if apierrors.IsNotFound(err) {
		return &inventory.NotFoundError{Arg: name, Kind: "deployment", Namespace: l.namespace}
	}
	if err != nil {
		return err
	}
	sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return fmt.Errorf("deployment %q: %w", name, err)
	}
	const page = 50
	o := metav1.ListOptions{LabelSelector: sel.String(), Limit: page}
	for {
		found, err := list(ctx, l.client, podKind, l.namespace, o)
		if err != nil {
			return err
		}
		for i := range found.Items {
			if p := &found.Items[i]; ready(p) && traceable(p) == nil {
				return l.take(ctx, p)
			}
		}
		if o.Continue = found.Continue; o.Continue == "" {
			return nil // Lookup says that none is ready
		}
	}
}

// service adds a service and the endpoints behind it that are looked at.
func (l *loader) service(ctx context.Context, namespace, name string) error {
	s, err := get(ctx, l.client, serviceKind, namespace, name)
	if apierrors.IsNotFound(err) {
		return &inventory.NotFoundError{Arg: name, Kind: "service", Namespace: namespace}
	}
	if err != nil {
		return err
	}
	return l.behind(ctx, s)
}

func (l *loader) behind(ctx context.Context, s *corev1.Service) error {
	if err := l.add(s); err != nil {
		return err
	}
	pods := make(map[netip.Addr]string) // by address: NAMESPACE/NAME
	o := metav1.ListOptions{LabelSelector: labels.Set{discoveryv1.LabelServiceName: s.Name}.String(), Limit: pageSize}
	own := &inventory.Inventory{}
	if err := own.Add(s); err != nil {
		return err
	}
	for {
		found, err := list(ctx, l.client, sliceKind, s.Namespace, o)
		if err != nil {
			return err
		}
		for i := range found.Items {
			es := &found.Items[i]
			if err := own.Add(es); err != nil {
				return err
			}
			if err := l.add(es); err != nil {
				return err
			}
			podNames(pods, es)
		}
		if o.Continue = found.Continue; o.Continue == "" {
			break
		}
	}
	var g errgroup.Group
	g.SetLimit(8)
	seen := make(map[netip.Addr]bool)
	for i := range own.Services[0].Ports {
		for _, b := range resolve.Near(own.Backends(&own.Services[0], &own.Services[0].Ports[i])) {
			l.need(b.Node)
			if name := pods[b.IP]; name != "" && !seen[b.IP] {
				seen[b.IP] = true
				g.Go(func() error { return l.backend(ctx, name) })
			}
		}
	}
	return g.Wait()
}

func podNames(to map[netip.Addr]string, es *discoveryv1.EndpointSlice) {
	for _, e := range es.Endpoints {
		if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
			continue
		}
		for _, a := range e.Addresses {
			if ip, err := netip.ParseAddr(a); err == nil {
				to[ip.Unmap()] = cmp.Or(e.TargetRef.Namespace, es.Namespace) + "/" + e.TargetRef.Name
			}
		}
	}
}

// backend adds a pod behind a service. One that is gone meanwhile is none any more.
func (l *loader) backend(ctx context.Context, key string) error {
	namespace, name, _ := strings.Cut(key, "/")
	p, err := get(ctx, l.client, podKind, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	l.need(p.Spec.NodeName)
	return l.add(p)
}

// address finds whose an address is: a pod's, a service's, a node's, or nobody's, which is an endpoint too.
func (l *loader) address(ctx context.Context, ip netip.Addr, port uint16) error {
	pods, err := l.podsWithIP(ctx, ip.String())
	if err != nil {
		return err
	}
	host := ""
	for _, p := range pods {
		if p.Spec.HostNetwork {
			host = p.Spec.NodeName
			continue
		}
		if p.Status.Phase == corev1.PodRunning {
			return l.take(ctx, p)
		}
	}
	if host != "" {
		l.need(host)
	} else {
		s, err := l.serviceWithIP(ctx, ip)
		if err != nil {
			return err
		}
		if s != nil {
			return l.behind(ctx, s)
		}
		if host, err = l.nodeWithIP(ctx, ip); err != nil {
			return err
		}
	}
	if port != 0 {
		return l.nodePort(ctx, host, port)
	}
	return nil
}

func (l *loader) serviceWithIP(ctx context.Context, ip netip.Addr) (*corev1.Service, error) {
	found, err := list(ctx, l.client, serviceKind, metav1.NamespaceAll, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.clusterIP", ip.String()).String(), Limit: 2,
	})
	if err != nil {
		return nil, err
	}
	for i := range found.Items {
		if found.Items[i].Spec.ClusterIP == ip.String() {
			return &found.Items[i], nil
		}
	}
	return nil, nil
}

// nodeWithIP looks through the nodes page by page, for no selector finds one by its address.
func (l *loader) nodeWithIP(ctx context.Context, ip netip.Addr) (name string, err error) {
	o := metav1.ListOptions{Limit: pageSize}
	for {
		found, err := list(ctx, l.client, nodeKind, "", o)
		if err != nil {
			return "", err
		}
		for i := range found.Items {
			for _, a := range found.Items[i].Status.Addresses {
				if got, err := netip.ParseAddr(a.Address); err == nil && got.Unmap() == ip {
					l.need(found.Items[i].Name)
					return found.Items[i].Name, nil
				}
			}
		}
		if o.Continue = found.Continue; o.Continue == "" {
			return "", nil
		}
	}
}

// nodePort adds the service that has a node port, or else the pod whose hostPort it is on that node.
func (l *loader) nodePort(ctx context.Context, node string, port uint16) error {
	for _, typ := range []corev1.ServiceType{corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer} {
		o := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.type", string(typ)).String(), Limit: pageSize}
		for {
			found, err := list(ctx, l.client, serviceKind, metav1.NamespaceAll, o)
			if err != nil {
				return err
			}
			for i := range found.Items {
				if has := func(p corev1.ServicePort) bool { return p.NodePort == int32(port) }; slices.ContainsFunc(found.Items[i].Spec.Ports, has) {
					return l.behind(ctx, &found.Items[i])
				}
			}
			if o.Continue = found.Continue; o.Continue == "" {
				break
			}
		}
	}
	if node == "" {
		return nil
	}
	return l.hostPort(ctx, node, port)
}

func (l *loader) hostPort(ctx context.Context, node string, port uint16) error {
	o := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(), Limit: pageSize}
	for {
		found, err := list(ctx, l.client, podKind, metav1.NamespaceAll, o)
		if err != nil {
			return err
		}
		for i := range found.Items {
			if p := &found.Items[i]; p.Spec.NodeName == node && !p.Spec.HostNetwork && p.Status.Phase == corev1.PodRunning && hasHostPort(p, port) {
				return l.add(p)
			}
		}
		if o.Continue = found.Continue; o.Continue == "" {
			return nil
		}
	}
}

func hasHostPort(p *corev1.Pod, port uint16) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.HostPort == int32(port) })
	})
}

// loadNodes fetches the nodes that endpoints are on.
func (l *loader) loadNodes(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for name := range l.nodes {
		g.Go(func() error {
			n, err := get(ctx, l.client, nodeKind, "", name)
			if apierrors.IsNotFound(err) {
				return &inventory.NotFoundError{Arg: name, Kind: "node"}
			}
			if err != nil {
				return err
			}
			if n.Labels[corev1.LabelOSStable] == "windows" {
				return &Error{
					Msg:  fmt.Sprintf("node %q runs Windows, where there are no network namespaces and no tables of Linux", name),
					hint: "podtrace can trace to it from a Linux pod by address alone: use the pod's IP address with --probe tcp:PORT",
				}
			}
			if why := notReady(n); why != "" {
				l.mu.Lock()
				l.out.NotReady[name] = why
				l.mu.Unlock()
			}
			return l.add(n)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	slices.SortFunc(l.out.Nodes, func(a, b inventory.Node) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

// notReady says why a node is not ready, "" when it is.
func notReady(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return strings.TrimSpace(fmt.Sprintf("%s: %s", c.Reason, c.Message))
		}
	}
	return ""
}
