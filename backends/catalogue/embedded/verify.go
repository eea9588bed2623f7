package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"tarn/backends"
)

// The database leaves out a table whose index does not verify, takes the keys of a
// block that does not verify for missing ones, and ends the process where a length is
// absurd. So its files are verified here, before it opens them.

// verifyStored checks what is stored before the database is opened: the MANIFEST, the
// frame of every table, and all of their blocks unless they are too many.
func (c *Catalogue) verifyStored(o Options, db string) error {
	tables, err := readManifest(o, db, c.durable)
	if err != nil {
		return err
	}
	var total int64
	for _, t := range tables {
		st, err := os.Stat(t)
		if err != nil {
			return classify(err)
		}
		total += st.Size()
	}
	if err := dropEmptyLogs(db); err != nil {
		return err
	}
	if err := verifyLogs(db); err != nil {
		return err
	}
	whole := total <= o.VerifyBytes
	for _, t := range tables {
		if err := verifyTable(context.Background(), t, whole); err != nil {
			return err
		}
	}
	return nil
}

// readManifest lists the paths of all tables.
func readManifest(o Options, db string, d *durable) (tables []string, err error) {
	defer recovered(&err)
	f, err := os.Open(filepath.Join(db, badger.ManifestFilename))
	if err != nil {
		return nil, classify(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, classify(err)
	}
	if d != nil {
		if err := d.checkManifest(st); err != nil {
			return nil, err
		}
	}
	var head [8]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || string(head[:4]) != "Bdgr" {
		return nil, fmt.Errorf("MANIFEST is none: %w", backends.ErrDamaged)
	}
	if v := binary.BigEndian.Uint16(head[4:]); v != manifestVersion {
		return nil, fmt.Errorf("format %d, this program reads %d: %w", v, manifestVersion, backends.ErrVersion)
	}
	if v := binary.BigEndian.Uint16(head[6:]); v != 8 {
		return nil, fmt.Errorf("database of version %d, this program reads 8: %w", v, backends.ErrVersion)
	}
	m, _, err := badger.ReplayManifestFile(f, manifestVersion, o.badger(db))
	if err != nil {
		return nil, fmt.Errorf("MANIFEST: %w: %w", backends.ErrDamaged, err)
	}
	for id := range m.Tables {
		tables = append(tables, table.NewFilename(id, db))
	}
	sort.Strings(tables)
	return tables, nil
}

// Verify reads everything that is stored in tables and compares it with its
// checksums. It gives ErrDamaged for the first difference.
func (c *Catalogue) Verify(ctx context.Context) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.gate.leave()
	return c.verifyTables(ctx)
}

func (c *Catalogue) verifyTables(ctx context.Context) error {
	if c.dir == "" {
		return nil
	}
	db := filepath.Join(c.dir, "db")
	tables, err := readManifest(Options{Log: c.log}, db, nil)
	if err != nil {
		return err
	}
	for _, t := range tables {
		err := verifyTable(ctx, t, true)
		if errors.Is(err, os.ErrNotExist) {
			continue // merged into others meanwhile
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// verifyTable gives ErrDamaged for the first difference that tableDamage finds.
func verifyTable(ctx context.Context, path string, whole bool) error {
	var first error
	err := tableDamage(ctx, path, whole, func(d error) bool { first = d; return false })
	if first != nil {
		return first
	}
	return err
}

// tableDamage checks the frame of a table file: blocks, index, length of the index,
// checksum of the index, length of that. With whole it checks every block as well. Each
// difference goes to found, which says whether to go on; the error is of reading.
func tableDamage(ctx context.Context, path string, whole bool, found func(error) (more bool)) (err error) {
	defer recovered(&err)
	f, err := os.Open(path)
	if err != nil {
		return classify(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return classify(err)
	}
	damaged := func(what string) bool {
		return found(fmt.Errorf("%s: %s: %w", filepath.Base(path), what, backends.ErrDamaged))
	}
	r := tail{f: f, end: st.Size()}
	sum := r.bytes(int64(r.length()))
	index := r.bytes(int64(r.length()))
	if r.bad {
		damaged("its end is no table's")
		return nil
	}
	var want pb.Checksum
	if proto.Unmarshal(sum, &want) != nil || y.VerifyChecksum(index, &want) != nil {
		damaged("checksum of the index")
		return nil
	}
	ti := fb.GetRootAsTableIndex(index, 0)
	if ti.OffsetsLength() == 0 {
		damaged("no blocks")
		return nil
	}
	var bo fb.BlockOffset
	var buf []byte
	for i := 0; i < ti.OffsetsLength(); i++ {
		ti.Offsets(&bo, i)
		off, n := int64(bo.Offset()), int64(bo.Len())
		if n < 12 || off+n > r.end {
			damaged("a block outside the file")
			return nil
		}
		if !whole {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if int64(cap(buf)) < n {
			buf = make([]byte, n)
		}
		if _, err := f.ReadAt(buf[:n], off); err != nil {
			return classify(err)
		}
		if !verifyBlock(buf[:n]) && !damaged(fmt.Sprintf("checksum of the block at %d", off)) {
			return nil
		}
	}
	return nil
}

// verifyBlock checks a block: data, its checksum, length of that.
func verifyBlock(b []byte) bool {
	n := int64(binary.BigEndian.Uint32(b[len(b)-4:]))
	end := int64(len(b)) - 4 - n
	if end < 4 {
		return false
	}
	var want pb.Checksum
	return proto.Unmarshal(b[end:len(b)-4], &want) == nil && y.VerifyChecksum(b[:end], &want) == nil
}

// tail reads a file from its end.
type tail struct {
	f   *os.File
	end int64
	bad bool
}

func (t *tail) bytes(n int64) []byte {
	if t.bad || n < 0 || n > t.end {
		t.bad = true
		return nil
	}
	t.end -= n
	b := make([]byte, n)
	if _, err := t.f.ReadAt(b, t.end); err != nil {
		t.bad = true
	}
	return b
}

func (t *tail) length() uint32 {
	b := t.bytes(4)
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
