package report

import (
	"strings"
	"unicode/utf8"
)

// style is how a piece of text stands out. Without colour only the words and marks are left, so
// nothing may be said by a style alone.
type style string

// ANSI attributes (ECMA-48 section 8.3.117).
const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "1;31"
	green  style = "1;32"
	yellow style = "1;33"
)

// span is text in one style; text is clean by the time it gets here.
type span struct {
	text  string
	style style
}

// cell is a place in a row, made of spans.
type cell []span

func text(s string) cell                   { return cell{{s, plain}} }
func styled(s string, as style) cell       { return cell{{s, as}} }
func (c cell) add(s string, as style) cell { return append(c, span{s, as}) }

// width counts columns, one a rune: names in a cluster are ASCII, and clean leaves no zero-width
// characters in front of a terminal.
func (c cell) width() int {
	n := 0
	for _, s := range c {
		n += utf8.RuneCountInString(s.text)
	}
	return n
}

// row is one line of a table, or a note below one.
type row struct {
	cells []cell
	note  cell // when set the row is this text, from the note column on
}

// table aligns the cells of its rows.
type table struct {
	rows   []row
	right  map[int]bool // columns that are aligned right
	noteAt int          // the column where notes begin
}

// gap is what stands between two columns.
const gap = 2

func (t *table) widths() []int {
	var w []int
	for _, r := range t.rows {
		for i, c := range r.cells {
			if i == len(w) {
				w = append(w, 0)
			}
			w[i] = max(w[i], c.width())
		}
	}
	return w
}

// width is that of the widest row, notes not counted: they may wrap.
func (t *table) width() int {
	n := 0
	for _, w := range t.widths() {
		if w > 0 {
			n += w + gap
		}
	}
	return max(n-gap, 0)
}

// print writes the table, leaving out columns that are empty in every row.
func (t *table) print(p *printer) {
	w := t.widths()
	indent := 0
	for i := 0; i < t.noteAt && i < len(w); i++ {
		if w[i] > 0 {
			indent += w[i] + gap
		}
	}
	for _, r := range t.rows {
		if r.note != nil {
			p.line(append(cell{{strings.Repeat(" ", indent), plain}}, r.note...))
			continue
		}
		p.line(t.join(r, w))
	}
}

func (t *table) join(r row, widths []int) cell {
	var out cell
	pending := 0 // spaces owed before the next text: none are left at a line's end
	for i, c := range r.cells {
		if widths[i] == 0 {
			continue
		}
		slack := widths[i] - c.width()
		if t.right[i] {
			pending += slack
		}
		if c.width() > 0 {
			out = append(out.add(strings.Repeat(" ", pending), plain), c...)
			pending = 0
		}
		if !t.right[i] {
			pending += slack
		}
		pending += gap
	}
	return out
}

// wrap breaks s at spaces into lines of at most width columns; a longer word stays whole.
func wrap(s string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
