package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/podtrace/podtrace/pkg/cmd"
)

func TestMain(m *testing.M) {
	run := func() { os.Exit(cmd.Main(os.Args, cmd.System())) }
	testscript.Main(m, map[string]func(){"podtrace": run, "kubectl-podtrace": run, "kubectl_complete-podtrace": run})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition:           condition,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": runStatus,
			"json":   checkJSON,
			"defer":  runLater,
		},
	})
}

// setup gives scripts what a command looks at: no terminal, no colour, a UTF-8 locale, and a lab
// of their own, beside one that may be running.
func setup(env *testscript.Env) error {
	env.Setenv("NO_COLOR", "")
	env.Setenv("LC_ALL", "C.UTF-8")
	env.Setenv("KUBECONFIG", "")
	env.Setenv("PODTRACE_LAB_PREFIX", fmt.Sprintf("podtrace-t%08x-", crc32.ChecksumIEEE([]byte(env.WorkDir))))
	env.Setenv("PODTRACE_LAB_DIR", filepath.Join(env.WorkDir, "lab"))
	wd, err := os.Getwd()
	env.Setenv("SRC", wd)
	return err
}

// condition adds [root]. In CI lack of root is an error: a test that never runs proves nothing.
func condition(cond string) (bool, error) {
	if cond != "root" {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	if os.Geteuid() == 0 {
		return true, nil
	}
	if os.Getenv("CI") == "true" {
		return false, errors.New("CI=true needs root: the scripts of the lab would not run")
	}
	return false, nil
}

// runStatus is "status N COMMAND…": the command has to exit with N.
func runStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND [ARG…]")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = strconv.Itoa(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// runLater is "defer COMMAND…": it runs when the script ends, however it ends.
func runLater(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: defer COMMAND [ARG…]")
	}
	ts.Defer(func() {
		if err := ts.Exec(args[0], args[1:]...); err != nil {
			ts.Logf("deferred %q: %v", args, err)
		}
	})
}

// checkJSON is "json FILE PATH WANT": every value at PATH prints as WANT. PATH is made of field
// names, list indices, * for each, and a last # for the length: legs.*.hops.# 10.
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: json FILE PATH WANT")
	}
	var doc any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &doc); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
	values, err := at(doc, strings.Split(args[1], "."))
	if err != nil || len(values) == 0 {
		ts.Fatalf("%s: %v", args[1], err)
	}
	for _, v := range values {
		if (fmt.Sprint(v) == args[2]) == neg {
			ts.Fatalf("%s is %v; want %s (negated: %t)", args[1], v, args[2], neg)
		}
	}
}

func at(v any, path []string) ([]any, error) {
	if len(path) == 0 {
		return []any{v}, nil
	}
	key, rest := path[0], path[1:]
	switch v := v.(type) {
	case map[string]any:
		field, ok := v[key]
		if !ok {
			return nil, fmt.Errorf("no field %q", key)
		}
		return at(field, rest)
	case []any:
		return inList(v, key, rest)
	default:
		return nil, fmt.Errorf("no field %q in %v", key, v)
	}
}

func inList(list []any, key string, rest []string) ([]any, error) {
	if key == "#" {
		return []any{len(list)}, nil
	}
	if key != "*" {
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(list) {
			return nil, fmt.Errorf("no element %q in a list of %d", key, len(list))
		}
		return at(list[i], rest)
	}
	var all []any
	for _, e := range list {
		values, err := at(e, rest)
		if err != nil {
			return nil, err
		}
		all = append(all, values...)
	}
	return all, nil
}
