package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Error is a refusal with a word on what to do next.
type Error struct {
	Msg  string
	Err  error // the API server's own, nil when there is none
	hint string
}

// Error gives the message.
func (e *Error) Error() string { return e.Msg }

// Hint says what to do next.
func (e *Error) Hint() string { return e.hint }

// Unwrap gives the API server's error.
func (e *Error) Unwrap() error { return e.Err }

// traceable says plainly why a pod has no path of its own.
func traceable(p *corev1.Pod) error {
	key := p.Namespace + "/" + p.Name
	windows := p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows || p.Spec.NodeSelector[corev1.LabelOSStable] == "windows"
	switch {
	case windows:
		return &Error{
			Msg:  fmt.Sprintf("pod %q is a Windows pod: there are no network namespaces and no tables of Linux on its node", key),
			hint: "trace to its IP address from a Linux pod: what the other node does is seen, this one's part is not",
		}
	case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		return &Error{
			Msg:  fmt.Sprintf("pod %q has ended (%s): it has no network namespace any more", key, ended(p)),
			hint: "name a pod that runs; deploy/NAME takes a ready one",
		}
	case p.Spec.NodeName == "":
		return &Error{
			Msg:  fmt.Sprintf("pod %q is pending, not scheduled to a node yet%s", key, unscheduled(p)),
			hint: "kubectl describe pod shows why no node takes it",
		}
	case p.Status.Phase == corev1.PodPending && !p.Spec.HostNetwork:
		address := ""
		if p.Status.PodIP == "" {
			address = " and has no address yet"
		}
		return &Error{
			Msg:  fmt.Sprintf("pod %q is pending on node %q%s%s", key, p.Spec.NodeName, address, waiting(p)),
			hint: "kubectl describe pod shows what it waits for: the network plugin gives the address, and an image has to be there",
		}
	}
	return nil
}

func ended(p *corev1.Pod) string {
	if p.Status.Reason != "" {
		return p.Status.Reason
	}
	if p.Status.Phase == corev1.PodSucceeded {
		return "Completed"
	}
	return string(p.Status.Phase)
}

func unscheduled(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message != "" {
			return ": " + c.Message
		}
	}
	return ""
}

// waiting is what a pod's containers wait for.
func waiting(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "" {
			return strings.TrimRight(": "+w.Reason+" "+w.Message, " ")
		}
	}
	return ""
}

// exited is how a pod's containers ended.
func exited(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil {
			return strings.TrimRight(fmt.Sprintf("(%s, exit status %d) %s", t.Reason, t.ExitCode, t.Message), " ")
		}
	}
	return ""
}

// networkStatus is where Multus says which interfaces a pod has (the Kubernetes network custom resource definition
// de-facto standard, version 1.3, section 5).
const networkStatus = "k8s.v1.cni.cncf.io/network-status"

// interfaces says which of several interfaces is traced; "" for a pod with one.
func interfaces(p *corev1.Pod) string {
	var nets []struct {
		Interface string `json:"interface"`
		Default   bool   `json:"default"`
	}
	const most = 64 << 10
	s := p.Annotations[networkStatus]
	if len(s) > most || json.Unmarshal([]byte(s), &nets) != nil || len(nets) < 2 {
		return ""
	}
	var others []string
	for _, n := range nets {
		if !n.Default {
			others = append(others, fmt.Sprintf("%q", n.Interface))
		}
	}
	return fmt.Sprintf("pod %q has more interfaces than that of the cluster's network: the path by its cluster address %s is traced, those by %s are not",
		p.Namespace+"/"+p.Name, p.Status.PodIP, strings.Join(others, ", "))
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// explain adds what to do next to errors of the API server.
func explain(err error) error {
	var known interface{ Hint() string }
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, context.Canceled):
		return context.Canceled // by the user: nobody refused anything
	case apierrors.IsForbidden(err):
		return &Error{
			Msg: "the API server refuses: " + err.Error(), Err: err,
			hint: "deploy/podtrace.yaml has the least rights that podtrace needs; an administrator applies it and binds it to you",
		}
	case apierrors.IsUnauthorized(err):
		return &Error{Msg: "the API server does not know you: " + err.Error(), Err: err, hint: "log in again; kubectl auth whoami shows as whom you come"}
	default:
		return &Error{Msg: "ask the API server: " + err.Error(), Err: err, hint: "kubectl get --raw /readyz shows whether it answers; --context and --kubeconfig say which cluster is meant"}
	}
}
