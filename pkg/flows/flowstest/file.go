package flowstest

import (
	"bufio"
	"container/heap"
	"encoding/binary"
	"fmt"
	"os"

	"github.com/podtrace/podtrace/pkg/pcapfile"
)

// file writes the capture of one point. Frames may come a little out of order; it puts them in order,
// unless it is to leave them.
type file struct {
	cfg     *Config
	f       *os.File
	out     *bufio.Writer
	ng      *pcapfile.Writer
	order   binary.AppendByteOrder
	waiting frames
	count   int
	free    [][]byte
	header  []byte
}

// waitingFrame is a frame that may have to wait for earlier ones.
type waitingFrame struct {
	time  int64
	count int
	data  []byte
}

type frames []waitingFrame

func (f frames) Len() int { return len(f) }
func (f frames) Less(i, j int) bool {
	return f[i].time < f[j].time || f[i].time == f[j].time && f[i].count < f[j].count
}
func (f frames) Swap(i, j int) { f[i], f[j] = f[j], f[i] }

// Push is for heap.Interface.
func (f *frames) Push(x any) { *f = append(*f, x.(waitingFrame)) }

// Pop is for heap.Interface.
func (f *frames) Pop() any {
	last := (*f)[len(*f)-1]
	*f = (*f)[:len(*f)-1]
	return last
}

func create(cfg *Config, path string) (*file, error) {
	out, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create capture: %w", err)
	}
	f := &file{cfg: cfg, f: out, out: bufio.NewWriterSize(out, 1<<20), order: binary.LittleEndian}
	if cfg.BigEndian {
		f.order = binary.BigEndian
	}
	if cfg.PcapNG {
		if f.ng, err = pcapfile.NewWriter(f.out, "gencap"); err == nil {
			_, err = f.ng.AddInterface(pcapfile.Interface{Name: "eth0", LinkType: pcapfile.LinkEthernet, SnapLen: uint32(cfg.SnapLen)})
		}
		return f, err
	}
	magic := uint32(0xa1b2c3d4)
	if cfg.Nano {
		magic = 0xa1b23c4d
	}
	h := f.order.AppendUint32(nil, magic)
	h = f.order.AppendUint16(h, 2)
	h = f.order.AppendUint16(h, 4)
	for _, v := range []uint32{0, 0, pcapfile.MaxPacket, uint32(pcapfile.LinkEthernet)} {
		h = f.order.AppendUint32(h, v)
	}
	_, err = f.out.Write(h)
	return f, err
}

// buffer gives an empty buffer for a frame.
func (f *file) buffer() []byte {
	if n := len(f.free); n > 0 {
		b := f.free[n-1]
		f.free = f.free[:n-1]
		return b[:0]
	}
	return make([]byte, 0, 2048)
}

// add takes a frame; its bytes belong to the file from now on.
func (f *file) add(time int64, data []byte) {
	f.count++
	heap.Push(&f.waiting, waitingFrame{time, f.count, data})
}

// flush writes all frames up to a time.
func (f *file) flush(until int64) error {
	for len(f.waiting) > 0 && f.waiting[0].time <= until {
		w := heap.Pop(&f.waiting).(waitingFrame)
		if err := f.write(w.time, w.data); err != nil {
			return err
		}
		f.free = append(f.free, w.data)
	}
	return nil
}

func (f *file) write(time int64, data []byte) error {
	captured := data
	if f.cfg.SnapLen > 0 {
		captured = data[:min(len(data), f.cfg.SnapLen)]
	}
	if f.ng != nil {
		return f.ng.Write(&pcapfile.Record{Time: time, OrigLen: len(data), Data: captured})
	}
	part := time % 1e9
	if !f.cfg.Nano {
		part /= 1000
	}
	f.header = f.order.AppendUint32(f.header[:0], uint32(time/1e9))
	f.header = f.order.AppendUint32(f.header, uint32(part))
	f.header = f.order.AppendUint32(f.header, uint32(len(captured)))
	f.header = f.order.AppendUint32(f.header, uint32(len(data)))
	if _, err := f.out.Write(f.header); err != nil {
		return err
	}
	_, err := f.out.Write(captured)
	return err
}

func (f *file) close() error {
	if f.ng != nil {
		if err := f.ng.Flush(); err != nil {
			return err
		}
	}
	if err := f.out.Flush(); err != nil {
		return err
	}
	return f.f.Close()
}
