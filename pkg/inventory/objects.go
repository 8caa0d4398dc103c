package inventory

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Add takes objects of the API server: *corev1.Node, *corev1.Pod, *corev1.Service, *discoveryv1.EndpointSlice. One that
// is there already is left out.
//
// Annotations that say where a namespace is are not followed: whoever may change a pod would choose what
// podtrace opens on its node.
func (inv *Inventory) Add(objects ...any) error {
	for _, o := range objects {
		if err := inv.add(o); err != nil {
			if e, ok := err.(*ObjectError); ok { //nolint:errorlint // field makes it, and nothing wraps it
				e.Object = describe(o)
			}
			return err
		}
	}
	return nil
}

func (inv *Inventory) add(o any) error {
	switch o := o.(type) {
	case *corev1.Node:
		if inv.Node(o.Name) != nil {
			return nil
		}
		c := o.DeepCopy()
		unplace(c.Annotations)
		v, err := node(c)
		inv.Nodes = appended(inv.Nodes, v, err)
		return err
	case *corev1.Pod:
		if inv.Pod(o.Namespace, o.Name) != nil {
			return nil
		}
		c := o.DeepCopy()
		unplace(c.Annotations)
		v, err := pod(c)
		if hash := c.Annotations[corev1.MirrorPodAnnotationKey]; hash != "" { // a kubelet's own pod has another UID on the node
			v.UID = c.Annotations["kubernetes.io/config.hash"]
		}
		inv.Pods = appended(inv.Pods, v, err)
		return err
	case *corev1.Service:
		if inv.Service(o.Namespace, o.Name) != nil {
			return nil
		}
		v, err := service(o)
		inv.Services = appended(inv.Services, v, err)
		return err
	case *discoveryv1.EndpointSlice:
		v, err := slice(o)
		inv.EndpointSlices = appended(inv.EndpointSlices, v, err)
		return err
	default:
		return fmt.Errorf("object of type %T is not read", o)
	}
}

func unplace(annotations map[string]string) {
	delete(annotations, AnnotationNetns)
	delete(annotations, AnnotationPID)
}

func appended[T any](to []T, v T, err error) []T {
	if err != nil {
		return to
	}
	return append(to, v)
}

func describe(o any) string {
	switch o := o.(type) {
	case *corev1.Node:
		return fmt.Sprintf("Node %q", o.Name)
	case *corev1.Pod:
		return fmt.Sprintf("Pod %q", o.Namespace+"/"+o.Name)
	case *corev1.Service:
		return fmt.Sprintf("Service %q", o.Namespace+"/"+o.Name)
	case *discoveryv1.EndpointSlice:
		return fmt.Sprintf("EndpointSlice %q", o.Namespace+"/"+o.Name)
	default:
		return fmt.Sprintf("%T", o)
	}
}
