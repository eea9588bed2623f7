package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// door is a TCP proxy before a server, which can be made to misbehave.
type door struct {
	*toxiproxy.Proxy
	t testing.TB
}

// corrupt flips a bit of every piece of more than After bytes that passes.
type corrupt struct {
	After int `json:"after"`
}

func (c *corrupt) Pipe(stub *toxics.ToxicStub) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case piece := <-stub.Input:
			if piece == nil {
				stub.Close()
				return
			}
			if len(piece.Data) > c.After {
				piece.Data = bytes.Clone(piece.Data)
				piece.Data[len(piece.Data)-1] ^= 0x10
			}
			stub.Output <- piece
		}
	}
}

func init() { toxics.Register("corrupt", new(corrupt)) }

// before puts a proxy before the server of a URL, and gives the URL that leads through it.
func before(t testing.TB, to string) (*door, string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	d := &door{toxiproxy.NewProxy(api, t.Name(), "127.0.0.1:0", "127.0.0.1:"+u.Port()), t}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	u.Host = u.Hostname() + d.Listen[strings.LastIndexByte(d.Listen, ':'):]
	return d, u.String()
}

// poison adds a toxic to what the server sends.
func (d *door) poison(kind string, attributes map[string]any) {
	d.t.Helper()
	b, err := json.Marshal(map[string]any{"type": kind, "stream": "downstream", "attributes": attributes})
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.Toxics.AddToxicJson(bytes.NewReader(b)); err != nil {
		d.t.Fatal(err)
	}
}

// pair is a mounted lake with a file of which each of two servers has a copy, ONE the nearer.
type pair struct {
	*site
	data []byte
	file string
}

// pairSize is what a copy at pairRate takes 6 s for, so that there is a middle of a read.
const (
	pairSize = 24 << 20
	pairRate = "4MiB/s"
)

// newPair makes a lake of the URLs (one or two), reading the first at pairRate.
func newPair(t *testing.T, settings string, urls ...string) *pair {
	t.Helper()
	var rses strings.Builder
	for i, u := range urls {
		limits := ""
		if i == 0 {
			limits = ", limits: {read: " + pairRate + "}"
		}
		fmt.Fprintf(&rses, "  - {name: %s, distance: %d, protocols: [{url: %q%s}]}\n", []string{"ONE", "TWO"}[i], i, u, limits)
	}
	p := &pair{data: backendstest.Bytes(11, pairSize), site: newLake(t, fmt.Sprintf(`name: pair
rses:
%sscopes: [{name: ctao}]
write_rules: [{copies: %d, expression: rse_type=DISK}]
cache: {limit: 256MiB, free_floor: 0, head: 0, tail: 0}
journal: {delay: 0s}
%s
`, rses.String(), len(urls), settings))}
	p.mount()
	p.file = filepath.Join(p.mnt, "ctao/f")
	if err := os.WriteFile(p.file, p.data, 0o644); err != nil {
		t.Fatal(err)
	}
	p.drain()
	for end := time.Now().Add(time.Minute); len(p.rows("replicas", p.file)) != len(urls); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("replicas: %v", p.rows("replicas", p.file))
		}
	}
	p.ok("evict", p.file)
	return p
}

// read reads the file and calls trouble after the first MiB, wants the same bytes, and gives how long the
// longest pause was.
func (p *pair) read(trouble func()) (pause time.Duration) {
	p.t.Helper()
	f, err := os.Open(p.file)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for off := 0; off < len(p.data); {
		began := time.Now()
		n, err := f.Read(buf)
		pause = max(pause, time.Since(began))
		if n > 0 && !bytes.Equal(buf[:n], p.data[off:off+n]) {
			p.t.Fatalf("other bytes at %d", off)
		}
		if err != nil {
			p.t.Fatalf("at %d of %d after %v: %v\n%s", off, len(p.data), time.Since(began), err, lastLines(p.log.String(), 30))
		}
		if off += n; trouble != nil && off >= 1<<20 {
			trouble()
			trouble = nil
		}
	}
	if n, err := f.Read(buf); n != 0 || err != io.EOF {
		p.t.Fatalf("at the end: %d, %v", n, err)
	}
	return pause
}

