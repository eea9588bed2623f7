// Package checksum computes the digests that catalogues and storages of the grid
// know (adler32, md5, sha256) in one pass.
package checksum

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"

	"tarn/backends"
)

// Default are the digests that tarn computes for what it writes: adler32 is what the
// grid's storages compare, sha256 is what names a generation.
var Default = []string{"adler32", "sha256"}

// Hasher computes several digests of one stream. The zero value is not usable.
type Hasher struct {
	algs   []string
	hashes []hash.Hash
	n      int64
}

// New gives a Hasher for the named algorithms; none means Default. An unknown name is
// a programming error and panics: configurations are checked with Known before.
func New(algs ...string) *Hasher {
	if len(algs) == 0 {
		algs = Default
	}
	h := &Hasher{algs: algs}
	for _, a := range algs {
		switch a {
		case "adler32":
			h.hashes = append(h.hashes, newAdler32())
		case "md5":
			h.hashes = append(h.hashes, md5.New())
		case "sha256":
			h.hashes = append(h.hashes, sha256.New())
		default:
			panic(fmt.Sprintf("checksum: unknown algorithm %q", a))
		}
	}
	return h
}

// For gives a Hasher for the algorithms that c knows (Default when it knows none).
func For(c backends.Checksums) *Hasher { return New(Known(c)...) }

// Known lists the algorithms of the digests that c holds.
func Known(c backends.Checksums) (algs []string) {
	if c.Adler32 != "" {
		algs = append(algs, "adler32")
	}
	if c.MD5 != "" {
		algs = append(algs, "md5")
	}
	if c.SHA256 != "" {
		algs = append(algs, "sha256")
	}
	return algs
}

// sideBySide is from how many bytes on the digests are computed in parallel: a stream can
// use one core for each of them only.
const sideBySide = 128 << 10

// Write never fails.
func (h *Hasher) Write(p []byte) (int, error) {
	var others sync.WaitGroup
	for i, x := range h.hashes {
		if i < len(h.hashes)-1 && len(p) >= sideBySide {
			others.Go(func() { x.Write(p) })
		} else {
			x.Write(p)
		}
	}
	others.Wait()
	h.n += int64(len(p))
	return len(p), nil
}

// Size is the number of bytes written.
func (h *Hasher) Size() int64 { return h.n }

// Sum gives the digests of what was written so far; writing may go on.
func (h *Hasher) Sum() backends.Checksums { return FromMap(h.Sums()) }

// Sums is Sum by algorithm.
func (h *Hasher) Sums() map[string]string {
	m := make(map[string]string, len(h.algs))
	for i, a := range h.algs {
		m[a] = hex.EncodeToString(h.hashes[i].Sum(nil))
	}
	return m
}

// FromMap and ToMap turn digests by algorithm into Checksums and back.
func FromMap(m map[string]string) backends.Checksums {
	return backends.Checksums{Adler32: m["adler32"], MD5: m["md5"], SHA256: m["sha256"]}
}

// ToMap is the inverse of FromMap; unknown digests are left out.
func ToMap(c backends.Checksums) map[string]string {
	m := map[string]string{}
	for _, a := range Known(c) {
		m[a] = map[string]string{"adler32": c.Adler32, "md5": c.MD5, "sha256": c.SHA256}[a]
	}
	return m
}

// Object reads o from the start to its end and gives its digests; it stops when ctx ends.
func Object(ctx context.Context, o backends.Object, algs ...string) (backends.Checksums, error) {
	h := New(algs...)
	buf := make([]byte, min(o.Size()+1, 1<<20)) // small files are many
	for off := int64(0); off < o.Size(); {
		n, err := o.ReadAt(ctx, buf, off)
		h.Write(buf[:n])
		off += int64(n)
		if err == io.EOF && off == o.Size() {
			break
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return backends.Checksums{}, err
		}
	}
	return h.Sum(), nil
}
