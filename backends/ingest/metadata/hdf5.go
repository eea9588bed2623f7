package metadata

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"tarn/backends"
)

// There is no reader of HDF5 in Go that reads the attributes that h5py and PyTables write, so Python's h5py does it, in a process of its own:
// a file that is broken may cost that process, and nothing else.

//go:embed hdf5.py
var hdf5Program string

// ErrNoReader is that there is no Python with h5py.
var ErrNoReader = fmt.Errorf("attributes of HDF5 files are read by Python's h5py, which is not installed: %w", backends.ErrNotSupported)

const (
	hdf5Within = 30 * time.Second // an answer about one file, the start of Python included
	hdf5Idle   = time.Minute      // then the process ends
	hdf5Again  = 10 * time.Minute // after which it is looked again whether there is h5py
	hdf5Answer = 4 << 20          // bytes of an answer
)

// H5Py reads attributes of the roots of HDF5 files. Its process is started when it is wanted, and ends when it was not for a minute, or with
// this one. The zero value is not of use; see NewH5Py.
type H5Py struct {
	pythons []string
	within  time.Duration

	mu      sync.Mutex // one file at a time
	proc    *h5proc
	idle    *time.Timer
	closed  bool
	missing time.Time // since when there is known to be none
}

// h5proc is a Python that answers.
type h5proc struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// NewH5Py gives a reader that uses the first of some Pythons that has h5py.
func NewH5Py(pythons ...string) *H5Py { return &H5Py{pythons: pythons, within: hdf5Within} }

// question and answer are lines of JSON, those of hdf5.py.
type question struct {
	Path  string   `json:"path"`
	Names []string `json:"names"`
}

type answer struct {
	Ready      bool              `json:"ready"`
	Attributes map[string]any    `json:"attributes"` // strings, numbers and truths
	Faults     map[string]string `json:"faults"`     // by name of an attribute
	Error      string            `json:"error"`
}

// Attributes gives those of some names, as far as they are there and are scalars; it tells of the others. f has to be an open file.
// ErrNoReader.
func (h *H5Py) Attributes(f io.ReaderAt, _ int64, names []string) (map[string]any, error) {
	file, ok := f.(*os.File)
	if !ok {
		return nil, fmt.Errorf("attributes of HDF5 files are read of files only: %w", backends.ErrNotSupported)
	}
	if len(names) == 0 {
		return nil, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.startLocked(); err != nil {
		return nil, err
	}
	// The descriptor, and not the name, which may be another file's by now.
	a, err := h.proc.ask(question{fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), names}, h.within)
	if err != nil {
		h.endLocked()
		return nil, fmt.Errorf("read attributes by h5py: %w", err)
	}
	h.idle.Reset(hdf5Idle)
	var errs []error
	if a.Error != "" {
		errs = append(errs, fmt.Errorf("h5py: %s", a.Error))
	}
	for name, why := range a.Faults {
		errs = append(errs, fmt.Errorf("attribute %s: %s", name, why))
	}
	return a.Attributes, errors.Join(errs...)
}

// startLocked has a process run.
func (h *H5Py) startLocked() error {
	switch {
	case h.closed:
		return backends.ErrClosed
	case h.proc != nil:
		return nil
	case !h.missing.IsZero() && time.Since(h.missing) < hdf5Again:
		return ErrNoReader
	}
	for _, python := range h.pythons {
		p, err := startPython(python)
		if err != nil {
			continue // it is not here
		}
		if a, err := p.answer(h.within); err == nil && a.Ready {
			h.proc, h.missing = p, time.Time{}
			if h.idle == nil {
				h.idle = time.AfterFunc(hdf5Idle, func() { h.mu.Lock(); defer h.mu.Unlock(); h.endLocked() })
			}
			return nil
		}
		p.end()
	}
	h.missing = time.Now()
	return ErrNoReader
}

func (h *H5Py) endLocked() {
	if h.proc != nil {
		h.proc.end()
		h.proc = nil
	}
}

// Close ends the process.
func (h *H5Py) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.idle != nil {
		h.idle.Stop()
	}
	h.endLocked()
	return nil
}

func startPython(python string) (*h5proc, error) {
	cmd := exec.Command(python, "-c", hdf5Program)
	cmd.Dir = "/" // nothing is imported from where we are
	cmd.Env = append(os.Environ(), "HDF5_USE_FILE_LOCKING=FALSE")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	return &h5proc{cmd, in, bufio.NewReaderSize(out, 64<<10)}, nil
}

func (p *h5proc) ask(q question, within time.Duration) (a answer, err error) {
	b, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		return a, err
	}
	return p.answer(within)
}

// answer reads one line. A process that gives none in time is killed.
func (p *h5proc) answer(within time.Duration) (a answer, err error) {
	late := time.AfterFunc(within, func() { _ = p.cmd.Process.Kill() })
	var line []byte
	for {
		part, err := p.out.ReadSlice('\n')
		if line = append(line, part...); err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if !late.Stop() {
				return a, fmt.Errorf("no answer in %v", within)
			}
			return a, fmt.Errorf("it ended: %w", err)
		}
		if len(line) > hdf5Answer {
			late.Stop()
			return a, fmt.Errorf("its answer is longer than %d bytes", hdf5Answer)
		}
	}
	late.Stop()
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	return a, d.Decode(&a)
}

// end has the process end, and waits for it.
func (p *h5proc) end() {
	p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
