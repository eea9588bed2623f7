package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"tarn/backends/servertest"
)

// carrier is a protocol that files go to two centres by, and the tool that is compared: it makes one copy, and nothing else.
type carrier struct {
	name, tool string
	start      func(t *stage) (srv *servertest.Server, url string)
	large      func(b *bench, from, url, to string) error // a folder of large files
	small      func(b *bench, from, url, to string) error // a folder of small ones
}

var carriers = []carrier{
	{"gsiftp", "globus-url-copy",
		func(t *stage) (*servertest.Server, string) {
			s := servertest.GridFTP(t, servertest.GridFTPOptions{})
			return s, s.FTP + s.Dir
		},
		func(b *bench, from, url, to string) error {
			return command(b.dir, "globus-url-copy", "-nodcau", "-cd", "-cc", "2", "-p", "4", "-r", "file://"+from+"/", url+"/"+to+"/")
		},
		func(b *bench, from, url, to string) error {
			return command(b.dir, "globus-url-copy", "-nodcau", "-cd", "-cc", "8", "-fast", "-r", "file://"+from+"/", url+"/"+to+"/")
		}},
	{"root", "xrdcp",
		func(t *stage) (*servertest.Server, string) {
			s := servertest.XRootD(t, servertest.XRootDOptions{ThirdParty: true})
			return s, s.Root + "//data"
		}, xrdcpFolder, xrdcpFolder},
}

// xrdcpFolder copies all files of a folder, four at a time.
func xrdcpFolder(b *bench, from, url, to string) error {
	if err := command(b.dir, "xrdfs", strings.TrimSuffix(url, "//data"), "mkdir", "-p", "/data/"+to); err != nil {
		return err
	}
	return command(b.dir, "xrdcp", "-f", "-s", "-r", "--parallel", "4", from+"/", url+"/"+to+"/")
}

// hauled is a folder that is watched, and a lake with two storages that its files go to.
type hauled struct {
	*lake
	watched string // the folder
	servers []*servertest.Server
}

