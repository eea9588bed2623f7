package library

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// One batch of an import shares its fsyncs.
const (
	importFiles = 4096
	importBytes = 1 << 30
)

// ImportFile is one file for Import.
type ImportFile struct {
	Path  string
	Size  int64
	MTime time.Time          // zero: now
	Want  backends.Checksums // what it must have, or zero
	Open  func() (io.ReadCloser, error)
}

// Import writes files straight to the cartridges, as if they had been delivered on them: no buffer, no
// drive, no waiting, and one fsync for thousands of files. They are NEARLINE when it
// returns. A file that is there with the size and checksums of Want is skipped; another one is
// replaced. After an error everything counted in added is durable.
func (l *Library) Import(ctx context.Context, files iter.Seq2[ImportFile, error]) (added int64, err error) {
	b := &importBatch{l: l, buf: make([]byte, 256<<10)}
	for in, ierr := range files {
		if ierr != nil {
			err = ierr
			break
		}
		if err = b.add(ctx, in); err != nil {
			err = l.fail("import", in.Path, err)
			break
		}
		if len(b.files) >= importFiles || b.bytes >= importBytes {
			n, ferr := b.flush()
			added += n
			if err = ferr; err != nil {
				break
			}
		}
	}
	n, ferr := b.flush()
	if err == nil {
		err = ferr
	}
	return added + n, err
}

type importBatch struct {
	l     *Library
	buf   []byte
	files []imported
	bytes int64
	lines []byte
}

type imported struct {
	path string
	f    *file
	c    *cart
}

func (b *importBatch) add(ctx context.Context, in ImportFile) error {
	l := b.l
	if err := l.begin(ctx, "import", in.Path); err != nil {
		return err
	}
	err := l.canPut(in.Path)
	if old, _ := l.find(in.Path); old != nil && !in.Want.IsZero() && old.size == in.Size && in.Want.Match(old.sums()) == nil {
		l.unlock()
		return nil
	}
	if in.MTime.IsZero() {
		in.MTime = l.o.Now()
	}
	_, d := l.find(dirOf(in.Path))
	f := &file{id: l.newID(), size: in.Size, mtime: in.MTime.UnixNano()}
	c := l.choose(in.Path, d, in.Size)
	switch {
	case err != nil:
	case in.Size < 0:
		err = fmt.Errorf("size %d: %w", in.Size, backends.ErrNotSupported)
	case c == nil:
		err = fmt.Errorf("no cartridge has room for %d bytes: %w", in.Size, backends.ErrNoSpace)
	default:
		f.cart, f.pos = int16(c.n), c.end
		c.end += in.Size
		c.writing++
	}
	l.unlock()
	if err != nil {
		return err
	}
	if err := b.write(c, f, in); err != nil {
		l.mu.Lock()
		c.writing--
		l.unlock()
		return err
	}
	b.files = append(b.files, imported{in.Path, f, c})
	b.bytes += in.Size
	r := f.record(in.Path)
	b.lines = r.appendTo(b.lines)
	return nil
}

func (b *importBatch) write(c *cart, f *file, in ImportFile) error {
	src, err := in.Open()
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	defer src.Close()
	h := checksum.New(append(checksum.Known(backends.Checksums{MD5: in.Want.MD5}), checksum.Default...)...)
	w := io.MultiWriter(io.NewOffsetWriter(c.f, f.pos), h)
	// One byte more than announced shows that there is more.
	n, err := io.CopyBuffer(w, struct{ io.Reader }{io.LimitReader(src, in.Size)}, b.buf)
	if err != nil {
		return translated(err)
	}
	if extra, _ := io.ReadFull(src, b.buf[:1]); n != in.Size || extra != 0 {
		return fmt.Errorf("source has not the %d bytes announced: %w", in.Size, backends.ErrCorrupt)
	}
	if !in.Want.IsZero() {
		if err := in.Want.Match(h.Sum()); err != nil {
			return err
		}
	}
	f.setSums(h)
	return nil
}

// flush makes the batch durable and visible.
func (b *importBatch) flush() (added int64, err error) {
	if len(b.files) == 0 {
		return 0, nil
	}
	l := b.l
	files, lines := b.files, b.lines
	b.files, b.lines, b.bytes = nil, nil, 0
	synced := map[*cart]bool{}
	for _, i := range files {
		if !synced[i.c] && err == nil {
			synced[i.c] = true
			err = translated(i.c.f.Sync())
		}
	}
	if err == nil {
		err = l.idx.append(lines, "", func() {
			l.mu.Lock()
			defer l.unlock()
			for _, i := range files {
				old, perr := l.put(i.path, i.f)
				if perr != nil {
					continue // a file and a folder of one name came in one batch
				}
				added++
				i.c.live++
				i.c.bytes += i.f.size
				if old != nil {
					l.discard(old)
				}
			}
			l.changed()
		})
	}
	l.mu.Lock()
	for _, i := range files {
		i.c.writing--
	}
	l.unlock()
	if err != nil {
		return 0, fmt.Errorf("import: %w", err)
	}
	return added, nil
}
