package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
)

// manifest is what was put into a folder, as it was known before tarn saw it.
type manifest struct {
	dir    string
	target string // where its files go in the lake

	mu    sync.Mutex
	files map[string]made // by the path below dir
}

// made is a file of a manifest.
type made struct {
	index int
	size  int64
	sum   string // sha256, in hex; "" when it was too large to be worth it: its bytes follow from the index
}

func newManifest(dir, target string) *manifest {
	return &manifest{dir: dir, target: target, files: map[string]made{}}
}

// fileName is that of file i, as a telescope would call it: a thousand in a folder.
func fileName(i int) string {
	return fmt.Sprintf("night%03d/LST1.Run%05d.%04d.fits.fz", i/1000, i/100, i%100)
}

// haulNoise is what files are made of.
var haulNoise = sync.OnceValue(func() []byte {
	b := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(b) // never fails
	return b
})

// block gives the bytes of file i at off, which is a multiple of 1 MiB: noise, with index and offset on each page, so
// that no two blocks are alike.
func block(i int, off, size int64, buf []byte) []byte {
	n := copy(buf, haulNoise()[:min(int64(len(haulNoise())), size-off)])
	for p := 0; p+16 <= n; p += 4096 {
		binary.LittleEndian.PutUint64(buf[p:], uint64(i))
		binary.LittleEndian.PutUint64(buf[p+8:], uint64(off)+uint64(p))
	}
	return buf[:n]
}

// add makes file i, so that it is seen whole or growing, never renamed into place: as a telescope writes.
func (m *manifest) add(i int, size int64, sums bool) error {
	name := fileName(i)
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	// It is in the manifest before it is whole: from its close on tarn may take it.
	entry := made{index: i, size: size}
	if sums {
		for off := int64(0); off < size; off += 1 << 20 {
			h.Write(block(i, off, size, buf))
		}
		entry.sum = hex.EncodeToString(h.Sum(nil))
	}
	m.mu.Lock()
	m.files[name] = entry
	m.mu.Unlock()
	for off := int64(0); off < size; off += 1 << 20 {
		if _, err := f.Write(block(i, off, size, buf)); err != nil {
			return err
		}
	}
	return f.Close()
}

// fill makes files from..to-1 of a size.
func (m *manifest) fill(from, to int, size int64) error {
	for i := from; i < to; i++ {
		if err := m.add(i, size, true); err != nil {
			return err
		}
	}
	return nil
}

// bytes is the size of all files.
func (m *manifest) bytes() (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.files {
		n += f.size
	}
	return n
}

// lakePath is where a file goes.
func (m *manifest) lakePath(name string) string { return m.target + "/" + name }

// same tells whether the file at path has the bytes of file i, all of them and no others.
func same(path string, i int, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != size {
		return fmt.Errorf("%s has %d bytes, want %d", path, st.Size(), size)
	}
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < size; off += 1 << 20 {
		w := block(i, off, size, want)
		if _, err := f.ReadAt(got[:len(w)], off); err != nil {
			return err
		}
		if !bytes.Equal(got[:len(w)], w) {
			return fmt.Errorf("%s has other bytes from %d on", path, off)
		}
	}
	return nil
}