// state gives that of the copy at an RSE.
func (p *pair) state(rse string) string {
	p.t.Helper()
	for _, r := range p.rows("replicas", p.file) {
		if r["rse"] == rse {
			return r["state"].(string)
		}
	}
	return ""
}

// webdavPair is two nginx behind doors, plain.
func webdavPair(t *testing.T, settings string) (p *pair, one *servertest.Server, at *door) {
	t.Helper()
	a, b := servertest.NGINX(t, servertest.NGINXOptions{}), servertest.NGINX(t, servertest.NGINXOptions{})
	at, first := before(t, a.HTTP)
	return newPair(t, settings, first, b.HTTP), a, at
}

// rootPair is two servers of the root protocol, the first behind a door.
func rootPair(t *testing.T, settings string) (p *pair, one *servertest.Server, at *door) {
	t.Helper()
	needXrdCl(t)
	a, b := servertest.XRootD(t, servertest.XRootDOptions{}), servertest.XRootD(t, servertest.XRootDOptions{})
	at, first := before(t, a.Root+"//data")
	return newPair(t, settings, first, b.Root+"//data"), a, at
}

// R12: what a reader sees of each trouble at the nearer server is a pause, and the same bytes.
func TestFailOverInMidRead(t *testing.T) {
	type setUp = func(t *testing.T, settings string) (*pair, *servertest.Server, *door)
	for _, c := range []struct {
		name    string
		trouble func(one *servertest.Server, at *door)
		most    time.Duration
	}{
		{"cut", func(_ *servertest.Server, at *door) { at.Stop() }, 10 * time.Second},
		{"cut after some bytes", func(_ *servertest.Server, at *door) { at.poison("limit_data", map[string]any{"bytes": 300_000}) }, 10 * time.Second},
		{"reset", func(_ *servertest.Server, at *door) { at.poison("reset_peer", map[string]any{"timeout": 100}) }, 10 * time.Second},
		{"silent", func(_ *servertest.Server, at *door) { at.poison("timeout", map[string]any{"timeout": 0}) }, 10 * time.Second},
		{"slowed", func(_ *servertest.Server, at *door) { at.poison("bandwidth", map[string]any{"rate": 10}) }, 10 * time.Second},
		{"stopped", func(one *servertest.Server, _ *door) { one.Pause() }, 20 * time.Second},
		{"killed", func(one *servertest.Server, _ *door) { one.Kill() }, 10 * time.Second},
	} {
		for protocol, start := range map[string]setUp{"WebDAV": webdavPair, "root": rootPair} {
			t.Run(protocol+", "+c.name, func(t *testing.T) {
				t.Parallel()
				settings := "reads: {hedge: 0, failover: 5s}"
				if c.name == "stopped" {
					settings = "reads: {hedge: 0}" // the 15 s that are promised
				}
				p, one, at := start(t, settings)
				pause := p.read(func() { c.trouble(one, at) })
				t.Logf("the longest pause was %v", pause)
				if pause > c.most {
					t.Errorf("the longest pause was %v, want at most %v", pause, c.most)
				}
				one.Resume() // or it does not end
				if s := p.state("ONE"); s != "AVAILABLE" {
					t.Errorf("the copy that could not be read is %s", s)
				}
			})
		}
	}
}

// A server that becomes slow is raced by the other one long before it is held for lost.
func TestSlowServerIsRacedInMidRead(t *testing.T) {
	for name, trouble := range map[string]func(one *servertest.Server, at *door){
		"slowed":  func(_ *servertest.Server, at *door) { at.poison("bandwidth", map[string]any{"rate": 10}) },
		"late":    func(_ *servertest.Server, at *door) { at.poison("latency", map[string]any{"latency": 30_000}) },
		"stopped": func(one *servertest.Server, _ *door) { one.Pause() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, one, at := webdavPair(t, "reads: {failover: 1m}")
			pause := p.read(func() { trouble(one, at) })
			t.Logf("the longest pause was %v", pause)
			if pause > 10*time.Second { // four times what a read at pairRate by several streams takes, and as much again
				t.Errorf("the longest pause was %v", pause)
			}
			one.Resume()
			if s := p.state("ONE"); s != "AVAILABLE" {
				t.Errorf("the slow copy is %s", s)
			}
		})
	}
}

