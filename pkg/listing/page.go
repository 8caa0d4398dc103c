package listing

import (
	"bytes"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// line is one line of a page, without its end.
type line struct {
	no   int // from 1
	text string
	at   int // bytes from the beginning of the page
}

// parser reads the lines of one output, one after the other.
type parser interface {
	// line reports whether the line belongs to the output.
	line(l line) bool
	// end is called when the output is over.
	end()
}

// block is one output while it is read.
type block struct {
	*page
	*facts
	cmd  command
	args []string // of the command, options and verbs taken away
	opts listOptions
}

// at gives the origin of a line.
func (b *block) at(l line) Origin { return b.page.at(l, b.cmd.text) }

// dev numbers a device name.
func (b *block) dev(name string) tables.Ifindex { return b.col.names.dev(name) }

// unread reports a line of which something was not understood.
func (b *block) unread(l line, why string) {
	b.col.notUnderstood(b.at(l), strings.TrimSpace(l.text), why)
}

// shell is where commands are typed: on a node, or in a namespace that one of them has entered.
type shell struct {
	host  string // by the prompt
	netns string // "": the node's own
	from  string // of a namespace entered: the prompt where that was done
	same  bool   // its prompt is the one of the shell before it
}

// page reads one text.
type page struct {
	in    Input
	col   *collector
	lines []line
	next  int

	sh      shell
	cur     parser
	block   *block
	skip    bool // cur belongs to a command whose output holds no table
	blank   bool // a blank line came after the last line that was understood
	prompts bool // the page has prompts: what stands outside of outputs is prose
	tries   int  // JSON documents that turned out to be none
}

var ansi = lazy("\x1b\\[[0-9;]*[A-Za-z]")

// clean takes away what copying from terminals and web pages leaves: colours, hard and wide spaces.
func clean(b []byte) []byte {
	for _, s := range []string{"\u00a0", "\u3000", "\u2003", "\u2002"} {
		b = bytes.ReplaceAll(b, []byte(s), []byte(" "))
	}
	for _, s := range []string{"\u200b", "\ufeff"} {
		b = bytes.ReplaceAll(b, []byte(s), nil)
	}
	return ansi().ReplaceAll(b, nil)
}

func newPage(c *collector, in Input) *page {
	in.Text = clean(in.Text)
	p := &page{in: in, col: c}
	at, text := 0, in.Text
	for no := 1; len(text) > 0; no++ {
		l, rest, found := bytes.Cut(text, []byte("\n"))
		p.lines = append(p.lines, line{no, string(bytes.TrimRight(l, "\r")), at})
		at += len(l)
		if found {
			at++
		}
		text = rest
	}
	p.prompts = slices.ContainsFunc(p.lines, func(l line) bool {
		_, ok := parsePrompt(l.text)
		return ok
	})
	return p
}

func (p *page) at(l line, command string) Origin {
	return Origin{File: p.in.File, Line: l.no, Command: command}
}

func (p *page) run() {
	if p.in.Command != "" && len(p.lines) > 0 {
		p.command(p.in.Command, p.lines[0])
	}
	for p.next < len(p.lines) {
		l := p.lines[p.next]
		p.next++
		p.feed(l)
	}
	p.close()
}

// feed gives a line to the output that it belongs to, and finds where outputs begin and end.
func (p *page) feed(l line) {
	text := strings.TrimSpace(l.text)
	if p.document(l, text) {
		return
	}
	if pr, ok := parsePrompt(l.text); ok && !p.ownComment(text) {
		p.close()
		p.prompt(pr, l)
		return
	}
	if text == "" {
		p.blank = true
		if w, ok := p.cur.(interface{ blank() }); ok {
			w.blank()
		}
		return
	}
	if p.cur != nil && !p.skip && p.cur.line(l) {
		p.blank = false
		p.block.Rows++
		return
	}
	p.other(l, text)
}

// ownComment: iptables-save writes "# Completed on …", which is no prompt.
func (p *page) ownComment(text string) bool {
	_, save := p.cur.(*iptablesSave)
	return save && strings.HasPrefix(text, "#") && !strings.HasPrefix(text, "# ip")
}

// other is a line that the current output does not take.
func (p *page) other(l line, text string) {
	switch kind := shapeOf(text); {
	case text == "..." || text == "…":
		if p.block != nil && !p.skip {
			p.block.cut = append(p.block.cut, p.block.at(l))
		}
	case startsCommand(text) && strings.Contains(text, " "):
		p.close()
		p.command(text, l)
	case kind != "" && (p.cur == nil || p.skip || p.blank || p.block.cmd.text == "" && kind != p.block.Kind):
		p.close()
		p.open(kind, command{}, nil, listOptions{}, l)
		if p.cur.line(l) {
			p.block.Rows++
		}
	case strings.HasPrefix(text, "#"), p.skip:
	case p.cur == nil || p.blank:
		p.close()
		if !p.prompts && p.in.Command == "" {
			p.col.notUnderstood(p.at(l, ""), text, "no output of a known command")
		}
	default:
		p.block.unread(l, "not understood as "+p.block.Kind)
	}
}

// prompt follows the shell from node to node and into namespaces, and starts the command.
func (p *page) prompt(pr prompt, l line) {
	if in := p.sh.netns != ""; in && !p.stays(pr.host) {
		p.sh = shell{host: p.sh.from}
	}
	if pr.host != "" && p.sh.netns == "" {
		p.sh.host = pr.host
	}
	if pr.command != "" {
		p.command(pr.command, l)
	}
}

// stays reports whether a prompt is still one of the namespace that was entered: nsenter keeps the node's
// prompt, a pod's own shell has no host in it, or the pod's name.
func (p *page) stays(host string) bool {
	switch {
	case host == "":
		return true
	case p.sh.same:
		return host == p.sh.from
	default:
		return host != p.sh.from && strings.Contains(p.sh.netns, host)
	}
}

// command starts the output of a command line.
func (p *page) command(text string, l line) {
	for strings.HasSuffix(text, "\\") && p.next < len(p.lines) {
		text = strings.TrimSuffix(text, "\\") + " " + strings.TrimSpace(p.lines[p.next].text)
		p.next++
	}
	c := parseCommand(text)
	switch {
	case text == "exit" || text == "logout":
		p.sh = shell{host: p.sh.from}
		return
	case c.shell:
		p.sh.from, p.sh.netns = p.sh.host, c.netns
		p.sh.same = strings.HasPrefix(c.netns, byPID) || strings.HasPrefix(c.netns, byName)
		return
	}
	kind, args, opts := kindOf(c)
	p.open(kind, c, args, opts, l)
}

// open begins an output. kind "" is one without tables.
func (p *page) open(kind string, c command, args []string, opts listOptions, l line) {
	f := &facts{Output: Output{Origin: p.at(l, c.text), Node: p.in.Node, Netns: p.in.Netns, Kind: kind}, quality: fromText}
	f.said = p.in.Netns != ""
	if f.Node == "" {
		f.Node = p.sh.host
	}
	if p.sh.netns != "" {
		f.Netns, f.said = p.sh.netns, true
	}
	if c.netns != "" {
		f.Netns, f.said = c.netns, true
		if p.in.Node == "" && strings.Contains(c.netns, "/") {
			f.Node = "" // kubectl exec runs anywhere: the pod's object says the node
		}
	}
	if f.Netns == "" {
		f.Netns = tables.HostName
	}
	p.block = &block{page: p, facts: f, cmd: c, args: args, opts: opts}
	p.skip, p.blank = kind == "", false
	p.cur = newParser(p.block)
}

// close ends the current output and keeps what it said.
func (p *page) close() {
	if p.cur == nil {
		return
	}
	p.cur.end()
	if len(p.col.blocks) < maxOutputs {
		p.col.blocks = append(p.col.blocks, p.block.facts)
	}
	p.cur, p.block, p.skip, p.blank = nil, nil, false, false
}
