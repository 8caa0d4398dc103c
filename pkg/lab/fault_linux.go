package lab

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
)

// Break puts a fault into the running lab, on the named node or on the fault's default one where
// name is empty. Faults add up; one that is there already stays.
func Break(ctx context.Context, o Options, id, name string) error {
	if !known(id) {
		return fmt.Errorf("fault %q: %w", id, ErrNoFault)
	}
	return change(ctx, o.withDefaults(), false, func(c *cluster, faults []Broken) ([]Broken, error) {
		_, on, _, err := c.findDamage(id, name)
		b := Broken{ID: id, Node: on.name}
		if err != nil || slices.Contains(faults, b) {
			return faults, err
		}
		return append(faults, b), nil
	})
}

func known(id string) bool {
	return slices.ContainsFunc(all(), func(d damage) bool { return d.id == id })
}

// Mend takes the faults of these ids out of the lab, on whichever node they are; without ids, all
// of them. Everything in the lab's namespaces is set right besides, so damage done there by hand
// is mended too.
func Mend(ctx context.Context, o Options, ids ...string) error {
	for _, id := range ids {
		if !known(id) {
			return fmt.Errorf("fault %q: %w", id, ErrNoFault)
		}
	}
	return change(ctx, o.withDefaults(), true, func(_ *cluster, faults []Broken) ([]Broken, error) {
		return slices.DeleteFunc(faults, func(b Broken) bool { return len(ids) == 0 || slices.Contains(ids, b.ID) }), nil
	})
}

// change edits the list of faults and makes the lab as it then should be. Mending goes over all
// namespaces, breaking only over those that the new fault changes.
func change(ctx context.Context, o Options, mend bool, edit func(*cluster, []Broken) ([]Broken, error)) error {
	if _, err := os.Stat(o.recordPath()); err != nil {
		return ErrNotUp // before the lock, which would make the state directory
	}
	l, err := lock(ctx, o)
	if err != nil {
		return err
	}
	defer unlock(l)
	r, err := readRecord(o)
	if err != nil {
		return err
	}
	if len(problems(o, r)) > 0 {
		return ErrNotUp
	}
	c := newCluster(r.spec())
	before, err := c.broken(r.Broken)
	if err != nil {
		return err
	}
	if r.Broken, err = edit(c, slices.Clone(r.Broken)); err != nil {
		return err
	}
	after, err := c.broken(r.Broken)
	if err != nil {
		return err
	}
	todo := after
	if !mend {
		todo = changed(before, after)
	}
	if err := writeRecord(o, r); err != nil {
		return err
	}
	all, err := openSpaces(o, c.plans())
	if err != nil {
		return err
	}
	defer all.close()
	if err := apply(ctx, all, todo, after); err != nil {
		return fmt.Errorf("change the lab: %w", err)
	}
	return nil
}

// apply reconciles the plans of todo, which are among ps, and makes the kernel forget what it had
// learnt before.
func apply(ctx context.Context, all spaces, todo, ps plans) error {
	if err := reconcile(ctx, all, todo); err != nil {
		return err
	}
	if err := settle(ctx, all, ps, true); err != nil {
		return err
	}
	for _, s := range all {
		if err := s.forget(); err != nil {
			return err
		}
	}
	for _, p := range ps {
		if err := all[p.name].remember(p); err != nil {
			return fmt.Errorf("set up netns %q: %w", p.name, err)
		}
	}
	return nil
}

// changed gives the plans of after that differ from before.
func changed(before, after plans) plans {
	differs := func(p *plan) bool { return !reflect.DeepEqual(p, before.get(p.name)) }
	var ps plans
	for _, p := range after {
		if differs(p) {
			ps = append(ps, p)
		}
	}
	return ps
}