// Bytes that the way has changed are found by the checksum: that copy is BAD, and the other one is read. A reader
// who has wrong bytes by then gets an error and no clean end, and none where nothing is given before it is proved.
func TestCorruptedOnTheWay(t *testing.T) {
	for _, verify := range []string{"normal", "strict"} {
		t.Run(verify, func(t *testing.T) {
			t.Setenv("TARN_CACHE_VERIFY", verify)
			p, _, at := webdavPair(t, "reads: {hedge: 0, failover: 5m}") // of bytes from two copies none can be blamed
			p.expect("checksum mismatch", "corrupt")
			at.poison("corrupt", map[string]any{"after": 4000})
			got, err := os.ReadFile(p.file)
			if right := bytes.Equal(got, p.data); err == nil && !right || err != nil && verify == "strict" {
				t.Errorf("read: %d bytes, right %v, %v", len(got), right, err)
			}
			for end := time.Now().Add(90 * time.Second); p.state("ONE") != "BAD" && time.Now().Before(end); {
				time.Sleep(100 * time.Millisecond)
			}
			if one, two := p.state("ONE"), p.state("TWO"); one != "BAD" || two != "AVAILABLE" {
				t.Errorf("the copies are %s and %s", one, two)
			}
			if got, err := os.ReadFile(p.file); err != nil || !bytes.Equal(got, p.data) {
				t.Errorf("read again: %d bytes, %v", len(got), err)
			}
		})
	}
}

// R13: with no other copy the reader waits for the server.
func TestServerRestartsInMidRead(t *testing.T) {
	pki := identity(t)
	for name, start := range map[string]func(t *testing.T) (*servertest.Server, string){
		"WebDAV": func(t *testing.T) (*servertest.Server, string) {
			s := servertest.NGINX(t, servertest.NGINXOptions{})
			return s, s.HTTP
		},
		"XRootD over TLS": func(t *testing.T) (*servertest.Server, string) {
			s := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Authorize: true})
			return s, "davs" + strings.TrimPrefix(s.HTTPS, "https") + "/data"
		},
		"root over TLS": func(t *testing.T) (*servertest.Server, string) {
			needXrdCl(t)
			s := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Login: []string{"gsi"}, Authorize: true})
			return s, s.Roots + "//data"
		},
		"GridFTP": func(t *testing.T) (*servertest.Server, string) {
			s := servertest.GridFTP(t, servertest.GridFTPOptions{PKI: pki})
			return s, s.FTP + s.Dir
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, at := start(t)
			p := newPair(t, "", at)
			restarted := make(chan struct{})
			pause := p.read(func() {
				srv.Kill()
				go func() {
					defer close(restarted)
					time.Sleep(5 * time.Second)
					srv.Start()
				}()
			})
			<-restarted
			t.Logf("the longest pause was %v", pause)
			if pause > 20*time.Second {
				t.Errorf("the longest pause was %v", pause)
			}
		})
	}
}

// R3, R13: who waits for a server can be killed, and so can the mount.
func TestWaitingReaderCanBeKilled(t *testing.T) {
	t.Parallel()
	srv := servertest.NGINX(t, servertest.NGINXOptions{})
	p := newPair(t, "", srv.HTTP)
	srv.Kill()
	cat := owned(exec.Command("cat", p.file), syscall.SIGKILL)
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cat.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(3 * time.Second):
	}
	if err := cat.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		t.Error("it lives 2 s after kill -9")
	}
	began := time.Now()
	p.umount()
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("umount took %v", d)
	}
}

// R13: the wait ends.
func TestPatienceEndsWithEIO(t *testing.T) {
	t.Parallel()
	srv := servertest.NGINX(t, servertest.NGINXOptions{})
	p := newPair(t, "reads: {patience: 8s}", srv.HTTP)
	p.expect("is unavailable")
	srv.Kill()
	began := time.Now()
	_, err := os.ReadFile(p.file)
	t.Logf("EIO after %v", time.Since(began))
	if d := time.Since(began); !errors.Is(err, syscall.EIO) || d < 8*time.Second || d > 20*time.Second { // the kernel asks three times
		t.Errorf("%v after %v", err, d)
	}
	srv.Start()
	if got, err := os.ReadFile(p.file); err != nil || !bytes.Equal(got, p.data) {
		t.Errorf("when it is back: %d bytes, %v", len(got), err)
	}
}
