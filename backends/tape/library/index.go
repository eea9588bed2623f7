package library

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// formatVersion is the first line's number in the index file.
const formatVersion = 1

// recordKind is the second field of every line of the index.
type recordKind byte

// The kinds of record.
const (
	kindVersion recordKind = 'V' // V <version>
	kindBatch   recordKind = 'B' // B <offset>: everything before offset was durable when this was written
	kindFile    recordKind = 'F' // F <id> <size> <mtime> <adler32> <sha256> <cartridge> <position> <path>
	kindTape    recordKind = 'T' // T <id> <cartridge> <position>
	kindDelete  recordKind = 'D' // D <id>
)

// record is one line of the index.
type record struct {
	kind  recordKind
	n     int64 // version, or offset
	id    uint64
	size  int64
	mtime int64
	adler uint32
	sha   [32]byte
	cart  int16
	pos   int64
	path  string
}

// errIndexBroken says that a record may or may not be on disk.
var errIndexBroken = errors.New("index is unusable until it can be written anew")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendTo adds the line of r: eight digits of CRC32C over the rest, a space, the fields.
func (r *record) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, "00000000 "...)
	b = append(b, byte(r.kind))
	num := func(n int64) { b = strconv.AppendInt(append(b, ' '), n, 10) }
	switch r.kind {
	case kindVersion, kindBatch:
		num(r.n)
	case kindDelete:
		num(int64(r.id))
	case kindTape:
		num(int64(r.id))
		num(int64(r.cart))
		num(r.pos)
	case kindFile:
		num(int64(r.id))
		num(r.size)
		num(r.mtime)
		b = append(b, ' ')
		b = hex.AppendEncode(b, []byte{byte(r.adler >> 24), byte(r.adler >> 16), byte(r.adler >> 8), byte(r.adler)})
		b = append(b, ' ')
		b = hex.AppendEncode(b, r.sha[:])
		num(int64(r.cart))
		num(r.pos)
		b = strconv.AppendQuote(append(b, ' '), r.path)
	}
	copy(b[start:], crcDigits(b[start+9:]))
	return append(b, '\n')
}

func crcDigits(b []byte) []byte { return fmt.Appendf(nil, "%08x", crc32.Checksum(b, castagnoli)) }

// parseRecord reads a line without its newline.
func parseRecord(line []byte) (r record, err error) {
	bad := func() (record, error) {
		return record{}, fmt.Errorf("index line %.60q: %w", line, backends.ErrDamaged)
	}
	if len(line) < 12 || line[8] != ' ' || line[10] != ' ' {
		return bad()
	}
	crc, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || uint32(crc) != crc32.Checksum(line[9:], castagnoli) {
		return bad()
	}
	r.kind = recordKind(line[9])
	rest := line[11:]
	ok := true
	word := func() string {
		w, tail, _ := bytes.Cut(rest, []byte(" "))
		rest = tail
		return string(w)
	}
	num := func() int64 {
		n, err := strconv.ParseInt(word(), 10, 64)
		ok = ok && err == nil
		return n
	}
	place := func() {
		c := num()
		ok = ok && c >= -1 && c < maxCartridges
		r.cart, r.pos = int16(c), num()
		ok = ok && r.pos >= 0
	}
	switch r.kind {
	case kindVersion, kindBatch:
		r.n = num()
	case kindDelete:
		r.id = uint64(num())
	case kindTape:
		r.id = uint64(num())
		place()
	case kindFile:
		r.id, r.size, r.mtime = uint64(num()), num(), num()
		adler, aerr := strconv.ParseUint(word(), 16, 32)
		r.adler = uint32(adler)
		n, serr := hex.Decode(r.sha[:], []byte(pad(word())))
		place()
		path, perr := strconv.Unquote(string(rest))
		r.path, rest = path, nil
		ok = ok && aerr == nil && serr == nil && n == 32 && perr == nil && path != "" && path != "." && checkPath(path) == nil && r.size >= 0
	default:
		return bad()
	}
	if !ok || len(rest) > 0 {
		return bad()
	}
	return r, nil
}

// pad refuses digests of any other length by making them undecodable.
func pad(s string) string {
	if len(s) != 64 {
		return "x"
	}
	return s
}

func (f *file) record(path string) record {
	return record{kind: kindFile, id: f.id, size: f.size, mtime: f.mtime, adler: f.adler, sha: f.sha, cart: f.cart, pos: f.pos, path: path}
}

