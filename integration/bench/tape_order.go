package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn/backends/tape/library"
)

// taped is where a file is on tape.
type taped struct {
	path           string
	cart           int
	position, size int64
}

// readIndex gives the files of a library whose base names are wanted, from its index
// (docs/tape-library.md): F says that a file is there, T that it was written to tape.
func readIndex(dir string, wanted map[string]bool) (map[string]taped, error) {
	b, err := os.ReadFile(filepath.Join(dir, "index"))
	if err != nil {
		return nil, err
	}
	byID := map[string]*taped{}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < 3 {
			continue
		}
		switch f[1] {
		case "F":
			// crc F id size mtime adler32 sha256 cartridge position path
			v := strings.SplitN(strings.TrimSuffix(string(line), "\n"), " ", 10)
			if len(v) != 10 {
				return nil, fmt.Errorf("index: %q", line)
			}
			name, err := strconv.Unquote(v[9])
			if err != nil {
				return nil, fmt.Errorf("index: %q: %w", line, err)
			}
			t := &taped{path: name}
			t.size, _ = strconv.ParseInt(v[3], 10, 64)
			t.cart, _ = strconv.Atoi(v[7])
			t.position, _ = strconv.ParseInt(v[8], 10, 64)
			byID[f[2]] = t
		case "T":
			if t := byID[f[2]]; t != nil && len(f) == 5 {
				t.cart, _ = strconv.Atoi(f[3])
				t.position, _ = strconv.ParseInt(f[4], 10, 64)
			}
		case "D":
			delete(byID, f[2])
		}
	}
	files := map[string]taped{}
	for _, t := range byID {
		// A stored name has more behind the file's own.
		base, _, _ := strings.Cut(path.Base(t.path), ".")
		if wanted[base] && t.cart >= 0 {
			files[base] = *t
		}
	}
	return files, nil
}

// bestOrder is the tape time of all drives together when each cartridge is mounted once and
// read from its start to its end, and the dearest ones stay in the drives.
func bestOrder(files map[string]taped, o library.Options, t library.Timing) time.Duration {
	byCart := map[int][]taped{}
	for _, f := range files {
		byCart[f.cart] = append(byCart[f.cart], f)
	}
	over := func(full time.Duration, n int64) time.Duration {
		return time.Duration(float64(full) * min(1, float64(n)/float64(o.CartridgeSize)))
	}
	var total time.Duration
	var unmounts []time.Duration
	for _, v := range byCart {
		slices.SortFunc(v, func(a, b taped) int { return cmp.Compare(a.position, b.position) })
		head := int64(0)
		total += t.Robot + t.Mount
		for _, f := range v {
			total += over(t.Seek, f.position-head) + time.Duration(float64(f.size)/float64(t.Rate)*float64(time.Second))
			head = f.position + f.size
		}
		unmounts = append(unmounts, over(t.Rewind, head)+t.Unmount+t.Robot)
	}
	slices.Sort(unmounts)
	for _, u := range unmounts[:max(0, len(unmounts)-o.Drives)] {
		total += u
	}
	return total
}
