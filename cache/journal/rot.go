package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"golang.org/x/sys/unix"
)

// errRotten: the log does not have the content any more that was put there.
var errRotten = fmt.Errorf("its content in the log has rotted: %w", ErrDamaged)

// fromLog reads the content, of which only the log has the bytes, into b, whole. Nobody gets
// any of it who has not compared it with what was put there. The caller holds m.mu.
func (m *memory) fromLog(b []byte) error {
	n, err := m.seg.file.ReadAt(b, m.off)
	if n < len(b) && err != nil && err != io.EOF {
		return fmt.Errorf("read the content in the log: %w", err)
	}
	if n < len(b) || crc32.Checksum(b, castagnoli) != m.sum {
		return errRotten
	}
	return nil
}

// remains is the content as it is, or what is left of it, and errRotten: what the disk cannot
// read is zeros then. The caller holds m.mu, shared or alone.
func (m *memory) remains() ([]byte, error) {
	if !m.dropped() {
		return m.bytes, nil
	}
	b := takeBuffer(int(m.size))
	err := m.fromLog(b)
	if err == nil || !errors.Is(err, unix.EIO) {
		return b, err
	}
	if b, err = readLeft(m.seg.file, m.off, m.size); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != m.sum {
		return b, errRotten
	}
	return b, nil
}

// readLeft reads of the log what can be read; the rest is zeros.
func readLeft(f File, off, size int64) ([]byte, error) {
	b := make([]byte, size)
	if n, err := f.ReadAt(b, off); n == len(b) || err == io.EOF {
		return b, nil
	}
	for i := int64(0); i < size; i += logUnit {
		p := b[i:min(i+logUnit, size)]
		n, err := f.ReadAt(p, off+i)
		if n < len(p) && err != nil && err != io.EOF && !errors.Is(err, unix.EIO) {
			return nil, fmt.Errorf("read the content in the log: %w", err)
		}
		clear(p[n:])
	}
	return b, nil
}

// rotted marks the entry after a reader has found its content rotten. It gets files, which
// keep what is left, before the log needs the room.
func (e *Entry) rotted() {
	err := e.spillNow()
	for _, known := range []error{errRotten, ErrRemoved, ErrClosed} {
		if err == nil || errors.Is(err, known) {
			return
		}
	}
	e.j.log.Warn("journal: what is left of a damaged file stays in the log", "id", e.id, "err", err)
}

// Damaged is Record().Damaged without the copy.
func (e *Entry) Damaged() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.st.Damaged
}