func (f *file) sums() backends.Checksums {
	return backends.Checksums{Adler32: fmt.Sprintf("%08x", f.adler), SHA256: hex.EncodeToString(f.sha[:])}
}

// setSums takes adler32 and sha256, which a hasher of checksum.Default always gives.
func (f *file) setSums(h *checksum.Hasher) {
	c := h.Sum()
	a, _ := strconv.ParseUint(c.Adler32, 16, 32)
	f.adler = uint32(a)
	hex.Decode(f.sha[:], []byte(c.SHA256))
}

func (f *file) modified() time.Time { return time.Unix(0, f.mtime) }

// index is the append-only file that says which files there are. Records of callers
// that come together share one fsync; what they change in memory is applied in the order of
// the file, so that a restart comes to the same state. When a sync fails nothing is known of the file any
// more: before the next record what is in memory is written to another, which takes its place.
type index struct {
	renew func() (f *os.File, end int64, err error)
	f     *os.File
	done  chan struct{}
	known map[string]bool // folders of the buffer whose own entry is durable; run's alone

	mu     sync.Mutex // guards the rest
	off    int64      // of the next batch
	queue  []*appended
	wake   chan struct{}
	closed bool
	err    error // until the file is renewed
}

// appended is what one caller adds.
type appended struct {
	lines []byte
	sync  string // a folder of the buffer whose entries must be durable before
	apply func()
	done  chan error
}

func startIndex(f *os.File, off int64, renew func() (*os.File, int64, error)) *index {
	x := &index{renew: renew, f: f, off: off, done: make(chan struct{}), known: map[string]bool{}, wake: make(chan struct{}, 1)}
	go x.run()
	return x
}

// append makes the lines durable, calls apply, and returns; apply is not called after an
// error. The caller holds no lock.
func (x *index) append(lines []byte, folder string, apply func()) error {
	a := &appended{lines: lines, sync: folder, apply: apply, done: make(chan error, 1)}
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return backends.ErrClosed
	}
	x.queue = append(x.queue, a)
	select { // never blocks
	case x.wake <- struct{}{}:
	default:
	}
	x.mu.Unlock()
	return <-a.done
}

func (x *index) run() {
	defer close(x.done)
	for range x.wake {
		for {
			x.mu.Lock()
			batch := x.queue
			x.queue = nil
			x.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			err := x.write(batch)
			for _, a := range batch {
				if err == nil && a.apply != nil {
					a.apply()
				}
				a.done <- err
			}
		}
	}
}

// write puts one batch on disk. Only run calls it.
func (x *index) write(batch []*appended) error {
	if x.err != nil {
		f, end, err := x.renew()
		if err != nil {
			return fmt.Errorf("%w; before: %v", err, x.err)
		}
		x.f.Close() // nothing in it is wanted
		x.f, x.off, x.err = f, end, nil
	}
	synced := map[string]bool{}
	b := (&record{kind: kindBatch, n: x.off}).appendTo(nil)
	for _, a := range batch {
		if a.sync != "" && !synced[a.sync] {
			if err := x.syncFolder(a.sync); err != nil {
				return fmt.Errorf("sync buffer folder: %w", translated(err))
			}
			synced[a.sync] = true
		}
		b = append(b, a.lines...)
	}
	if _, err := x.f.WriteAt(b, x.off); err != nil {
		// Nothing of it was promised. Cut it off, or the file must not be used any more.
		if terr := x.f.Truncate(x.off); terr != nil {
			x.err = fmt.Errorf("write index: %w, %w", translated(err), errIndexBroken)
			return x.err
		}
		return fmt.Errorf("write index: %w", translated(err))
	}
	if err := x.f.Sync(); err != nil {
		x.err = fmt.Errorf("sync index: %w, %w", translated(err), errIndexBroken)
		return x.err
	}
	x.off += int64(len(b))
	return nil
}

// syncFolder makes the entries of a buffer folder durable, and the first time its own.
func (x *index) syncFolder(dir string) error {
	if err := syncFolder(dir); err != nil {
		return err
	}
	if x.known[dir] {
		return nil
	}
	if err := syncFolder(filepath.Dir(dir)); err != nil {
		return err
	}
	x.known[dir] = true
	return nil
}

func (x *index) close() error {
	x.mu.Lock()
	already := x.closed
	x.closed = true
	if !already {
		close(x.wake)
	}
	x.mu.Unlock()
	if already {
		return nil
	}
	<-x.done
	return x.f.Close()
}

func (l *Library) indexPath() string { return filepath.Join(l.o.Dir, "index") }
