package main

import (
	"io"
	"os"
	"path/filepath"
	"time"
)

// seconds is how long f takes.
func seconds(f func() error) (float64, error) {
	t := time.Now()
	err := f()
	return time.Since(t).Seconds(), err
}

// readAt gives the milliseconds from open until a block is there; from the end when off is negative.
func readAt(path string, off int64) (float64, error) {
	v, err := seconds(func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if off < 0 {
			st, err := f.Stat()
			if err != nil {
				return err
			}
			off += st.Size()
		}
		_, err = f.ReadAt(make([]byte, 4096), off)
		return err
	})
	return 1000 * v, err
}

// endDuringFill reads the last block while another reader goes through the file.
func endDuringFill(path string) (v float64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := io.CopyN(io.Discard, f, 4<<20); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- readAll(f, 0) }()
	v, err = readAt(path, -4096)
	if rerr := <-done; err == nil {
		err = rerr
	}
	return v, err
}

// remote is a file on a disk storage, nothing of it cached.
func (b *bench) remote() section {
	var l *lake
	forget := func(at place) error {
		if !at.bare {
			if _, err := l.tarn("evict", "/ctao/remote/big"); err != nil {
				return err
			}
		} else if err := os.RemoveAll(at.dir + "/copy"); err != nil {
			return err
		}
		return cold(at)
	}
	latency := func(name string, f func(path string) (float64, error)) *job {
		return &job{name: name, unit: "ms", lower: true, raw: true, alone: true, limit: 20, before: forget,
			run: func(at place) (float64, error) { return f(at.dir + "/big") }}
	}
	jobs := []*job{
		latency("disk replica, nothing cached: first byte", func(p string) (float64, error) { return readAt(p, 0) }),
		{name: "disk replica, nothing cached: whole file, against cp of the replica", unit: "MB/s", target: 0.9, before: forget,
			run: func(at place) (float64, error) {
				mb := float64(b.o.size) / 1e6
				if at.bare {
					return mb, command(at.dir, "cp", "big", "copy")
				}
				return mb, readers(at.dir+"/big", 1, 0, readAll)
			}},
		latency("disk replica, nothing cached: 4 KiB at the end", func(p string) (float64, error) { return readAt(p, -4096) }),
		latency("disk replica: 4 KiB at the end while the file is read", endDuringFill),
	}
	return section{title: "a disk replica, nothing in the hot cache", jobs: jobs, setUp: func() (_ []place, _ func() error, err error) {
		// No ends of files are kept, so that an evicted file is as one never read.
		if l, err = b.newLake("remote", b.conf("", "local", ", head: 0, tail: 0")); err != nil {
			return nil, nil, err
		}
		if err := os.Mkdir(l.disk("remote"), 0o755); err != nil {
			return nil, nil, err
		}
		if err := writeFile(l.disk("remote/big"), b.o.size, true); err != nil {
			return nil, nil, err
		}
		if err := l.register("remote"); err != nil {
			return nil, nil, err
		}
		bare := filepath.Join(b.bare, "remote")
		if err := os.Mkdir(bare, 0o755); err != nil {
			return nil, nil, err
		}
		if err := os.Symlink(l.disk("remote/big"), bare+"/big"); err != nil {
			return nil, nil, err
		}
		return b.pair(bare, l.ctao()+"/remote"), l.umount, l.mount()
	}}
}
