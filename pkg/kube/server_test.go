package kube

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

// serve gives a client of an API server whose objects, and reactors, are those of a fake clientset.
func serve(t *testing.T, c *fake.Clientset) *Client {
	t.Helper()
	srv := httptest.NewServer(&server{fake: c, codecs: serializer.NewCodecFactory(apis())})
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	client, err := NewClient(&rest.Config{Host: srv.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// server is the API as HTTP, in front of a fake clientset.
type server struct {
	fake   *fake.Clientset
	codecs serializer.CodecFactory
}

// kinds are those of the resources that the server has.
var kinds = map[string]string{
	"pods": "Pod", "services": "Service", "nodes": "Node", "namespaces": "Namespace", "deployments": "Deployment",
	"endpointslices": "EndpointSlice", "selfsubjectaccessreviews": "SelfSubjectAccessReview",
}

// path is what the path of a request names.
type path struct {
	schema.GroupVersionResource
	namespace, name string
}

// parse reads /api/v1/[namespaces/NAMESPACE/]RESOURCE[/NAME], or that of a group, /apis/GROUP/VERSION/...
func parse(url string) (p path, ok bool) {
	part := strings.Split(strings.TrimPrefix(url, "/"), "/")
	if part[0] == "apis" {
		p.Group, part = part[1], part[1:]
	}
	if len(part) < 3 {
		return p, false
	}
	p.Version, part = part[1], part[2:]
	if part[0] == "namespaces" && len(part) > 2 {
		p.namespace, part = part[1], part[2:]
	}
	p.Resource = part[0]
	if len(part) == 2 {
		p.name = part[1]
	}
	return p, kinds[p.Resource] != "" && len(part) <= 2
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, ok := parse(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	var o metav1.ListOptions
	if err := params().DecodeParameters(r.URL.Query(), schema.GroupVersion{Version: "v1"}, &o); err != nil {
		s.fail(w, err)
		return
	}
	switch {
	case r.Method == http.MethodGet && o.Watch:
		s.watch(w, r, p, o)
	case r.Method == http.MethodGet && p.name == "":
		s.list(w, p, o)
	case r.Method == http.MethodGet:
		s.invoke(w, clienttesting.NewGetAction(p.GroupVersionResource, p.namespace, p.name))
	case r.Method == http.MethodDelete:
		s.invoke(w, clienttesting.NewDeleteAction(p.GroupVersionResource, p.namespace, p.name))
	case r.Method == http.MethodPost:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.fail(w, err)
			return
		}
		obj, err := runtime.Decode(s.codecs.UniversalDeserializer(), body)
		if err != nil {
			s.fail(w, err)
			return
		}
		s.invoke(w, clienttesting.NewCreateAction(p.GroupVersionResource, p.namespace, obj))
	default:
		http.Error(w, r.Method, http.StatusMethodNotAllowed)
	}
}

func (s *server) invoke(w http.ResponseWriter, a clienttesting.Action) {
	obj, err := s.fake.Invokes(a, nil)
	if err != nil {
		s.fail(w, err)
		return
	}
	if obj == nil {
		obj = &metav1.Status{Status: metav1.StatusSuccess}
	}
	s.answer(w, http.StatusOK, obj)
}

// list selects by labels alone, as the fake does.
func (s *server) list(w http.ResponseWriter, p path, o metav1.ListOptions) {
	a := clienttesting.NewListActionWithOptions(p.GroupVersionResource, p.GroupVersion().WithKind(kinds[p.Resource]), p.namespace, o)
	obj, err := s.fake.Invokes(a, nil)
	if err != nil {
		s.fail(w, err)
		return
	}
	items, err := meta.ExtractList(obj)
	if err != nil {
		s.fail(w, err)
		return
	}
	items = slices.DeleteFunc(items, func(item runtime.Object) bool {
		m, err := meta.Accessor(item)
		return err != nil || !a.GetListRestrictions().Labels.Matches(labels.Set(m.GetLabels()))
	})
	if err := meta.SetList(obj, items); err != nil {
		s.fail(w, err)
		return
	}
	s.answer(w, http.StatusOK, obj)
}

func (s *server) watch(w http.ResponseWriter, r *http.Request, p path, o metav1.ListOptions) {
	events, err := s.fake.InvokesWatch(clienttesting.NewWatchActionWithOptions(p.GroupVersionResource, p.namespace, o))
	if err != nil {
		s.fail(w, err)
		return
	}
	defer events.Stop()
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	for err := flush(); err == nil; err = flush() {
		select {
		case <-r.Context().Done():
			return
		case e, ok := <-events.ResultChan():
			if !ok {
				return
			}
			fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", e.Type, s.encode(e.Object))
		}
	}
}

// fail answers with an error as the API does: as a Status.
func (s *server) fail(w http.ResponseWriter, err error) {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		known = apierrors.NewInternalError(err)
	}
	status := known.Status()
	s.answer(w, int(status.Code), &status)
}

func (s *server) answer(w http.ResponseWriter, code int, obj runtime.Object) {
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(code)
	_, _ = w.Write(s.encode(obj))
}

func (s *server) encode(obj runtime.Object) []byte {
	b, err := runtime.Encode(s.codecs.LegacyCodec(apis().PrioritizedVersionsAllGroups()...), obj.DeepCopyObject()) // the fake shares its own
	if err != nil {
		panic(err) // http.Server closes the connection: the test sees an error
	}
	return b
}
