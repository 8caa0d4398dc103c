package listing

import (
	"slices"
	"strings"
)

// command is a command line taken apart: where it runs, what it runs, and what its output goes through.
type command struct {
	text  string
	words []string // without prefixes that say where it runs
	netns string   // "NAMESPACE/POD", "pid N", "container ID", "netns NAME"; "" for where the shell is
	shell bool     // it opens a shell there
	pipe  []string // the commands that filter its output
}

// partial reports whether the output is only a part of what the command prints.
func (c *command) partial() bool {
	for _, p := range c.pipe {
		w := wordsOf(p)
		if len(w) > 0 && !slices.Contains([]string{"cat", "column", "jq", "less", "more", "nl", "sort", "tee"}, baseName(w[0])) {
			return true
		}
	}
	return false
}

// splitWords cuts a command line as a shell does, as far as quotes go. ops are the operators it ends at.
func splitWords(s string) (out []string, rest string) { return splitAt(s, "|;>&") }

// splitAt is splitWords with operators of the caller's.
func splitAt(s, ops string) (out []string, rest string) {
	var cur strings.Builder
	quoteChar, in, escaped := rune(0), false, false
	for i, r := range s {
		switch {
		case escaped:
			cur.WriteRune(r)
			escaped = false
		case r == '\\' && quoteChar != '\'':
			escaped, in = true, true
		case quoteChar != 0:
			if r == quoteChar {
				quoteChar = 0
			} else {
				cur.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quoteChar, in = r, true
		case strings.ContainsRune(ops, r):
			if in {
				out = append(out, cur.String())
			}
			return out, s[i:]
		case r == ' ' || r == '\t':
			if in {
				out, in = append(out, cur.String()), false
				cur.Reset()
			}
		default:
			cur.WriteRune(r)
			in = true
		}
	}
	if in {
		out = append(out, cur.String())
	}
	return out, ""
}

// parseCommand takes a command line apart.
func parseCommand(text string) command {
	c := command{text: text}
	var rest string
	c.words, rest = splitWords(text)
	for strings.HasPrefix(rest, "|") && !strings.HasPrefix(rest, "||") {
		var w []string
		w, rest = splitWords(strings.TrimSpace(rest[1:]))
		c.pipe = append(c.pipe, strings.Join(w, " "))
		if len(c.pipe) > 16 {
			break
		}
	}
	for range 8 { // kubectl exec … -- nsenter … ip: prefixes nest, and not without end
		if !c.unwrap() {
			break
		}
	}
	return c
}

// unwrap takes one prefix off and keeps what it says of the namespace.
func (c *command) unwrap() bool {
	w := c.words
	if len(w) == 0 {
		return false
	}
	switch name := baseName(w[0]); name {
	case "sudo", "time", "nohup", "watch", "env":
		c.words = skipOptions(w[1:])
		return true
	case "kubectl", "oc":
		return c.unwrapKubectl()
	case "docker", "podman", "crictl", "nerdctl":
		return c.unwrapDocker()
	case "nsenter":
		return c.unwrapNsenter()
	case "ip":
		return c.unwrapIP()
	case "sh", "bash", "ash":
		if i := slices.Index(w, "-c"); i > 0 && i+1 < len(w) {
			c.words, _ = splitWords(w[i+1])
			return true
		}
	}
	return false
}

func skipOptions(w []string) []string {
	for len(w) > 0 && (strings.HasPrefix(w[0], "-") || strings.Contains(w[0], "=") && !strings.HasPrefix(w[0], "/")) {
		w = w[1:]
	}
	return w
}

// inside is the rest of a prefix: a command, or a shell.
func (c *command) inside(netns string, rest []string) bool {
	c.netns, c.words = netns, rest
	if len(rest) == 0 || len(rest) == 1 && slices.Contains([]string{"sh", "bash", "ash", "zsh"}, baseName(rest[0])) {
		c.shell, c.words = true, nil
		return false
	}
	return true
}

// unwrapKubectl reads "kubectl exec [-n NS] POD [-c C] -- CMD"; an older kubectl needs no "--".
func (c *command) unwrapKubectl() bool {
	at := slices.Index(c.words, "exec")
	if at < 0 {
		return false
	}
	end := slices.Index(c.words, "--")
	args := c.words
	if end > 0 {
		args = c.words[:end]
	}
	ns, pod, i := "default", "", 1
	for ; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-n" || a == "--namespace":
			if i++; i < len(args) {
				ns = args[i]
			}
		case a == "-c" || a == "--container" || a == "--context" || a == "--kubeconfig":
			i++
		case strings.HasPrefix(a, "--namespace="):
			ns = strings.TrimPrefix(a, "--namespace=")
		case strings.HasPrefix(a, "-n") && len(a) > 2:
			ns = a[2:]
		case strings.HasPrefix(a, "-"), i == at:
		case pod == "":
			pod = strings.TrimPrefix(strings.TrimPrefix(a, "pod/"), "pods/")
			if end < 0 {
				return c.inside(ns+"/"+pod, args[i+1:])
			}
		}
	}
	if pod == "" || end < 0 {
		return false
	}
	return c.inside(ns+"/"+pod, c.words[end+1:])
}

func (c *command) unwrapDocker() bool {
	if len(c.words) < 3 || c.words[1] != "exec" {
		return false
	}
	rest := c.words[2:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		n := 1
		if slices.Contains([]string{"-u", "-e", "-w", "--user", "--env", "--workdir"}, rest[0]) {
			n = 2
		}
		rest = rest[min(n, len(rest)):]
	}
	if len(rest) == 0 {
		return false
	}
	return c.inside(byContainer+rest[0], rest[1:])
}

// unwrapNsenter reads "nsenter -t PID -n CMD" and "nsenter --net=FILE CMD".
func (c *command) unwrapNsenter() bool {
	netns, net := "", false
	w := c.words[1:]
	for len(w) > 0 && strings.HasPrefix(w[0], "-") {
		a := w[0]
		w = w[1:]
		switch {
		case (a == "-t" || a == "--target") && len(w) > 0:
			netns, w = byPID+w[0], w[1:]
		case strings.HasPrefix(a, "--target="):
			netns = byPID + strings.TrimPrefix(a, "--target=")
		case strings.HasPrefix(a, "-t") && isNumber(a[2:]):
			netns = byPID + a[2:]
		case strings.HasPrefix(a, "--net="), strings.HasPrefix(a, "-n/"):
			netns, net = byName+baseName(a), true
		case a == "--":
			return net && c.inside(netns, w)
		case a == "-n" || a == "--net" || a == "-a" || a == "--all" || !strings.HasPrefix(a, "--") && strings.Contains(a, "n"):
			net = true
		}
	}
	if !net || netns == "" {
		c.words = w // another namespace than the network's
		return len(w) > 0
	}
	return c.inside(netns, w)
}

// unwrapIP reads "ip netns exec NAME CMD" and "ip -n NAME OBJECT".
func (c *command) unwrapIP() bool {
	w := c.words
	if len(w) > 3 && (w[1] == "netns" || w[1] == "net") && (w[2] == "exec" || w[2] == "e") {
		return c.inside(byName+w[3], w[4:])
	}
	for i := 1; i+1 < len(w) && strings.HasPrefix(w[i], "-"); i++ {
		if w[i] == "-n" || w[i] == "-netns" {
			c.netns = byName + w[i+1]
			c.words = slices.Concat(w[:i], w[i+2:])
			return false
		}
	}
	return false
}
