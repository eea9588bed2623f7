package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"tarn/backends/servertest"
)

// oneServer is a server that tarn and others read at the same time.
type oneServer struct {
	name  string
	start func(t *stage) (srv *servertest.Server, url string)
	peers []onServer
}

// onServer is a peer of allPeers on that server; mount gives the folder where it shows the URL's.
type onServer struct {
	peer  string
	mount func(b *bench, name, url string) (dir string, stop func() error, err error)
}

var oneServers = []oneServer{
	{"an XRootD server",
		func(t *stage) (*servertest.Server, string) {
			s := servertest.XRootD(t, servertest.XRootDOptions{})
			return s, s.Root + "//data"
		},
		[]onServer{{"xrootdfs", func(b *bench, name, url string) (string, func() error, error) { return mountXrootdfs(b, name, url) }}}},
	{"a WebDAV server (nginx)",
		func(t *stage) (*servertest.Server, string) {
			s := servertest.NGINX(t, servertest.NGINXOptions{Server: "add_header DAV 1;"}) // davfs2 asks for that class, too
			if err := os.Mkdir(filepath.Join(s.Dir, "lake"), 0o755); err != nil {
				t.Fatal(err)
			}
			return s, s.HTTP + "/lake"
		},
		[]onServer{
			{"rclone mount", func(b *bench, name, url string) (string, func() error, error) {
				return mountRclone(b, name, nil, ":webdav:", "--webdav-url", url)
			}},
			{"davfs2", func(b *bench, name, url string) (string, func() error, error) { return mountDavfs(b, name, url) }},
		}},
	{"an S3 server (versitygw)",
		func(t *stage) (*servertest.Server, string) {
			os.Setenv("AWS_ACCESS_KEY_ID", servertest.S3Access) // for the daemon, too
			os.Setenv("AWS_SECRET_ACCESS_KEY", servertest.S3Secret)
			s := servertest.S3(t, servertest.S3Options{})
			return s, s.S3 + "/lake"
		},
		[]onServer{
			{"rclone mount", func(b *bench, name, url string) (string, func() error, error) {
				return mountRclone(b, name, nil, ":s3:lake", "--s3-provider", "Other", "--s3-endpoint", s3Endpoint(url),
					"--s3-access-key-id", servertest.S3Access, "--s3-secret-access-key", servertest.S3Secret, "--s3-region", "us-east-1")
			}},
			{"s3fs", func(b *bench, name, url string) (string, func() error, error) {
				return mountS3fs(b, name, "lake", s3Endpoint(url), servertest.S3Access+":"+servertest.S3Secret)
			}},
		}},
}

// s3Endpoint is the server's own URL, of s3://host:port/bucket.
func s3Endpoint(url string) string {
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "s3://"), "/")
	return "http://" + host
}

// onOneServer are the sections that compare random reads on one server each. What was there and what not is added to
// versions and absent while they are measured.
func (b *bench) onOneServer(versions, absent *[]string) (out []section) {
	for i, s := range oneServers {
		out = append(out, b.coldReads(s, fmt.Sprint("one", i), versions, absent))
	}
	return out
}

// peerNamed finds one.
func peerNamed(name string) *peer {
	for i := range allPeers {
		if allPeers[i].name == name {
			return &allPeers[i]
		}
	}
	panic("no peer " + name)
}

// coldSize is how large the files are that are read at random; each side reads each of them once.
const coldSize = 256 << 20

