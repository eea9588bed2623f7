package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"
)

// What the rows do, to any folder.

var isRoot = os.Geteuid() == 0

// noise is what is written: large files are of buf, small ones begin anywhere in the first 4 KiB.
var noise = func() []byte {
	b := make([]byte, 1<<20+4096)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b) // never fails
	return b
}()

var buf = noise[:1<<20]

// cold empties the kernel's caches; needs root.
func cold(place) error {
	if !isRoot {
		return nil
	}
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// flushed lets no earlier writes disturb what follows.
func flushed(place) error { syscall.Sync(); return nil }

// each runs f n times at once.
func each(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// readers runs n readers of one file, with flags of open(2).
func readers(path string, n, flags int, read func(f *os.File, seed uint64) error) error {
	return each(n, func(i int) error {
		f, err := os.OpenFile(path, os.O_RDONLY|flags, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return read(f, uint64(i))
	})
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

// pageBuf is 4 KiB at an address that O_DIRECT takes.
func pageBuf() []byte {
	b := make([]byte, 8192)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & 4095)
	return b[skip : skip+4096]
}

// readRandom reads n blocks of 4 KiB anywhere.
func readRandom(n int) func(f *os.File, seed uint64) error {
	return func(f *os.File, seed uint64) error {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		r := rand.New(rand.NewPCG(seed, 7))
		b := pageBuf()
		for range n {
			if _, err := f.ReadAt(b, r.Int64N(st.Size()/4096)*4096); err != nil {
				return err
			}
		}
		return nil
	}
}

// randomBlocks gives the milliseconds that each of 256 reads of 4 KiB anywhere in a file takes, at a time by as many
// readers with a descriptor of their own.
func randomBlocks(path string, at, round int) (float64, error) {
	const reads = 256
	v, err := seconds(func() error {
		return each(at, func(i int) error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			r, buf := rand.New(rand.NewPCG(uint64(round), uint64(i))), make([]byte, 4096)
			for range reads / at {
				if _, err := f.ReadAt(buf, r.Int64N(st.Size()/4096)*4096); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return v / reads * 1000, err
}

// mapped maps the file and copies n pages out of it: in order, or anywhere; n 0 is all of them.
func mapped(n int, random bool) func(f *os.File, seed uint64) error {
	return func(f *os.File, seed uint64) error {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		m, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
		if err != nil {
			return err
		}
		defer syscall.Munmap(m)
		pages := len(m) / 4096
		if n == 0 {
			n = pages
		}
		r := rand.New(rand.NewPCG(seed, 7))
		b := make([]byte, 4096)
		for i := range n {
			if random {
				i = r.IntN(pages)
			}
			copy(b, m[i*4096:])
		}
		return nil
	}
}

// smallName is file i of a folder of small files.
func smallName(dir string, i int) string { return fmt.Sprintf("%s/f%06d", dir, i) }

func openMany(dir string, n int) error {
	b := make([]byte, 4096)
	for i := range n {
		f, err := os.Open(smallName(dir, i))
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

// makeSmall makes a folder of n files of size bytes.
func makeSmall(dir string, n, size int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range n {
		if err := os.WriteFile(smallName(dir, i), noise[i%4096:i%4096+size], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeTree makes n small files, a thousand a folder.
func makeTree(top string, n int) error {
	for i := range n {
		dir, file := inTree(i)
		if i%1000 == 0 {
			if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(top, dir, file), buf[:16], 0o644); err != nil {
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

// createMany makes n files of 4 KiB, each safe when it returns: by close alone, or by fsync before it.
func createMany(dir string, n int, fsync bool) error {
	for i := range n {
		f, err := os.OpenFile(smallName(dir, i), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(buf[:4096])
		if err == nil && fsync {
			err = f.Sync()
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// command runs a program in dir; its output goes to /dev/null.
func command(dir string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, errs.String())
	}
	return nil
}

// selves runs this program n times at once as a worker; input may give each its stdin.
func selves(n int, input func(i int) string, args func(i int) []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return each(n, func(i int) error {
		cmd := exec.Command(self, append([]string{"worker"}, args(i)...)...)
		cmd.Stderr = os.Stderr
		if input != nil {
			cmd.Stdin = strings.NewReader(input(i))
		}
		return cmd.Run()
	})
}

// statWorker stats n files anywhere in a tree: DIR FILES N SEED.
func statWorker(args []string) error {
	var v [3]int
	for i := range v {
		var err error
		if v[i], err = strconv.Atoi(args[i+1]); err != nil {
			return err
		}
	}
	r := rand.New(rand.NewPCG(uint64(v[2]), 3))
	for range v[1] {
		dir, file := inTree(r.IntN(v[0]))
		var st syscall.Stat_t
		if err := syscall.Lstat(args[0]+"/"+dir+"/"+file, &st); err != nil {
			return err
		}
	}
	return nil
}

// readWorker reads the files that stdin names, one after another.
func readWorker([]string) error {
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	for p := range strings.Lines(string(in)) {
		if _, err := os.ReadFile(strings.TrimSuffix(p, "\n")); err != nil {
			return err
		}
	}
	return nil
}
