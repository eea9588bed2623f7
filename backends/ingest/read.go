package ingest

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/ingest/metadata"
	"tarn/backends/ingest/watch"
)

// mostSide is the size of the largest side file that is read.
const mostSide = 1 << 20

// extractor gives the rules for metadata, nil for none.
func (k *link) extractor() *metadata.Extractor { return k.o.Metadata[k.d.Metadata] }

// read fills in the metadata of a file. What is broken is logged.
func (k *link) read(r *Record, f io.ReaderAt) {
	x := k.extractor()
	if x == nil {
		return
	}
	r.Side = ""
	m, err := x.Extract(r.Path, f, r.Size, func(suffix string) ([]byte, error) {
		b, side, err := k.side(r.Path + suffix)
		if err == nil {
			r.Side = side
		}
		return b, err
	})
	if err != nil {
		r.Side = "" // it stays at the source
		k.log.Warn("metadata is broken", "path", r.Path, "err", err)
	}
	r.meta = m
}

// side reads a side file, and tells which version of it.
func (k *link) side(rel string) ([]byte, string, error) {
	f, err := k.folder.open(rel)
	if errors.Is(err, errGone) {
		return nil, "", backends.ErrNotExist
	}
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	v, err := statOf(f)
	if err != nil {
		return nil, "", err
	}
	if v.Size > mostSide {
		return nil, "", fmt.Errorf("side file %s of %d bytes, more than %d: %w", rel, v.Size, mostSide, backends.ErrNotSupported)
	}
	b := make([]byte, v.Size)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, v.Size), b); err != nil {
		return nil, "", err
	}
	return b, sideVersion(path.Base(rel), v), nil
}

// sideVersion names a version of a side file.
func sideVersion(name string, v watch.File) string {
	return fmt.Sprintf("%d/%d/%d/%d/%d/%s", v.Dev, v.Ino, v.Size, v.MTime.UnixNano(), v.CTime.UnixNano(), name)
}

// sideName is the name in what sideVersion gave.
func sideName(version string) string {
	f := strings.SplitN(version, "/", 6)
	return f[len(f)-1]
}

// isSide tells whether a file stands beside another one, whose metadata it is. One that came a moment ago may be before its file.
func (k *link) isSide(f watch.File) bool {
	x := k.extractor()
	if x == nil {
		return false
	}
	for _, s := range x.Sides() {
		base, ok := strings.CutSuffix(f.Path, s)
		if !ok || base == "" || strings.HasSuffix(base, "/") {
			continue
		}
		if _, err := k.folder.stat(base); err == nil {
			return true
		}
		if age := k.o.Now().Sub(f.MTime); age >= 0 && age < 30*time.Second {
			return true
		}
	}
	return false
}