// coldReads compares random reads of files of which nothing is cached, neither by the mount nor by the kernel.
func (b *bench) coldReads(one oneServer, id string, versions, absent *[]string) section {
	src := filepath.Join(b.dir, id+"-src")
	at := map[string]string{} // of a file, its path on the server
	var l *lake
	forget := func(what string) func(place) error {
		return func(pl place) error {
			if pl.name == "tarn" {
				if _, err := l.tarn("evict", "/ctao/"+fmt.Sprint(what, pl.round)); err != nil {
					return err
				}
			}
			return cold(pl)
		}
	}
	cell := func(what string, n int) func(place) (float64, error) {
		return func(pl place) (float64, error) {
			file := fmt.Sprint(what, pl.round)
			if pl.name != "tarn" && !pl.bare {
				file = at[file]
			}
			return randomBlocks(filepath.Join(pl.dir, file), n, pl.round)
		}
	}
	jobs := []*job{
		{name: "random 4 KiB reads of a cold file, " + one.name, unit: "ms each", lower: true, raw: true, root: true, before: forget("one"), run: cell("one", 1)},
		{name: "random 4 KiB reads of a cold file, 32 at a time, " + one.name, unit: "ms each", lower: true, raw: true, root: true, before: forget("many"), run: cell("many", 32)},
	}
	return section{title: "random reads beside others on " + one.name, jobs: jobs, optional: true, setUp: func() (_ []place, _ func() error, err error) {
		b.gone = nil
		t := &stage{dir: b.dir}
		var stops []func() error
		tearDown := func() error {
			var errs []error
			for _, stop := range stops {
				errs = append(errs, stop())
			}
			t.end()
			return errors.Join(errs...)
		}
		defer func() {
			if err != nil {
				tearDown()
			}
		}()
		var url string
		if err := t.play(func() { _, url = one.start(t) }); err != nil {
			return nil, nil, err
		}
		if l, err = b.serverLake(id, url); err != nil {
			return nil, nil, err
		}
		if err := l.mount(); err != nil {
			return nil, nil, err
		}
		stops = append(stops, l.umount)
		if err := b.coldFiles(l, src, at); err != nil {
			return nil, nil, err
		}
		sides := []place{{name: "bare folder", dir: src, bare: true}, {name: "tarn", dir: l.ctao()}}
		for i, p := range one.peers {
			q := peerNamed(p.peer)
			if why := q.without("rclone"); why != "" {
				*absent = append(*absent, q.name+": "+why)
				continue
			}
			dir, stop, err := p.mount(b, fmt.Sprint(id, "-", i), url)
			if err != nil {
				*absent = append(*absent, q.name+" on "+one.name+": "+oneLine(b.plain(err)))
				step("%s: %v", q.name, err)
				continue
			}
			stops = append(stops, stop)
			*versions = append(*versions, q.name+" "+version(q.version))
			sides = append(sides, place{name: q.name, dir: dir})
		}
		return sides, tearDown, nil
	}}
}

// without is absent for a peer whose server is another one than rclone's.
func (q *peer) without(server string) string {
	own := *q
	own.needs = nil
	for _, n := range q.needs {
		if n != server || q.name == "rclone mount" {
			own.needs = append(own.needs, n)
		}
	}
	return own.absent()
}

// coldFiles makes the files that are read, in src and through tarn on the server.
func (b *bench) coldFiles(l *lake, src string, at map[string]string) error {
	if err := os.Mkdir(src, 0o755); err != nil {
		return err
	}
	if err := writeFile(src+"/data", min(b.o.size, coldSize), true); err != nil {
		return err
	}
	var names []string
	for i := range b.o.rounds {
		names = append(names, fmt.Sprint("one", i), fmt.Sprint("many", i))
	}
	for _, n := range names {
		if err := os.Link(src+"/data", filepath.Join(src, n)); err != nil {
			return err
		}
		if err := b.bounded("cp", src+"/data", filepath.Join(l.ctao(), n)); err != nil {
			return err
		}
	}
	if err := l.sent(b.ctx); err != nil {
		return err
	}
	for _, n := range names {
		out, err := l.tarn("replicas", "--json", "/ctao/"+n)
		if err != nil {
			return err
		}
		if at[n], err = pfnOf(out); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

// pfnOf is the path of the only copy that tarn replicas --json tells of.
func pfnOf(out []byte) (string, error) {
	var r struct{ PFN string }
	d := json.NewDecoder(strings.NewReader(string(out)))
	if err := d.Decode(&r); err != nil {
		return "", err
	}
	if err := d.Decode(new(struct{})); err != io.EOF || r.PFN == "" {
		return "", fmt.Errorf("want one copy with a path: %s", out)
	}
	return r.PFN, nil
}
