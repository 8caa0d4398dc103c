package kube

import (
	"context"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// Client asks an API server for objects of the few kinds below. It is client-go's REST client without its Clientset,
// whose users carry, and register each time they start, all kinds of all API groups: with that, and with cli-runtime for
// the flags, the program was twice as large and took twice as long to start.
type Client struct {
	groups map[schema.GroupVersion]rest.Interface
}

// kind is a kind of object: where the API has it, and the types of one T and of a list L.
type kind[T, L any] struct {
	group    schema.GroupVersion
	resource string
}

// The kinds that podtrace has to do with.
var (
	podKind        = kind[corev1.Pod, corev1.PodList]{corev1.SchemeGroupVersion, "pods"}
	serviceKind    = kind[corev1.Service, corev1.ServiceList]{corev1.SchemeGroupVersion, "services"}
	nodeKind       = kind[corev1.Node, corev1.NodeList]{corev1.SchemeGroupVersion, "nodes"}
	namespaceKind  = kind[corev1.Namespace, corev1.NamespaceList]{corev1.SchemeGroupVersion, "namespaces"}
	deploymentKind = kind[appsv1.Deployment, appsv1.DeploymentList]{appsv1.SchemeGroupVersion, "deployments"}
	sliceKind      = kind[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]{discoveryv1.SchemeGroupVersion, "endpointslices"}
	reviewKind     = kind[authv1.SelfSubjectAccessReview, struct{}]{authv1.SchemeGroupVersion, "selfsubjectaccessreviews"} // never listed
)

// groups are those of these kinds, each with what registers its types.
var groups = map[schema.GroupVersion]func(*runtime.Scheme) error{
	corev1.SchemeGroupVersion:      corev1.AddToScheme,
	appsv1.SchemeGroupVersion:      appsv1.AddToScheme,
	discoveryv1.SchemeGroupVersion: discoveryv1.AddToScheme,
	authv1.SchemeGroupVersion:      authv1.AddToScheme,
}

// apis are the types of the groups. They are registered when a cluster is asked, and not before.
var apis = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"}) // Status, the API's word for an error
	for _, add := range groups {
		utilruntime.Must(add(s)) // fails only where two groups have a type of one name
	}
	return s
})

// params writes options into the query of a URL.
func params() runtime.ParameterCodec { return runtime.NewParameterCodec(apis()) }

// NewClient makes a client. Nothing is asked yet. All groups share one connection and one limit of requests.
func NewClient(config *rest.Config) (*Client, error) {
	shared := rest.CopyConfig(config)
	if shared.RateLimiter == nil && shared.QPS > 0 {
		shared.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(shared.QPS, shared.Burst)
	}
	shared.NegotiatedSerializer = serializer.NewCodecFactory(apis()).WithoutConversion()
	if shared.ContentType == "" && shared.AcceptContentTypes == "" { // as the Clientset does
		shared.ContentType = runtime.ContentTypeProtobuf
		shared.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	http, err := rest.HTTPClientFor(shared)
	if err != nil {
		return nil, err
	}
	c := &Client{groups: make(map[schema.GroupVersion]rest.Interface)}
	for g := range groups {
		own := *shared
		own.GroupVersion, own.APIPath = &g, "/apis"
		if g.Group == "" {
			own.APIPath = "/api"
		}
		if c.groups[g], err = rest.RESTClientForConfigAndClient(&own, http); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// object is a pointer to a T that the API can send.
type object[T any] interface {
	*T
	runtime.Object
}

// at points a request at a kind, in a namespace ("": at those of all, or at a kind that has none).
func at[T, L any](r *rest.Request, k kind[T, L], namespace string) *rest.Request {
	return r.NamespaceIfScoped(namespace, namespace != "").Resource(k.resource)
}

func get[T, L any, P object[T]](ctx context.Context, c *Client, k kind[T, L], namespace, name string) (*T, error) {
	out := new(T)
	err := at(c.groups[k.group].Get(), k, namespace).Name(name).Do(ctx).Into(P(out))
	return out, err
}

// list gives one page; its Continue, in o, leads to the next.
func list[T, L any, P object[L]](ctx context.Context, c *Client, k kind[T, L], namespace string, o metav1.ListOptions) (*L, error) {
	out := new(L)
	err := at(c.groups[k.group].Get(), k, namespace).VersionedParams(&o, params()).Do(ctx).Into(P(out))
	return out, err
}

// follow gives the events of those that o selects; the caller stops it.
func follow[T, L any](ctx context.Context, c *Client, k kind[T, L], namespace string, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return at(c.groups[k.group].Get(), k, namespace).VersionedParams(&o, params()).Watch(ctx)
}

func create[T, L any, P object[T]](ctx context.Context, c *Client, k kind[T, L], namespace string, obj P) (*T, error) {
	out := new(T)
	err := at(c.groups[k.group].Post(), k, namespace).
		VersionedParams(&metav1.CreateOptions{FieldManager: ManagedBy}, params()).Body(obj).Do(ctx).Into(P(out))
	return out, err
}

func destroy[T, L any](ctx context.Context, c *Client, k kind[T, L], namespace, name string, o metav1.DeleteOptions) error {
	return at(c.groups[k.group].Delete(), k, namespace).Name(name).Body(&o).Do(ctx).Error()
}
