package compare

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// The bounds of a sorter: bytes of records in memory, and files that they are spilled to.
const (
	sortMemory = 32 << 20
	sortRuns   = 64
)

// sorter puts any number of records into the order of their keys, in bounded memory: what does not fit goes to files
// in a folder, which have no name any more as soon as they are open.
type sorter struct {
	dir    string
	memory int // bytes

	buf  []byte // records, one after the other
	recs []span // where they are
	runs []*os.File
}

// span is one record of the buffer.
type span struct{ at, key, val int }

func newSorter(dir string) *sorter { return &sorter{dir: dir, memory: sortMemory} }

// close gives the files back.
func (s *sorter) close() {
	for _, f := range s.runs {
		f.Close()
	}
	s.buf, s.recs, s.runs = nil, nil, nil
}

// add takes one record, of which it keeps a copy.
func (s *sorter) add(key, val []byte) error {
	const each = 24 // of a span
	if n := len(s.buf) + each*len(s.recs); n > 0 && n+len(key)+len(val)+each > s.memory {
		if err := s.spill(); err != nil {
			return err
		}
	}
	at := len(s.buf)
	s.buf = append(append(s.buf, key...), val...)
	s.recs = append(s.recs, span{at, len(key), len(val)})
	return nil
}

func (s *sorter) keyOf(r span) []byte { return s.buf[r.at : r.at+r.key] }

func (s *sorter) sortBuffer() {
	slices.SortStableFunc(s.recs, func(a, b span) int { return bytes.Compare(s.keyOf(a), s.keyOf(b)) })
}

// spill writes the buffer to a file, and makes one file of many.
func (s *sorter) spill() error {
	s.sortBuffer()
	if len(s.runs) == sortRuns {
		f, err := s.write(func(put func(key, val []byte) error) error { return s.merge(s.sources(false), put) })
		if err != nil {
			return err
		}
		for _, old := range s.runs {
			old.Close()
		}
		s.runs = []*os.File{f}
	}
	f, err := s.write(func(put func(key, val []byte) error) error { return s.merge([]source{&memory{s: s}}, put) })
	if err != nil {
		return err
	}
	s.runs = append(s.runs, f)
	s.buf, s.recs = s.buf[:0], s.recs[:0]
	return nil
}

// write makes a file of what fill puts.
func (s *sorter) write(fill func(put func(key, val []byte) error) error) (_ *os.File, err error) {
	f, err := os.CreateTemp(s.dir, ".tarn-sort-*")
	if err != nil {
		return nil, fmt.Errorf("sort: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			err = fmt.Errorf("sort: %w", err)
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 256<<10)
	var head [2 * binary.MaxVarintLen64]byte
	err = fill(func(key, val []byte) error {
		n := binary.PutUvarint(head[:], uint64(len(key)))
		n += binary.PutUvarint(head[n:], uint64(len(val)))
		w.Write(head[:n]) // the Writer keeps its first error
		w.Write(key)
		_, err := w.Write(val)
		return err
	})
	return f, errors.Join(err, w.Flush())
}

// each calls f for every record in the order of the keys, of equal ones in the order of add. It may be called several
// times, and add after it.
func (s *sorter) each(f func(key, val []byte) error) error {
	s.sortBuffer()
	return s.merge(s.sources(true), f)
}

// source is a sorted sequence of records. What next gives is valid until it is called again.
type source interface {
	next() (key, val []byte, err error) // io.EOF at the end
}

// sources are the files, oldest first, and the buffer.
func (s *sorter) sources(buffer bool) []source {
	var out []source
	for _, f := range s.runs {
		out = append(out, &run{r: bufio.NewReaderSize(io.NewSectionReader(f, 0, 1<<62), 64<<10)})
	}
	if buffer {
		out = append(out, &memory{s: s})
	}
	return out
}

// memory reads the sorted buffer.
type memory struct {
	s *sorter
	i int
}

func (m *memory) next() (key, val []byte, err error) {
	if m.i == len(m.s.recs) {
		return nil, nil, io.EOF
	}
	r := m.s.recs[m.i]
	m.i++
	return m.s.keyOf(r), m.s.buf[r.at+r.key : r.at+r.key+r.val], nil
}

// run reads a file.
type run struct {
	r   *bufio.Reader
	buf []byte
}

func (r *run) next() (key, val []byte, err error) {
	k, err := binary.ReadUvarint(r.r)
	if err != nil {
		return nil, nil, err // io.EOF between two records only
	}
	v, err := binary.ReadUvarint(r.r)
	if err == nil {
		r.buf = slices.Grow(r.buf[:0], int(k+v))[:k+v]
		_, err = io.ReadFull(r.r, r.buf)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("a spilled record is cut: %w", io.ErrUnexpectedEOF)
	}
	return r.buf[:k], r.buf[k:], nil
}

// front is the first record of a source that is left.
type front struct {
	src      source
	order    int
	key, val []byte
}

type fronts []front

func (f fronts) Len() int      { return len(f) }
func (f fronts) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *fronts) Push(x any)   { *f = append(*f, x.(front)) }
func (f *fronts) Pop() any {
	last := (*f)[len(*f)-1]
	*f = (*f)[:len(*f)-1]
	return last
}
func (f fronts) Less(i, j int) bool {
	c := bytes.Compare(f[i].key, f[j].key)
	return c < 0 || c == 0 && f[i].order < f[j].order
}

func (s *sorter) merge(from []source, put func(key, val []byte) error) error {
	var h fronts
	for i, src := range from {
		x := front{src: src, order: i}
		var err error
		if x.key, x.val, err = src.next(); err == io.EOF {
			continue
		} else if err != nil {
			return err
		}
		h = append(h, x)
	}
	heap.Init(&h)
	for len(h) > 0 {
		x := &h[0]
		if err := put(x.key, x.val); err != nil {
			return err
		}
		var err error
		switch x.key, x.val, err = x.src.next(); {
		case err == io.EOF:
			heap.Pop(&h)
		case err != nil:
			return err
		default:
			heap.Fix(&h, 0)
		}
	}
	return nil
}
