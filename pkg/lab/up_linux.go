package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/podtrace/podtrace/pkg/netns"
)

// patience is how long the server may take to end before it is killed.
const patience = 300 * time.Millisecond

// Up brings the lab up. A lab that stands is left alone, faults and all, unless another Spec is asked
// for: ErrOther. The remains of one that does not stand are cleared first. It needs CAP_SYS_ADMIN and
// CAP_NET_ADMIN.
func Up(ctx context.Context, o Options) error {
	o = o.withDefaults()
	spec, err := o.Spec.complete()
	if err != nil {
		return err
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
	if len(problems(o, r)) == 0 {
		if !o.Spec.isZero() && !reflect.DeepEqual(spec, r.spec()) {
			return fmt.Errorf("datapath %s: %w", r.spec().Datapath, ErrOther)
		}
		return nil
	}
	if err := demolish(o, r); err != nil {
		return fmt.Errorf("clear what is left of an earlier lab: %w", err)
	}
	if err := build(ctx, o, spec, l); err != nil {
		r, _ = readRecord(o)
		return errors.Join(fmt.Errorf("build the lab: %w", err), demolish(o, r), removeState(o))
	}
	return nil
}

// problems says what keeps a lab from being up; nothing if it is.
func problems(o Options, r record) []string {
	var p []string
	if !r.Complete {
		p = append(p, "it was never built to the end")
	}
	for _, plan := range newCluster(r.spec()).plans() {
		h, err := netns.Open(o.netnsPath(plan.name))
		if err != nil {
			p = append(p, err.Error())
			continue
		}
		_ = h.Close()
	}
	if !r.Server.alive() {
		p = append(p, "the process that serves the pods is gone")
	}
	if _, err := os.Stat(o.InventoryPath()); err != nil {
		p = append(p, err.Error())
	}
	return p
}

// build makes a lab where nothing of one is left. The lock file is handed to the server until that
// is on record.
func build(ctx context.Context, o Options, spec Spec, lockFile *os.File) error {
	r := record{Spec: spec}
	if _, err := os.Stat(netnsDir); err != nil {
		r.MadeNetnsDir = true
	}
	if err := writeRecord(o, r); err != nil {
		return err
	}
	if _, err := makeNetnsDir(); err != nil {
		return err
	}
	c := newCluster(spec)
	ps := c.plans()
	for _, p := range ps {
		if err := addNetns(o.netnsPath(p.name)); err != nil {
			return err
		}
	}
	all, err := openSpaces(o, ps)
	if err != nil {
		return err
	}
	defer all.close()
	if err := reconcile(ctx, all, ps); err != nil {
		return err
	}
	if err := settle(ctx, all, ps, false); err != nil {
		return err
	}
	text, err := c.inventory(o)
	if err != nil {
		return err
	}
	if err := writeFile(o.InventoryPath(), text); err != nil {
		return err
	}
	if err := startServer(ctx, o, &r, lockFile); err != nil {
		return err
	}
	if err := settle(ctx, all, ps, true); err != nil {
		return err
	}
	r.Complete = true
	return writeRecord(o, r)
}

// demolish removes the server, the namespaces and the inventory, whatever of them there is, but not
// the state directory with the lock in it.
func demolish(o Options, r record) error {
	// First of all: from here on the lab is not complete.
	r.Complete, r.Broken = false, nil
	errs := []error{writeRecord(o, r), r.Server.end(patience)}
	for _, p := range newCluster(r.spec()).plans() {
		errs = append(errs, removeNetns(o.netnsPath(p.name)))
	}
	for _, path := range []string{o.InventoryPath(), o.logPath()} {
		errs = append(errs, ignoreNotExist(os.Remove(path)))
	}
	if r.MadeNetnsDir {
		removeNetnsDir()
	}
	return errors.Join(errs...)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Down takes the lab down: no process, namespace or file of it is left, also of one that a crash
// left half-made. Where there is no lab it does nothing.
func Down(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if nothingThere(o) {
		return nil // and nothing is made, not even a lock: whoever has no lab needs no root for this
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
	if err := demolish(o, r); err != nil {
		return fmt.Errorf("take the lab down: %w", err)
	}
	return removeState(o)
}

// nothingThere reports whether not even remains of a lab can be found.
func nothingThere(o Options) bool {
	if _, err := os.Lstat(o.StateDir); !errors.Is(err, os.ErrNotExist) {
		return false
	}
	return !slices.ContainsFunc(namespaces(o, newCluster(record{}.spec())), func(ns Namespace) bool { return ns.Present })
}

// Running reports whether the lab is up.
func Running(o Options) bool {
	o = o.withDefaults()
	r, err := readRecord(o)
	return err == nil && len(problems(o, r)) == 0
}

// Status describes the lab without changing anything.
func Status(_ context.Context, o Options) (State, error) {
	o = o.withDefaults()
	r, err := readRecord(o)
	if err != nil {
		return State{}, err
	}
	c := newCluster(r.spec())
	s := State{Spec: c.spec, Inventory: o.InventoryPath(), Broken: r.Broken, Namespaces: namespaces(o, c)}
	if r.Server.alive() {
		s.ServerPID = r.Server.PID
	}
	p := problems(o, r)
	s.Up = len(p) == 0
	remains := r.Complete || r.MadeNetnsDir || s.ServerPID != 0
	for _, ns := range s.Namespaces {
		remains = remains || ns.Present
	}
	if remains {
		s.Problems = p
	}
	return s, nil
}

func namespaces(o Options, c *cluster) []Namespace {
	var list []Namespace
	for _, p := range c.plans() {
		ns := Namespace{Name: p.name, Kind: p.name, Path: o.netnsPath(p.name)}
		if n, ok := c.node(p.name); ok {
			ns.Kind, ns.IP = "node", n.ip().String()
		} else if i := slices.IndexFunc(c.pods, func(q pod) bool { return q.name == p.name }); i >= 0 {
			ns.Kind, ns.Node, ns.IP = "pod", c.pods[i].node, c.pods[i].ip().String()
		} else if a := firstAddress(p); a.IsValid() {
			ns.IP = a.String()
		}
		_, err := os.Lstat(ns.Path)
		ns.Present = err == nil
		list = append(list, ns)
	}
	return list
}

func firstAddress(p *plan) netip.Addr {
	for _, l := range p.links {
		if len(l.addrs) > 0 {
			return l.addrs[0].prefix.Addr()
		}
	}
	return netip.Addr{}
}
