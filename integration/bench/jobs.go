package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// buf is what is written.
var buf = func() []byte {
	b := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}()

// manyFiles is how many small cached files are opened one after another.
const manyFiles = 2000

// job is a row's work; run returns how many units it did.
type job struct {
	name, unit, better string
	before, after      func(dir string) error // not timed
	run                func(dir string) (float64, error)
}

func (w *world) jobs() []job {
	mb := float64(w.o.size) / 1e6
	jobs := []job{
		{name: "warm sequential read, 1 reader", unit: "MB/s", better: "higher", before: warm, run: func(dir string) (float64, error) { return mb, readers(dir, 1, readAll) }},
		{name: "warm sequential read, 4 readers", unit: "MB/s", better: "higher", before: warm, run: func(dir string) (float64, error) { return 4 * mb, readers(dir, 4, readAll) }},
		{name: "warm random 4 KiB read, 1 reader", unit: "IOPS", better: "higher", before: warm, run: func(dir string) (float64, error) { return randomReads, readers(dir, 1, readRandom) }},
		{name: "warm random 4 KiB read, 4 readers", unit: "IOPS", better: "higher", before: warm, run: func(dir string) (float64, error) { return 4 * randomReads, readers(dir, 4, readRandom) }},
		{name: "sequential read, kernel's caches cold", unit: "MB/s", better: "higher", before: cold, run: func(dir string) (float64, error) { return mb, readers(dir, 1, readAll) }},
		{name: "open, read 4 KiB, close of cached files", unit: "files/s", better: "higher", before: warmMany, run: func(dir string) (float64, error) { return manyFiles, openMany(dir) }},
		{
			name: "sequential write with fsync, new file", unit: "MB/s", better: "higher", before: w.settle,
			run:   func(dir string) (float64, error) { return mb, writeFile(filepath.Join(dir, "new"), w.o.size, true) },
			after: func(dir string) error { return os.Remove(filepath.Join(dir, "new")) },
		},
		{
			name: "create, write 4 KiB, durable, close", unit: "files/s", better: "higher", before: w.settle,
			// The mount's close is durable; the bare folder needs fsync for the same promise.
			run: func(dir string) (float64, error) {
				return float64(w.o.small), createMany(dir, w.o.small, dir == w.bare)
			},
			after: func(dir string) error { return os.RemoveAll(filepath.Join(dir, "created")) },
		},
	}
	if w.o.files > 0 {
		find := func(dir string) (float64, error) { return 1, command(dir, "find", "tree/", "-type", "f") }
		ls := func(dir string) (float64, error) { return 1, command(dir, "ls", "-lR", "tree/") }
		name := func(s string) string { return fmt.Sprintf("%s over %d files", s, w.o.files) }
		jobs = append(jobs,
			job{name: name("find -type f") + ", kernel cold", unit: "s", better: "lower", before: cold, run: find},
			job{name: name("find -type f") + ", warm", unit: "s", better: "lower", before: func(dir string) error { _, err := find(dir); return err }, run: find},
			job{name: name("ls -lR") + ", kernel cold", unit: "s", better: "lower", before: cold, run: ls},
			job{name: name("ls -lR") + ", warm", unit: "s", better: "lower", before: func(dir string) error { _, err := ls(dir); return err }, run: ls},
		)
	}
	return jobs
}

// settle waits for the uploads of the last round.
func (w *world) settle(string) error { return w.drain() }

// warm brings the big file into the page cache.
func warm(dir string) error { return readers(dir, 1, readAll) }

func warmMany(dir string) error { return openMany(dir) }

// cold empties the kernel's caches; needs root.
func cold(string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if err := exec.Command("sync").Run(); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// randomReads is how many a reader does.
const randomReads = 100000

// readers runs n readers of the big file.
func readers(dir string, n int, read func(f *os.File, seed uint64) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			f, err := os.Open(filepath.Join(dir, "big"))
			if err != nil {
				errs[i] = err
				return
			}
			defer f.Close()
			errs[i] = read(f, uint64(i))
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func readAll(f *os.File, _ uint64) error {
	b := make([]byte, 1<<20)
	for {
		if _, err := f.Read(b); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func readRandom(f *os.File, seed uint64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, 4096)
	for range randomReads {
		if _, err := f.ReadAt(b, r.Int64N(st.Size()/4096)*4096); err != nil {
			return err
		}
	}
	return nil
}

func openMany(dir string) error {
	b := make([]byte, 4096)
	for i := range manyFiles {
		f, err := os.Open(fmt.Sprintf("%s/many/f%05d", dir, i))
		if err != nil {
			return err
		}
		_, err = f.Read(b)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, size int64, sync bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for n := int64(0); n < size; n += int64(len(buf)) {
		if _, err := f.Write(buf[:min(int64(len(buf)), size-n)]); err != nil {
			return err
		}
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

func createMany(dir string, n int, fsync bool) error {
	d := filepath.Join(dir, "created")
	if err := os.Mkdir(d, 0o755); err != nil {
		return err
	}
	for i := range n {
		f, err := os.Create(fmt.Sprintf("%s/f%05d", d, i))
		if err != nil {
			return err
		}
		if _, err := f.Write(buf[:4096]); err != nil {
			return err
		}
		if fsync {
			if err := f.Sync(); err != nil {
				return err
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program in dir and throws its output away.
func command(dir string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Stdout = io.Discard
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