// centres makes a lake of two storages, the first of which serves the second, and an ingest into both.
func (b *bench) centres(name string, rses ...string) (*hauled, error) {
	h := &hauled{lake: &lake{b: b, dir: filepath.Join(b.dir, name), mnt: filepath.Join(b.dir, name+"-mnt")}, watched: filepath.Join(b.dir, name+"-watched")}
	for _, d := range []string{h.dir, h.mnt, h.watched} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf("name: %s\nrses:\n  - {name: ONE, %s}\n  - {name: TWO, distance: 1, %s}\nscopes: [{name: ctao}]\ncatalogue: {grace: 1ms}\ncache: {limit: 1GiB, free_floor: 64MiB, head: 0, tail: 0}\n", name, rses[0], rses[1])
	if err := os.WriteFile(filepath.Join(h.dir, "lake.yaml"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	if _, err := h.tarn("init", h.dir); err != nil {
		return nil, err
	}
	if err := h.mount(); err != nil {
		return nil, err
	}
	_, err := h.tarn("ingest", "add", "bench", "--watch", h.watched, "--to", "/ctao/in",
		"--rule", "copies=1 rse=ONE", "--rule", "copies=1 rse=TWO from=ONE", "--delete-source", "after-rules")
	if err != nil {
		h.umount()
	}
	return h, err
}

// take moves a folder of files into the watched one, where they appear at once, and waits until the last one has been deleted
// there: it is registered then, and has two verified copies.
func (h *hauled) take(from string, files []string) error {
	into := filepath.Join(h.watched, filepath.Base(from))
	if err := os.Rename(from, into); err != nil {
		return err
	}
	last := time.Now()
	for len(files) > 0 {
		if err := h.b.ctx.Err(); err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(into, files[len(files)-1])); os.IsNotExist(err) {
			files, last = files[:len(files)-1], time.Now()
			continue
		}
		if time.Since(last) > 5*time.Minute {
			out, _ := h.tarn("ingest", "show", "bench")
			return fmt.Errorf("%d files are left after 5 minutes without one that went: %s", len(files), out)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// emptied takes away what a round left at the servers.
func (h *hauled) emptied() error {
	for _, s := range h.servers {
		dir := s.Dir
		if s.FTP == "" {
			dir = s.Path("data")
		}
		all, err := filepath.Glob(dir + "/*")
		if err != nil {
			return err
		}
		for _, p := range all {
			if err := os.RemoveAll(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// manyFiles makes a folder of n files of size bytes and tells their names.
func manyFiles(dir string, n int, size int64) (names []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for i := range n {
		name := fmt.Sprintf("f%06d", i)
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		for off := int64(0); off < size && err == nil; off += int64(len(buf)) {
			_, err = f.Write(noise[i%4096:][:min(int64(len(buf)), size-off)])
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// ingests are files on their whole way, from where they are noticed to their deletion, against one copy by the protocol's tool.
func (b *bench) ingests(c carrier) section {
	var h *hauled
	var urls []string
	var names []string
	source := func(at place, what string) string {
		return filepath.Join(b.dir, fmt.Sprintf("%s-%s-%d-%v", c.name, what, at.round, at.bare))
	}
	way := func(name, unit string, units float64, target float64, n int, size int64, copyBy func(b *bench, from, url, to string) error) *job {
		what := "large"
		if unit == "files/s" {
			what = "small"
		}
		return &job{name: name, unit: unit, target: target, rounds: 3,
			before: func(at place) (err error) {
				if names, err = manyFiles(source(at, what), n, size); err == nil {
					syscall.Sync()
				}
				return err
			},
			run: func(at place) (float64, error) {
				if at.bare {
					return units, copyBy(b, source(at, what), urls[0], "tool")
				}
				return units, h.take(source(at, what), slices.Clone(names))
			},
			after: func(at place) error {
				if err := os.RemoveAll(source(at, what)); err != nil {
					return err
				}
				return h.emptied()
			}}
	}
	large, small := b.o.haulFiles, b.o.haulSmall
	jobs := []*job{
		way(fmt.Sprintf("%s: %d files of %d MiB noticed, two verified copies, registered, source deleted, against one copy by %s", c.name, large, b.o.haulSize>>20, c.tool),
			"MB/s", float64(large)*float64(b.o.haulSize)/1e6, 0.85, large, b.o.haulSize, c.large),
		way(fmt.Sprintf("%s: %s files of 100 KB in the same way, against one copy by %s", c.name, group(int64(small)), c.tool),
			"files/s", float64(small), 1, small, 100_000, c.small),
		{name: c.name + ": memory of the daemon after that", unit: "MiB", lower: true, raw: true, alone: true, rounds: 1,
			run: func(place) (float64, error) { return h.memory("VmRSS") }},
	}
	return section{title: "an ingest to two servers on this machine: " + c.name, jobs: jobs, optional: true, setUp: func() ([]place, func() error, error) {
		t := &stage{dir: b.dir}
		urls = nil
		var servers []*servertest.Server
		err := t.play(func() {
			for range 2 {
				s, url := c.start(t)
				servers, urls = append(servers, s), append(urls, url)
			}
		})
		if err == nil {
			h, err = b.centres("ingest-"+c.name, fmt.Sprintf("protocols: [{url: %q}]", urls[0]), fmt.Sprintf("protocols: [{url: %q}]", urls[1]))
		}
		if err != nil {
			t.end()
			return nil, nil, err
		}
		h.servers = servers
		return []place{{name: c.tool, dir: b.dir, bare: true}, {name: "ingest", dir: h.watched}}, func() error {
			defer t.end()
			return h.umount()
		}, nil
	}}
}

// grown tells what a file costs when so many were taken before it, at two folders of this machine: what is
// measured is the catalogue, the ledger and the proof, not a transfer. The lake with the most is the last side.
func (b *bench) grown() section {
	lakes := map[string]*hauled{}
	var names []string
	const more = 500
	fresh := func(at place) string { return filepath.Join(b.dir, fmt.Sprintf("more-%s-%d", at.name, at.round)) }
	jobs := []*job{
		{name: fmt.Sprintf("ingest of %d more files of 1 KB", more), unit: "ms a file", lower: true, raw: true, target: flatWithin,
			before: func(at place) (err error) {
				names, err = manyFiles(fresh(at), more, 1000)
				return err
			},
			run: func(at place) (float64, error) {
				v, err := seconds(func() error { return lakes[at.dir].take(fresh(at), slices.Clone(names)) })
				return v / more * 1000, err
			}},
		{name: "memory of the daemon of an ingest", unit: "MiB", lower: true, raw: true, target: flatWithin, rounds: 1,
			run: func(at place) (float64, error) { return lakes[at.dir].memory("VmRSS") }},
	}
	return section{title: fmt.Sprintf("an ingest as it grows: 1,000 files taken before, and %s", group(int64(b.o.haulGrown))), jobs: jobs, optional: true, setUp: func() (sides []place, _ func() error, err error) {
		tearDown := func() (err error) {
			for _, h := range lakes {
				if uerr := h.umount(); err == nil {
					err = uerr
				}
			}
			return err
		}
		for i, n := range []int{1000, b.o.haulGrown} {
			name := fmt.Sprint("grown-", n)
			h, err := b.centres(name, "path: rse/ONE", "path: rse/TWO")
			if err != nil {
				tearDown()
				return nil, nil, err
			}
			lakes[h.watched] = h
			sides = append(sides, place{name: group(int64(n)) + " files", dir: h.watched, bare: i == 0})
			for from := 0; from < n && err == nil; from += 10_000 {
				part := filepath.Join(b.dir, fmt.Sprintf("%s-part%04d", name, from/10_000))
				if names, err = manyFiles(part, min(10_000, n-from), 100); err != nil {
					break
				}
				var v float64
				count := len(names)
				v, err = seconds(func() error { return h.take(part, slices.Clone(names)) })
				rss, _ := h.memory("VmRSS")
				step("  %s files: %s ms a file, %s MiB", group(int64(from+count)), number(v/float64(count)*1000), number(rss))
			}
			if err != nil {
				tearDown()
				return nil, nil, err
			}
		}
		return sides, tearDown, nil
	}}
}
