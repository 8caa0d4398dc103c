package lab

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxOrder bounds an order in bytes; the kernel takes 6 MiB of arguments and environment at most.
const maxOrder = 8 << 20

// sendOrder sends an order and files over a socket.
func sendOrder(conn *net.UnixConn, o order, files []*os.File) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(text))) //nolint:gosec // maxOrder is checked by the receiver
	if _, _, err := conn.WriteMsgUnix(head, unix.UnixRights(fds...), nil); err != nil {
		return err
	}
	_, err = conn.Write(text)
	return err
}

// receiveOrder is the other end of sendOrder. The caller closes the files.
func receiveOrder(conn *net.UnixConn, files int) (o order, received []*os.File, err error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*files))
	n, oobn, _, _, err := conn.ReadMsgUnix(head[:], oob)
	if err != nil {
		return o, nil, err
	}
	if received, err = filesOf(oob[:oobn]); err != nil {
		return o, received, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if n != len(head) || size > maxOrder || len(received) != files {
		return o, received, fmt.Errorf("malformed order: %d bytes of length, %d files", n, len(received))
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(conn, text); err != nil {
		return o, received, err
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return o, received, err
	}
	if len(o.Argv) == 0 {
		return o, received, errors.New("malformed order: no command")
	}
	return o, received, nil
}

func filesOf(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "stream")) //nolint:gosec // a descriptor
		}
	}
	return files, nil
}

// streams are a command's standard streams as files: the caller's own, or pipes to it.
type streams struct {
	files  []*os.File
	ours   []*os.File // to be closed once the files are sent
	copies sync.WaitGroup
}

func openStreams(stdio Stdio) (*streams, error) {
	s := &streams{}
	err := s.addInput(stdio.In)
	for _, w := range []io.Writer{stdio.Out, stdio.Err} {
		if err == nil {
			err = s.addOutput(w)
		}
	}
	if err != nil {
		s.sent()
		return nil, err
	}
	return s, nil
}

func (s *streams) addInput(r io.Reader) error {
	if f, ok := r.(*os.File); ok {
		s.files = append(s.files, f)
		return nil
	}
	if r == nil {
		return s.addNull(os.O_RDONLY)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	s.files, s.ours = append(s.files, read), append(s.ours, read)
	go func() { // not waited for: a reader may never end
		_, _ = io.Copy(write, r)
		_ = write.Close()
	}()
	return nil
}

func (s *streams) addOutput(w io.Writer) error {
	if f, ok := w.(*os.File); ok {
		s.files = append(s.files, f)
		return nil
	}
	if w == nil {
		return s.addNull(os.O_WRONLY)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	s.files, s.ours = append(s.files, write), append(s.ours, write)
	s.copies.Go(func() {
		_, _ = io.Copy(w, read)
		_ = read.Close()
	})
	return nil
}

func (s *streams) addNull(flag int) error {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err != nil {
		return err
	}
	s.files, s.ours = append(s.files, f), append(s.ours, f)
	return nil
}

// sent closes our ends of what the other process now has.
func (s *streams) sent() {
	for _, f := range s.ours {
		_ = f.Close()
	}
	s.ours = nil
}

// wait returns when all output has arrived.
func (s *streams) wait() { s.copies.Wait() }
