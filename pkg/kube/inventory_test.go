package kube

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/podtrace/podtrace/pkg/inventory"
)

func nodeObj(name, ip string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			inventory.FlannelBackendType: "vxlan", inventory.FlannelPublicIP: ip, inventory.AnnotationNetns: "/run/netns/evil",
		}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func podObj(name, node, ip string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "0f6b2b6e-0000-4000-8000-000000000001", Annotations: map[string]string{inventory.AnnotationPID: "1"}},
		Spec:       corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func shop() []runtime.Object {
	yes := true
	owned := func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "web", "pod-template-hash": "abc"}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-abc", Controller: &yes}}
	}
	port, name := int32(8080), "http"
	proto := corev1.ProtocolTCP
	return []runtime.Object{
		nodeObj("node1", "10.1.11.91"), nodeObj("node2", "10.1.11.92"), nodeObj("node3", "10.1.11.93"),
		podObj("cart", "node1", "10.244.1.5"), podObj("web-abc-1", "node2", "10.244.2.7", owned), podObj("web-abc-2", "node3", "10.244.3.7", owned),
		podObj("edge", "node1", "10.244.1.6", func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 9090, Protocol: proto}}}}
		}),
		podObj("hostnet", "node3", "10.1.11.93", func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
		&appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		},
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"},
				Ports: []corev1.ServicePort{{Name: name, Port: 80, NodePort: 30080, Protocol: proto}},
			},
		},
		&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
			Endpoints: []discoveryv1.Endpoint{
				endpoint("10.244.2.7", "node2", "web-abc-1"), endpoint("10.244.3.7", "node3", "web-abc-2"),
			},
		},
	}
}

func endpoint(ip, node, pod string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod}}
}

// TestLoad: what an endpoint is written as leads to the objects that it needs, and Lookup finds it there.
func TestLoad(t *testing.T) {
	for _, tt := range []struct {
		arg, want, nodes string
	}{
		{"cart", "shop/cart", "node1"},
		{"shop/cart", "shop/cart", "node1"},
		{"pod/cart", "shop/cart", "node1"},
		{"deploy/web", "shop/web-abc-1", "node2"},
		{"svc/web:80", "svc/web:80", "node2 node3"},
		{"svc/web:http", "svc/web:80", "node2 node3"},
		{"node/node3", "node/node3", "node3"},
		{"node/node3:30080", "node/node3:30080", "node2 node3"},
		{"10.244.1.5", "shop/cart", "node1"},
		{"10.96.0.10", "svc/web", "node2 node3"},
		{"10.96.0.10:80", "svc/web:80", "node2 node3"},
		{"10.1.11.92", "node/node2", "node2"},
		{"10.1.11.93", "node/node3", "node3"},
		{"node/node1:9090", "node/node1:9090", "node1"}, // a pod's hostPort
		{"10.1.11.91:9090", "node/node1:9090", "node1"},
		{"192.0.2.1", "192.0.2.1", ""},
	} {
		t.Run(tt.arg, func(t *testing.T) {
			o, err := Load(t.Context(), serve(t, fake.NewClientset(shop()...)), "shop", tt.arg)
			if err != nil {
				t.Fatal(err)
			}
			e, err := o.Lookup(tt.arg, "shop")
			if err != nil || e.String() != tt.want {
				t.Errorf("%s is %q, %v, want %q", tt.arg, e.String(), err, tt.want)
			}
			if e.Port == 9090 && (e.Pod == nil || e.Pod.Name != "edge") {
				t.Errorf("the port is that of pod %+v", e.Pod)
			}
			var nodes []string
			for _, n := range o.Nodes {
				nodes = append(nodes, n.Name)
				if !n.IsZero() {
					t.Errorf("the place that an annotation of node %q says is believed", n.Name)
				}
			}
			if got := strings.Join(nodes, " "); got != tt.nodes {
				t.Errorf("nodes %q, want %q", got, tt.nodes)
			}
			for _, p := range o.Pods {
				if !p.IsZero() || p.UID == "" {
					t.Errorf("pod %+v", p)
				}
			}
		})
	}
}

