package lab

import (
	"context"
	"fmt"
	"slices"
)

// reconcile makes the namespaces hold exactly what their plans say, whatever they hold now: an
// empty namespace is built, a broken one mended.
//
// Devices come first, in all namespaces, as veths and the VXLAN device tie them together; then
// everything that hangs on devices, one namespace after the other.
func reconcile(ctx context.Context, all spaces, ps plans) error {
	steps := []func(*space, *plan) error{
		func(s *space, p *plan) error { return s.writeSysctls(p, false) },
		func(s *space, p *plan) error { return s.removeLinks(p) },
		func(s *space, p *plan) error { return s.addVeths(all, ps, p) },
		func(s *space, p *plan) error { return s.addLinks(p) },
		func(s *space, p *plan) error { return s.configure(p) },
	}
	for _, step := range steps {
		for _, p := range ps {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := step(all[p.name], p); err != nil {
				return err
			}
		}
	}
	return nil
}

// configure sets everything of a namespace but which devices it has.
func (s *space) configure(p *plan) error {
	links, err := s.links()
	if err != nil {
		return err
	}
	steps := []func(*plan, linkSet) error{
		s.setLinks, s.setAddrs, s.setRules, s.setRoutes, s.setNeighs, s.setFDB,
		func(p *plan, _ linkSet) error { return s.writeSysctls(p, true) },
		func(p *plan, _ linkSet) error { return s.writeNetfilter(p) },
	}
	for _, step := range steps {
		if err := step(p, links); err != nil {
			return fmt.Errorf("set up netns %q: %w", s.name, err)
		}
	}
	return nil
}

// diff gives those of want that have is without, by index, and extra the other way about. key makes the
// two comparable.
func diff[H any](want []string, have []H, key func(H) string) (missing []int, extra []H) {
	held := make([]string, 0, len(have))
	for _, h := range have {
		k := key(h)
		held = append(held, k)
		if !slices.Contains(want, k) {
			extra = append(extra, h)
		}
	}
	for i, w := range want {
		if !slices.Contains(held, w) {
			missing = append(missing, i)
		}
	}
	return missing, extra
}
