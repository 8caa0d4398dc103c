package kube

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// remove deletes an agent pod; with a UID, only that one of its name. The request is made again where it may have been
// lost on its way.
func remove(ctx context.Context, c *Client, namespace, name string, uid types.UID) error {
	grace := stopGrace
	o := metav1.DeleteOptions{GracePeriodSeconds: &grace}
	if uid != "" {
		o.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	var err error
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		err = destroy(ctx, c, podKind, namespace, name, o)
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// Cleanup deletes all agent pods of a namespace ("": of all), those of commands that run included, and gives their
// names.
func Cleanup(ctx context.Context, c *Client, namespace string) (removed []string, err error) {
	pods, err := agentPods(ctx, c, namespace)
	if err != nil {
		return nil, explain(err)
	}
	var errs []error
	for i := range pods {
		p := &pods[i]
		if err := remove(ctx, c, p.Namespace, p.Name, p.UID); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, p.Namespace+"/"+p.Name)
	}
	return removed, errors.Join(errs...)
}
