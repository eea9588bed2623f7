package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"tarn/backends/servertest"
)

// protocol is how a server is spoken to, by tarn and by the protocol's own tool.
type protocol struct {
	name, tool string
	// start gives the server, and the URL of the RSE on it.
	start func(t *stage) (srv *servertest.Server, url string)
	// get and put copy between local files and below that URL; get is given a file, put one or many.
	get func(b *bench, url, from, to string) error
	put func(b *bench, url string, from []string, to string) error
}

var protocols = []protocol{
	{"root", "xrdcp",
		func(t *stage) (*servertest.Server, string) {
			s := servertest.XRootD(t, servertest.XRootDOptions{})
			return s, s.Root + "//data"
		},
		func(b *bench, url, from, to string) error {
			return command(b.dir, "xrdcp", "-f", "-s", url+"/"+from, to)
		},
		func(b *bench, url string, from []string, to string) error {
			if len(from) > 1 {
				if err := command(b.dir, "xrdfs", strings.TrimSuffix(url, "//data"), "mkdir", "-p", "/data/"+to); err != nil {
					return err
				}
				return command(b.dir, slices.Concat([]string{"xrdcp", "-f", "-s", "--parallel", "4"}, from, []string{url + "/" + to + "/"})...)
			}
			return command(b.dir, "xrdcp", "-f", "-s", from[0], url+"/"+to)
		}},
	{"http", "curl",
		func(t *stage) (*servertest.Server, string) {
			s := servertest.XRootD(t, servertest.XRootDOptions{})
			return s, s.HTTP + "/data"
		},
		func(b *bench, url, from, to string) error {
			return command(b.dir, "curl", "-sS", "-f", "-o", to, url+"/"+from)
		},
		func(b *bench, url string, from []string, to string) error {
			if len(from) > 1 {
				return command(b.dir, "curl", "-sS", "-f", "-Z", "--parallel-max", "4", "-T", "{"+strings.Join(from, ",")+"}", url+"/"+to+"/")
			}
			return command(b.dir, "curl", "-sS", "-f", "-T", from[0], url+"/"+to)
		}},
	{"gsiftp", "globus-url-copy",
		func(t *stage) (*servertest.Server, string) {
			s := servertest.GridFTP(t, servertest.GridFTPOptions{})
			return s, s.FTP + s.Dir
		},
		func(b *bench, url, from, to string) error {
			return command(b.dir, "globus-url-copy", "-nodcau", "-p", "4", url+"/"+from, "file://"+to)
		},
		func(b *bench, url string, from []string, to string) error {
			if len(from) > 1 {
				return command(b.dir, "globus-url-copy", "-nodcau", "-cd", "-cc", "4", "-r", "file://"+filepath.Dir(from[0])+"/", url+"/"+to+"/")
			}
			return command(b.dir, "globus-url-copy", "-nodcau", "-cd", "-p", "4", "file://"+from[0], url+"/"+to)
		}},
	{"s3", "minio-go",
		func(t *stage) (*servertest.Server, string) {
			os.Setenv("AWS_ACCESS_KEY_ID", servertest.S3Access) // for the daemon, too
			os.Setenv("AWS_SECRET_ACCESS_KEY", servertest.S3Secret)
			s := servertest.S3(t, servertest.S3Options{})
			return s, "s3://" + strings.TrimPrefix(s.HTTP, "http://") + "/lake"
		},
		func(b *bench, url, from, to string) error {
			c, err := s3Client(url)
			if err != nil {
				return err
			}
			return c.FGetObject(b.ctx, "lake", from, to, minio.GetObjectOptions{})
		},
		func(b *bench, url string, from []string, to string) error {
			c, err := s3Client(url)
			if err != nil {
				return err
			}
			put := func(ctx context.Context, from, to string) error {
				_, err := c.FPutObject(ctx, "lake", to, from, minio.PutObjectOptions{})
				return err
			}
			if len(from) == 1 {
				return put(b.ctx, from[0], to)
			}
			var next atomic.Int64
			return each(4, func(int) error {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(from) {
						return nil
					}
					if err := put(b.ctx, from[i], to+"/"+filepath.Base(from[i])); err != nil {
						return err
					}
				}
			})
		}},
}

func s3Client(url string) (*minio.Client, error) {
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "s3://"), "/")
	return minio.New(host, &minio.Options{Creds: credentials.NewStaticV4(servertest.S3Access, servertest.S3Secret, ""), Region: "us-east-1"})
}

// manyUp is how many files of 1 MiB go up in one row.
const manyUp = 1000

