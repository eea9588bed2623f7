package demodata

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Options says what to make. Zero values are 10 files of 4 MiB from observation 5029747 on.
type Options struct {
	Files     int
	Size      int64 // of a file at most; at least three blocks are needed and taken
	First     int64 // OBS_ID of the first file
	Seed      uint64
	Telescope string
}

// File is one file that Write made.
type File struct {
	Path string
	Size int64
	Obs  Observation
}

// Write makes the files below dir, which it creates: crab_obs5029747.fits and so on,
// with times of observation as modification times. A file that exists is an error.
// progress, if given, is called after each file with the number of files and bytes.
func Write(ctx context.Context, dir string, o Options, progress func(files int, bytes int64)) ([]File, error) {
	if o.Files == 0 {
		o.Files = 10
	}
	if o.Size == 0 {
		o.Size = 4 << 20
	}
	if o.First == 0 {
		o.First = 5029747
	}
	if o.Telescope == "" {
		o.Telescope = "LST-1"
	}
	if o.Files < 0 || o.Size < 0 {
		return nil, fmt.Errorf("make demo data: %d files of %d bytes: want numbers above 0", o.Files, o.Size)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make demo data: %w", err)
	}
	var out []File
	var bytes int64
	for i := range o.Files {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		obs := Observation{
			ID: o.First + int64(i), Telescope: o.Telescope, Rate: 50, Rows: RowsFor(o.Size), Seed: o.Seed,
			Start: 1.6e8 + float64(i)*1500,
		}
		f := File{Path: filepath.Join(dir, fmt.Sprintf("crab_obs%07d.fits", obs.ID)), Obs: obs}
		n, err := writeFile(f.Path, obs)
		if err != nil {
			return out, fmt.Errorf("make demo data: %w", err)
		}
		f.Size = n
		bytes += n
		out = append(out, f)
		if progress != nil {
			progress(len(out), bytes)
		}
	}
	return out, nil
}

func writeFile(path string, obs Observation) (n int64, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	n, err = obs.Write(w)
	err = errors.Join(err, w.Flush(), f.Close())
	if err != nil {
		return n, errors.Join(err, os.Remove(path))
	}
	taken := time.Unix(1609459200+int64(obs.Start), 0) // 2021-01-01 and Start
	return n, os.Chtimes(path, taken, taken)
}
