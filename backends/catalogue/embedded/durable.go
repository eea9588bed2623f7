package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// durable is a small file beside the database that tells how much of it there must be:
// the number of acknowledged transactions and the length of its MANIFEST. The database
// itself takes a shortened log or MANIFEST for the trace of a crash and goes on
// without what is missing. It is written after the fact and not synced, so it never
// tells of more than there is.
type durable struct {
	file *os.File

	mu       sync.Mutex // guards the rest
	sequence uint64
	size     uint64 // of the MANIFEST
	inode    uint64 // of the MANIFEST: a rewrite makes another
}

const durableMagic = "tarndur1"

func openDurable(dir string) (*durable, error) {
	f, err := os.OpenFile(filepath.Join(dir, "durable"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	d := &durable{file: f}
	var b [36]byte
	if n, _ := f.ReadAt(b[:], 0); n == len(b) && string(b[:8]) == durableMagic && binary.BigEndian.Uint32(b[32:]) == crc32.ChecksumIEEE(b[:32]) {
		d.sequence, d.size, d.inode = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	}
	return d, nil
}

// note records that the transaction of that number is on disk. An error does not
// matter: the file then promises less.
func (d *durable) note(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sequence = sequence
	d.write()
}

func (d *durable) write() {
	if d.file == nil {
		return
	}
	var b [36]byte
	copy(b[:], durableMagic)
	binary.BigEndian.PutUint64(b[8:], d.sequence)
	binary.BigEndian.PutUint64(b[16:], d.size)
	binary.BigEndian.PutUint64(b[24:], d.inode)
	binary.BigEndian.PutUint32(b[32:], crc32.ChecksumIEEE(b[:32]))
	_, _ = d.file.WriteAt(b[:], 0)
}

// manifest records the length of the MANIFEST, after a sync of it.
func (d *durable) manifest(dir string) error {
	if d.file == nil {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, "db", badger.ManifestFilename))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	size, inode := uint64(st.Size()), fileInode(st)
	d.mu.Lock()
	same := size == d.size && inode == d.inode
	d.mu.Unlock()
	if same {
		return nil
	}
	if err := f.Sync(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size, d.inode = size, inode
	d.write()
	return nil
}

// checkManifest tells whether the MANIFEST has lost its end.
func (d *durable) checkManifest(st os.FileInfo) error {
	if fileInode(st) == d.inode && uint64(st.Size()) < d.size {
		return fmt.Errorf("MANIFEST has %d bytes, but had %d: %w", st.Size(), d.size, backends.ErrDamaged)
	}
	return nil
}

func fileInode(st os.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

func (d *durable) close() error {
	if d.file == nil {
		return nil
	}
	if err := d.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