// TestLoadRefuses: what has no path of its own gets a plain sentence, with a word on what to do.
func TestLoadRefuses(t *testing.T) {
	pending := func(p *corev1.Pod) {
		p.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
			{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		}}
	}
	objects := append(shop(),
		podObj("done", "node1", "10.244.1.8", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		podObj("evicted", "node1", "", func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }),
		podObj("unscheduled", "", "", func(p *corev1.Pod) {
			pending(p)
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}
		}),
		podObj("creating", "node1", "", pending),
		podObj("win", "node1", "10.244.1.9", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }),
		podObj("onwin", "winnode", "10.244.9.9"),
		nodeObj("winnode", "10.1.11.99", func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelOSStable: "windows"} }),
	)
	for arg, want := range map[string]string{
		"done":        `pod "shop/done" has ended (Completed)`,
		"evicted":     `pod "shop/evicted" has ended (Evicted)`,
		"unscheduled": "not scheduled to a node yet: 0/3 nodes are available",
		"creating":    "has no address yet: ContainerCreating",
		"win":         "is a Windows pod",
		"onwin":       `node "winnode" runs Windows`,
		"nosuch":      `no pod "nosuch" in namespace "shop"`,
		"svc/nosuch":  `no service "nosuch"`,
		"deploy/none": `no deployment "none"`,
		"node/none":   `no node "none"`,
		"other/cart":  `no pod "cart" in namespace "other"`,
	} {
		_, err := Load(t.Context(), serve(t, fake.NewClientset(objects...)), "shop", arg)
		var hint interface{ Hint() string }
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &hint) || hint.Hint() == "" {
			t.Errorf("%s: %v, want %q with a hint", arg, err, want)
		}
	}
	_, err := Load(t.Context(), serve(t, fake.NewClientset(objects...)), "shop", "other/cart")
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "shop/cart") {
		t.Errorf("%v does not say where the pod is", err)
	}
}

func TestLoadNotes(t *testing.T) {
	objects := append(shop(), podObj("multi", "node1", "10.244.1.9", func(p *corev1.Pod) {
		p.Annotations[networkStatus] = `[{"name":"cbr0","interface":"eth0","default":true},{"name":"shop/sriov","interface":"net1"}]`
	}))
	for i := range objects {
		if n, ok := objects[i].(*corev1.Node); ok && n.Name == "node1" {
			n.Status.Conditions[0] = corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting"}
		}
	}
	o, err := Load(t.Context(), serve(t, fake.NewClientset(objects...)), "shop", "multi", "deploy/web")
	if err != nil || len(o.Notes) != 1 || !strings.Contains(o.Notes[0], `"net1"`) || o.NotReady["node1"] == "" || len(o.NotReady) != 1 {
		t.Errorf("%v, %+v", err, o)
	}
}

// TestLoadIsSmall: of a large cluster only what the path needs is asked for, and no list is without a selector.
func TestLoadIsSmall(t *testing.T) {
	objects := shop()
	yes := true
	var eps []discoveryv1.Endpoint
	for i := range 500 {
		n, p := fmt.Sprintf("n%d", i), fmt.Sprintf("big-abc-%03d", i)
		ip := fmt.Sprintf("10.200.%d.%d", i/250, i%250+1)
		objects = append(objects, nodeObj(n, fmt.Sprintf("10.9.%d.%d", i/250, i%250+1)), podObj(p, n, ip, func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "big", "pod-template-hash": "abc"}
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "big-abc", Controller: &yes}}
		}))
		eps = append(eps, endpoint(ip, n, p))
	}
	objects = append(objects, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "big"},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "big"}}},
	}, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "big"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.99", Ports: []corev1.ServicePort{{Port: 80}}},
	}, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "big-1", Labels: map[string]string{discoveryv1.LabelServiceName: "big"}},
		Ports:      []discoveryv1.EndpointPort{{Port: new(int32)}}, Endpoints: eps,
	})
	for _, tt := range []struct {
		to               string
		pods, nodes, ask int
	}{{"deploy/big", 2, 2, 12}, {"svc/big:80", 9, 9, 30}} {
		c := fake.NewClientset(objects...)
		o, err := Load(t.Context(), serve(t, c), "shop", "cart", tt.to)
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Pods) != tt.pods || len(o.Nodes) != tt.nodes || len(c.Actions()) > tt.ask {
			t.Errorf("%s: %d pods, %d nodes by %d requests", tt.to, len(o.Pods), len(o.Nodes), len(c.Actions()))
		}
		for _, a := range c.Actions() {
			l, ok := a.(clienttesting.ListActionImpl)
			if ok && l.ListRestrictions.Fields.Empty() && l.ListRestrictions.Labels.Empty() {
				t.Errorf("%s: a list of all %s", tt.to, l.Resource.Resource)
			}
			if want := (Right{a.GetVerb(), a.GetResource().Group, a.GetResource().Resource}); !slices.Contains(ReadRights, want) {
				t.Errorf("%s: %s is not among the rights that are asked for", tt.to, want)
			}
		}
	}
}

func TestNames(t *testing.T) {
	c := &Cluster{Client: serve(t, fake.NewClientset(shop()...)), Namespace: "shop"}
	for prefix, want := range map[string]string{
		"":        "cart edge hostnet web-abc-1 web-abc-2 deploy/ node/ svc/",
		"we":      "web-abc-1 web-abc-2",
		"s":       "svc/",
		"svc/":    "svc/web",
		"deploy/": "deploy/web",
		"node/":   "node/node1 node/node2 node/node3",
		"shop/c":  "shop/cart",
		"none/":   "",
	} {
		if got := strings.Join(c.Names(t.Context(), prefix), " "); got != want {
			t.Errorf("%q: %q, want %q", prefix, got, want)
		}
	}
}
