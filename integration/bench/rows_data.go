package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// randomReads is how many blocks a reader reads.
func (b *bench) randomReads() int { return int(min(100000, b.o.size/4096)) }

// data is reading and writing one big file, and opening many small ones, all in the hot cache.
func (b *bench) data() section {
	mb := float64(b.o.size) / 1e6
	n := b.randomReads()
	direct := min(n, 5000)
	warmReads := 5 * n // most of a second: shorter ones measure what else the machine does
	read := func(count, flags int, units float64, f func(*os.File, uint64) error) func(place) (float64, error) {
		return func(at place) (float64, error) {
			return units * float64(count), readers(at.dir+"/big", count, flags, f)
		}
	}
	warm := func(at place) error { return readers(at.dir+"/big", 1, 0, readAll) }
	jobs := []*job{
		{name: "warm sequential read, 1 reader", unit: "MB/s", target: 0.95, before: warm, run: read(1, 0, mb, readAll)},
		{name: "warm sequential read, 4 readers", unit: "MB/s", target: 0.95, before: warm, run: read(4, 0, mb, readAll)},
		{name: "warm random 4 KiB read, 1 reader", unit: "IOPS", target: 0.9, before: warm, run: read(1, 0, float64(warmReads), readRandom(warmReads))},
		{name: "warm random 4 KiB read, 4 readers", unit: "IOPS", target: 0.9, before: warm, run: read(4, 0, float64(warmReads), readRandom(warmReads))},
		{name: "warm mmap, sequential", unit: "MB/s", target: 0.95, before: warm, run: read(1, 0, mb, mapped(0, false))},
		{name: "warm mmap, random pages", unit: "IOPS", target: 0.9, before: warm, run: read(1, 0, float64(n), mapped(n, true))},
		{name: "page cache cold, sequential read", unit: "MB/s", target: 0.9, root: true, before: cold, run: read(1, 0, mb, readAll)},
		{name: "page cache cold, random 4 KiB read", unit: "IOPS", target: 0.9, root: true, before: cold, run: read(1, 0, float64(direct), readRandom(direct))},
		{name: "page cache cold, random 4 KiB read, O_DIRECT", unit: "IOPS", target: 0.9, root: true, before: cold, run: read(1, syscall.O_DIRECT, float64(direct), readRandom(direct))},
		{
			name: "sequential write with fsync, new file", unit: "MB/s", target: 0.9, before: flushed,
			run: func(at place) (float64, error) { return mb, writeFile(at.dir+"/new", b.o.size, true) },
			// It is removed unsent, so nothing is uploaded.
			after: func(at place) error { return os.Remove(at.dir + "/new") },
		},
		{
			name: "open, read 4 KiB, close of cached files", unit: "files/s",
			before: func(at place) error { return openMany(at.dir+"/many", b.o.small) },
			run:    func(at place) (float64, error) { return float64(b.o.small), openMany(at.dir+"/many", b.o.small) },
		},
	}
	return section{title: "reading and writing data", jobs: jobs, setUp: func() ([]place, func() error, error) {
		l, err := b.newLake("data", b.conf("", "local", ""))
		if err != nil {
			return nil, nil, err
		}
		hot := l.disk("hot")
		if err := makeSmall(hot+"/many", b.o.small, 4096); err != nil {
			return nil, nil, err
		}
		if err := writeFile(hot+"/big", b.o.size, true); err != nil {
			return nil, nil, err
		}
		if err := l.register("hot"); err != nil {
			return nil, nil, err
		}
		// The bare side reads the replicas themselves; the mount's copies are files of their own.
		bare := filepath.Join(b.bare, "hot")
		if err := os.Mkdir(bare, 0o755); err != nil {
			return nil, nil, err
		}
		for _, x := range []string{"big", "many"} {
			if err := os.Symlink(hot+"/"+x, bare+"/"+x); err != nil {
				return nil, nil, err
			}
		}
		if err := l.mount(); err != nil {
			return nil, nil, err
		}
		sides := b.pair(bare, l.ctao()+"/hot")
		err = warm(sides[1])
		if err == nil && b.wanted("open, read 4 KiB, close of cached files") {
			err = openMany(sides[1].dir+"/many", b.o.small)
		}
		if err != nil {
			l.umount()
			return nil, nil, err
		}
		return sides, l.umount, nil
	}}
}

// creates is small files written one by one, each durable when its close returns.
func (b *bench) creates(closing string) section {
	n := b.o.small
	run := func(writers int) func(place) (float64, error) {
		return func(at place) (float64, error) {
			return float64(n / writers * writers), each(writers, func(i int) error {
				return createMany(newFolder(at, writers, i), n/writers, at.bare)
			})
		}
	}
	// Files are made in folders that nothing was ever removed from: ext4 is slow in others.
	fresh := func(writers int) func(place) error {
		return func(at place) error {
			for i := range writers {
				if err := os.MkdirAll(newFolder(at, writers, i), 0o755); err != nil {
					return err
				}
			}
			return flushed(at)
		}
	}
	jobs := []*job{
		{name: "create, write 4 KiB, close", target: 0.8, before: fresh(1), run: run(1)},
		{name: "create, write 4 KiB, close, 4 writers", target: 0.8, before: fresh(4), run: run(4)},
	}
	title := "creating small files, durable at close (the bare folder: fsync before close)"
	if closing == "fast" {
		title = "creating small files with journal.close: fast"
	}
	for _, j := range jobs {
		j.unit, j.rounds = "files/s", 3
		if closing == "fast" {
			j.name += ", close: fast"
		}
	}
	return section{title: title, jobs: jobs, setUp: func() ([]place, func() error, error) {
		l, err := b.newLake("creates-"+closing, b.conf("", "local", ""))
		if err != nil {
			return nil, nil, err
		}
		bare := filepath.Join(b.bare, "creates-"+closing)
		if err := os.Mkdir(bare, 0o755); err != nil {
			return nil, nil, err
		}
		if !l.takes("journal.close=" + closing) {
			for _, j := range jobs {
				j.missing = "not in this version"
			}
			return b.pair(bare, ""), func() error { return nil }, nil
		}
		if err := os.WriteFile(l.dir+"/lake.local.yaml", []byte(b.conf("", closing, "")), 0o600); err != nil {
			return nil, nil, err
		}
		return b.pair(bare, l.ctao()), l.umount, l.mount()
	}}
}

func newFolder(at place, writers, i int) string {
	return fmt.Sprintf("%s/new-%d-%d/w%d", at.dir, writers, at.round, i)
}
