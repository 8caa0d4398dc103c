package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// writeRulesets hands what is written in a program's own language to that program: legacy iptables,
// which has no netlink interface, and kube-proxy's rules, which kube-proxy writes that way too.
func (s *space) writeRulesets(p *plan) error {
	for _, family := range []string{"ip", "ip6"} {
		if err := s.flushLegacy(family); err != nil {
			return err
		}
	}
	if p.legacy != "" {
		if err := s.pipe(p.legacy, "iptables-legacy-restore", "--noflush"); err != nil {
			return err
		}
	}
	if p.restore != "" {
		if err := s.pipe(p.restore, "iptables-nft-restore", "--noflush"); err != nil {
			return err
		}
	}
	if p.netpol != nil {
		if err := s.pipe(p.netpol.iptables(), "iptables-nft-restore", "--noflush"); err != nil {
			return err
		}
	}
	for _, k := range p.proxies {
		if err := s.writeProxy(k); err != nil {
			return err
		}
	}
	return nil
}

func (s *space) writeProxy(k *kubeProxy) error {
	program := "iptables"
	if k.is6 {
		program = "ip6tables"
	}
	switch text := k.ruleset(); k.mode {
	case ServicesNFTables:
		return s.pipe(text, "nft", "-f", "-")
	case ServicesIPTablesLegacy:
		return s.pipe(text, program+"-legacy-restore", "--noflush")
	default:
		return s.pipe(text, program+"-nft-restore", "--noflush")
	}
}

// legacyChains are the built-in chains of legacy iptables, by table.
var legacyChains = map[string][]string{
	"filter":   {"INPUT", "FORWARD", "OUTPUT"},
	"nat":      {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	"mangle":   {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"raw":      {"PREROUTING", "OUTPUT"},
	"security": {"INPUT", "FORWARD", "OUTPUT"},
}

// flushLegacy empties the tables that legacy iptables has in the namespace. The kernel lists those that
// were ever used there; family is "ip" or "ip6".
func (s *space) flushLegacy(family string) error {
	var names []byte
	err := s.netns.Do(func() (err error) {
		names, err = os.ReadFile("/proc/thread-self/net/" + family + "_tables_names")
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list legacy tables: %w", err)
	}
	var text strings.Builder
	for table := range strings.FieldsSeq(string(names)) {
		fmt.Fprintf(&text, "*%s\n", table)
		for _, chain := range legacyChains[table] {
			fmt.Fprintf(&text, ":%s ACCEPT [0:0]\n", chain)
		}
		text.WriteString("COMMIT\n")
	}
	return s.pipe(text.String(), family+"tables-legacy-restore")
}

// pipe runs a program in the namespace with text as its standard input. The lock of legacy iptables is
// one for the whole machine; here nobody else is in the namespace.
func (s *space) pipe(text, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(text)
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+os.DevNull)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.netns.Do(cmd.Start); err != nil { // the child inherits the thread's namespace
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%q is not installed: %w", program, err)
		}
		return err
	}
	if err := cmd.Wait(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
		return fmt.Errorf("%s: %w: %s", program, err, first)
	}
	return nil
}
