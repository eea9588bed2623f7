package embedded

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// A backup is a line that says what it is, a line of JSON (BackupInfo), and all records of
// one moment in the order of their keys: length of the key, length of the value, key,
// value. A key of length 0 ends them; the number of records follows, and the SHA-256 of
// all bytes before it. Lengths and numbers are varints. It depends on no database.
const (
	backupMagic   = "tarn catalogue backup\n"
	backupVersion = 1
	maxRecord     = 64 << 20 // bytes of a key or value; more is damage
)

// BackupInfo is what the head of a backup says, and the number of records, which is
// known at its end.
type BackupInfo struct {
	Version  int       `json:"version"` // of the backup's form
	Format   int       `json:"format"`  // of the records
	Lake     string    `json:"lake"`    // its name
	Made     time.Time `json:"made"`
	Sequence uint64    `json:"sequence"` // how many transactions the catalogue had seen
	Files    int64     `json:"files"`
	Bytes    int64     `json:"bytes"` // of the files
	Records  int64     `json:"records,omitempty"`
}

// Backup writes all that is stored at this moment to w, while calls go on. An error of w
// comes back as it is.
func (c *Catalogue) Backup(ctx context.Context, w io.Writer, lake string) (BackupInfo, error) {
	info := BackupInfo{Version: backupVersion, Lake: lake, Made: c.now().UTC()}
	err := c.read(ctx, func(v *view) error {
		val, err := v.get(countersKey())
		if err != nil {
			return err
		}
		var n counters
		if err := n.decode(val); err != nil {
			return err
		}
		format, err := v.version()
		if err != nil {
			return err
		}
		info.Format = int(format)
		info.Sequence, info.Files, info.Bytes = n.sequence, n.files, n.bytes
		out, err := newBackupWriter(w, info)
		if err != nil {
			return err
		}
		o := badger.DefaultIteratorOptions
		it := v.txn.NewIterator(o)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if out.n%1024 == 0 {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if e := c.broken.Load(); e != nil { // who is inside keeps it from being opened again
					return *e
				}
			}
			item := it.Item()
			if err := item.Value(func(val []byte) error { return out.record(item.Key(), val) }); err != nil {
				return err
			}
		}
		info.Records = out.n
		return out.end()
	})
	if err != nil {
		return info, fmt.Errorf("back the catalogue up: %w", err)
	}
	return info, nil
}

type backupWriter struct {
	w   *bufio.Writer
	sum hash.Hash
	out io.Writer // without the sum
	n   int64
	buf []byte
}

func newBackupWriter(w io.Writer, info BackupInfo) (*backupWriter, error) {
	b := &backupWriter{sum: sha256.New(), out: w}
	b.w = bufio.NewWriterSize(io.MultiWriter(w, b.sum), 256<<10)
	head, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	b.w.WriteString(backupMagic)
	b.w.Write(head)
	return b, b.w.WriteByte('\n') // gives the first error of all
}

func (b *backupWriter) record(k, v []byte) error {
	b.n++
	b.buf = binary.AppendUvarint(b.buf[:0], uint64(len(k)))
	b.buf = binary.AppendUvarint(b.buf, uint64(len(v)))
	b.w.Write(b.buf)
	b.w.Write(k)
	_, err := b.w.Write(v)
	return err
}

func (b *backupWriter) end() error {
	b.w.Write(binary.AppendUvarint([]byte{0}, uint64(b.n)))
	if err := b.w.Flush(); err != nil {
		return err
	}
	_, err := b.out.Write(b.sum.Sum(nil))
	return err
}

// ReadBackup reads a backup to its end, gives each record to each (nil: to nobody), which
// must not keep it, and compares the checksum. ErrCorrupt when it is not what was
// written, and ErrVersion when it is of a newer program. What each was given is proven
// only by the end.
func ReadBackup(r io.Reader, each func(k, v []byte) error) (info BackupInfo, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the backup: %w", err)
		}
	}()
	bad := func(what string) error { return fmt.Errorf("%s: %w", what, backends.ErrCorrupt) }
	in := &summed{r: bufio.NewReaderSize(r, 256<<10), sum: sha256.New()}
	magic, err := in.bytes(nil, len(backupMagic))
	if err != nil {
		return info, cutShort(err)
	}
	if string(magic) != backupMagic {
		return info, bad("it is no backup of a catalogue")
	}
	head, err := in.line()
	if err != nil {
		return info, cutShort(err)
	}
	if json.Unmarshal(head, &info) != nil {
		return info, bad("its head")
	}
	if info.Version != backupVersion || info.Format < versionFirst || info.Format > formatVersion {
		return info, fmt.Errorf("form %d of format %d, this program reads form %d of formats up to %d: %w", info.Version, info.Format, backupVersion, formatVersion, backends.ErrVersion)
	}
	var key, val, last []byte
	for n := int64(0); ; n++ {
		kn, err := in.uvarint()
		if err != nil {
			return info, cutShort(err)
		}
		vn, err := in.uvarint()
		if err != nil {
			return info, cutShort(err)
		}
		if kn == 0 {
			if vn != uint64(n) {
				return info, bad(fmt.Sprintf("%d records, and it should have %d", n, vn))
			}
			info.Records = n
			break
		}
		if kn > maxRecord || vn > maxRecord {
			return info, bad("the length of a record")
		}
		if key, err = in.bytes(key, int(kn)); err != nil {
			return info, cutShort(err)
		}
		if val, err = in.bytes(val, int(vn)); err != nil {
			return info, cutShort(err)
		}
		if n > 0 && bytes.Compare(last, key) >= 0 {
			return info, bad("records out of order")
		}
		last = append(last[:0], key...)
		if each != nil {
			if err := each(key, val); err != nil {
				return info, err
			}
		}
	}
	want := in.sum.Sum(nil)
	got, err := in.bytes(nil, sha256.Size)
	if err != nil {
		return info, cutShort(err)
	}
	if !bytes.Equal(want, got) {
		return info, bad("its checksum")
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return info, bad("something follows its end")
	}
	return info, nil
}

// cutShort is an end where there should be more.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it is cut short: %w", backends.ErrCorrupt)
	}
	return err
}

// summed reads and sums.
type summed struct {
	r   *bufio.Reader
	sum hash.Hash
	one [1]byte
	err error // of ReadByte
}

// uvarint is ErrCorrupt for a number that has more than 64 bits.
func (s *summed) uvarint() (uint64, error) {
	n, err := binary.ReadUvarint(s)
	if err != nil && s.err == nil {
		err = fmt.Errorf("a length: %w: %w", err, backends.ErrCorrupt)
	}
	return n, err
}

func (s *summed) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.one[0] = b
		s.sum.Write(s.one[:])
	}
	s.err = err
	return b, err
}

// bytes reads n bytes into b, which it may replace; they grow as they come, so that a
// damaged length takes no memory.
func (s *summed) bytes(b []byte, n int) ([]byte, error) {
	b = b[:0]
	for len(b) < n {
		at := len(b)
		b = append(b, make([]byte, min(n-at, 1<<20))...)
		if _, err := io.ReadFull(s.r, b[at:]); err != nil {
			return b, err
		}
	}
	s.sum.Write(b)
	return b, nil
}

func (s *summed) line() ([]byte, error) {
	b, err := s.r.ReadSlice('\n')
	s.sum.Write(b)
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("its head has no end: %w", backends.ErrCorrupt)
	}
	return bytes.Clone(b), err
}
