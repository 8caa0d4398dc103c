package capture

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// opRet is "ret #K" (BPF_RET|BPF_K), where K is how many bytes of the frame to keep; 0 rejects.
const opRet = 0x06

// keepAll is the return value of a filter that passes a frame whole.
const keepAll = 1 << 18

// snapped gives the filter with its results cut to snap bytes, so that the kernel copies no more
// into the ring than is kept. A nil filter passes everything.
func snapped(filter []bpf.RawInstruction, snap int) []bpf.RawInstruction {
	if filter == nil {
		return []bpf.RawInstruction{{Op: opRet, K: uint32(snap)}}
	}
	out := make([]bpf.RawInstruction, len(filter))
	for i, in := range filter {
		if in.Op == opRet {
			in.K = min(in.K, uint32(snap))
		}
		out[i] = in
	}
	return out
}

// label is a place in a program that is being written.
type label int

// op is an instruction, or a jump to a label when jump is set.
type op struct {
	ins  bpf.Instruction
	jump bool
	cond *bpf.JumpIf // nil: always
	to   label
	far  bool // a conditional jump of more than 255 instructions: it skips over an unconditional one
}

// size is the number of instructions that op becomes.
func (o op) size() int {
	if o.far {
		return 2
	}
	return 1
}

// program writes classic BPF with labels. Jumps go forward only, as the machine demands.
type program struct {
	ops    []op
	places []int // position in ops of each label; -1: not placed yet
}

func (p *program) newLabel() label {
	p.places = append(p.places, -1)
	return label(len(p.places) - 1)
}

// place puts the label before the next instruction.
func (p *program) place(l label) { p.places[l] = len(p.ops) }

func (p *program) emit(ins ...bpf.Instruction) {
	for _, in := range ins {
		p.ops = append(p.ops, op{ins: in})
	}
}

// jump goes to l.
func (p *program) jump(l label) { p.ops = append(p.ops, op{jump: true, to: l}) }

// jumpIf goes to l if A compares with v as test says, else on.
func (p *program) jumpIf(test bpf.JumpTest, v uint32, l label) {
	p.ops = append(p.ops, op{jump: true, cond: &bpf.JumpIf{Cond: test, Val: v}, to: l})
}

// jumpEq goes to l if A is v.
func (p *program) jumpEq(v uint32, l label) { p.jumpIf(bpf.JumpEqual, v, l) }

// assemble resolves the labels. A conditional jump reaches 255 instructions (an 8-bit offset);
// where that is too short it becomes two instructions, which may push others out of reach in turn.
func (p *program) assemble() ([]bpf.RawInstruction, error) {
	at := p.layout()
	for p.stretch(at) {
		at = p.layout()
	}
	var out []bpf.Instruction
	for i, o := range p.ops {
		if !o.jump {
			out = append(out, o.ins)
			continue
		}
		if p.places[o.to] <= i {
			return nil, fmt.Errorf("assemble filter: label %d is not ahead of instruction %d", o.to, i)
		}
		skip := at[p.places[o.to]] - at[i] - o.size()
		switch {
		case o.cond == nil:
			out = append(out, bpf.Jump{Skip: uint32(skip)})
		case o.far:
			out = append(out, bpf.JumpIf{Cond: o.cond.Cond, Val: o.cond.Val, SkipFalse: 1}, bpf.Jump{Skip: uint32(skip)})
		default:
			out = append(out, bpf.JumpIf{Cond: o.cond.Cond, Val: o.cond.Val, SkipTrue: uint8(skip)})
		}
	}
	return bpf.Assemble(out)
}

// layout gives the final position of each op, and of the end.
func (p *program) layout() []int {
	at := make([]int, len(p.ops)+1)
	for i, o := range p.ops {
		at[i+1] = at[i] + o.size()
	}
	return at
}

// stretch marks the conditional jumps that do not reach, and reports whether there were any.
func (p *program) stretch(at []int) bool {
	changed := false
	for i := range p.ops {
		o := &p.ops[i]
		if o.cond != nil && !o.far && at[p.places[o.to]]-at[i]-1 > 255 {
			o.far, changed = true, true
		}
	}
	return changed
}