// server is a lake whose one storage is a server of the tests, with a link before it if it is far.
func (b *bench) server(p protocol, far bool) section {
	var l *lake
	var url string
	n := min(manyUp, b.o.small)
	where, rounds := "on this machine", 0
	start := p.start
	if far {
		p.name += "-far"
		start = func(t *stage) (*servertest.Server, string) {
			srv, url := p.start(t)
			return srv, t.away(url)
		}
		n, rounds = min(n, 300), 3
		where = fmt.Sprintf("over a link of %.0f Mbit/s, %v away", linkRate*8/1e6, linkDelay)
	}
	mb := float64(b.o.size) / 1e6
	src := filepath.Join(b.dir, "bare-"+p.name)
	var many []string
	for i := range n {
		many = append(many, smallName(src+"/many", i))
	}
	forget := func(at place) error {
		if !at.bare {
			if _, err := l.tarn("evict", "/ctao/big"); err != nil {
				return err
			}
		} else if err := os.RemoveAll(src + "/copy"); err != nil {
			return err
		}
		return flushed(at)
	}
	random := func(at int) func(place) (float64, error) {
		return func(pl place) (float64, error) { return randomBlocks(pl.dir+"/big", at, pl.round) }
	}
	jobs := []*job{
		{name: p.name + ": whole file, nothing cached, against " + p.tool, unit: "MB/s", target: 1, rounds: rounds, before: forget, run: func(at place) (float64, error) {
			if at.bare {
				return mb, p.get(b, url, "tool", src+"/copy")
			}
			return mb, readers(at.dir+"/big", 1, 0, readAll)
		}},
		{name: p.name + ": first byte, nothing cached", unit: "ms", lower: true, raw: true, alone: true, limit: 100, before: forget,
			run: func(at place) (float64, error) { return readAt(at.dir+"/big", 0) }},
		{name: p.name + ": 4 KiB anywhere in a file of which nothing is cached", unit: "ms each", lower: true, raw: true, alone: true, before: forget, run: random(1)},
		{name: p.name + ": the same, 32 at a time", unit: "ms each", lower: true, raw: true, alone: true, before: forget, run: random(32)},
		{name: p.name + ": whole file up, against " + p.tool, unit: "MB/s", target: 0.9, rounds: rounds, before: flushed, run: func(at place) (float64, error) {
			to := fmt.Sprintf("up%d", at.round)
			if at.bare {
				return mb, p.put(b, url, []string{src + "/big"}, to)
			}
			if err := command(b.dir, "cp", src+"/big", at.dir+"/"+to); err != nil {
				return 0, err
			}
			return mb, l.sent(b.ctx)
		}},
		{name: fmt.Sprintf("%s: %d files of 1 MiB up, against %s", p.name, n, p.tool), unit: "MB/s", target: 0.9, rounds: 3, before: flushed, run: func(at place) (float64, error) {
			to := fmt.Sprintf("many%d", at.round)
			v := float64(n) * (1 << 20) / 1e6
			if at.bare {
				return v, p.put(b, url, many, to)
			}
			if err := command(b.dir, "cp", "-r", src+"/many", at.dir+"/"+to); err != nil {
				return 0, err
			}
			return v, l.sent(b.ctx)
		}},
	}
	return section{title: "a server " + where + ": " + p.name, jobs: jobs, optional: true, setUp: func() ([]place, func() error, error) {
		t := &stage{dir: b.dir}
		tearDown := func() error {
			defer t.end()
			return l.umount()
		}
		err := os.Mkdir(src, 0o755)
		if err == nil {
			err = t.play(func() { _, url = start(t) })
		}
		if err == nil {
			err = writeFile(src+"/big", b.o.size, true)
		}
		if err == nil {
			err = makeSmall(src+"/many", n, 1<<20)
		}
		if err == nil {
			err = p.put(b, url, []string{src + "/big"}, "tool")
		}
		if err == nil {
			l, err = b.serverLake(p.name, url)
		}
		if err != nil {
			t.end()
			return nil, nil, err
		}
		if err = l.mount(); err != nil {
			t.end()
			return nil, nil, err
		}
		if err = command(b.dir, "cp", src+"/big", l.ctao()+"/big"); err == nil {
			err = l.sent(b.ctx)
		}
		if err != nil {
			tearDown()
			return nil, nil, err
		}
		return []place{{name: p.tool, dir: src, bare: true}, {name: "mount", dir: l.ctao()}}, tearDown, nil
	}}
}

// serverLake is a lake of one storage at a URL.
func (b *bench) serverLake(name, url string) (*lake, error) {
	l := &lake{b: b, dir: filepath.Join(b.dir, name), mnt: filepath.Join(b.dir, name+"-mnt")}
	for _, d := range []string{l.dir, l.mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf(`name: %s
rses: [{name: SERVER, protocols: [{url: %q}]}]
scopes: [{name: ctao}]
write_rules: [{copies: 1, expression: SERVER}]
cache: {limit: %d, free_floor: 64MiB, head: 0, tail: 0}
journal: {delay: 0s}
recalls: {policy: {burst: {files: 0}}}
`, name, url, 12*b.o.size+16<<30)
	if err := os.WriteFile(filepath.Join(l.dir, "lake.yaml"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	_, err := l.tarn("init", l.dir)
	return l, err
}

// sent waits until everything is where it is to be.
func (l *lake) sent(ctx context.Context) error {
	for ctx.Err() == nil {
		raw, err := os.ReadFile(filepath.Join(l.mnt, ".tarn/stats"))
		if err != nil {
			return err
		}
		var s struct{ Unsent int }
		if err := json.Unmarshal(raw, &s); err != nil || s.Unsent == 0 {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return ctx.Err()
}
