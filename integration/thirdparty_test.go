package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// written is how many bytes the daemon has written so far, to files, connections and the kernel.
func (s *site) written() (n int64) {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.served()))
	must(s.t, err)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "wchar: "); ok {
			_, err = fmt.Sscan(rest, &n)
			must(s.t, err)
			return n
		}
	}
	s.t.Fatalf("no wchar in %q", b)
	return 0
}

// copies waits until a server has this many files, with nothing of uploads left, and gives them.
func (s *site) copies(srv *servertest.Server, n int) (out []string) {
	s.t.Helper()
	s.within(time.Minute, fmt.Sprintf("%d files at %s", n, srv.Dir), func() bool {
		out = stored(s.t, srv)
		return len(out) == n && !strings.Contains(strings.Join(out, " "), "/.tarn-uploads/")
	})
	return out
}

// Between two servers of one protocol the second copy of a file does not come by the daemon, nor does one that is to be
// repaired, unless the lake file says so.
func TestCopiesByServers(t *testing.T) {
	pki := identity(t)
	const size = 24 << 20
	data := backendstest.Bytes(31, size)
	var uploaded, repaired []int64 // what the daemon wrote
	for _, more := range []string{"", ", third_party_copy_write: 0"} {
		one, two := servertest.GridFTP(t, servertest.GridFTPOptions{PKI: pki}), servertest.GridFTP(t, servertest.GridFTPOptions{PKI: pki})
		s := elsewhere(t, one.FTP+one.Dir+more, two.FTP+two.Dir+more)
		s.expect("replica declared BAD")
		s.mount()
		file := s.path("ctao/f")
		before := s.written()
		must(t, os.WriteFile(file, data, 0o644))
		s.drain()
		uploaded = append(uploaded, s.written()-before)
		for _, srv := range []*servertest.Server{one, two} {
			if b, err := os.ReadFile(s.copies(srv, 1)[0]); err != nil || !bytes.Equal(b, data) {
				t.Errorf("%s has other bytes: %v", srv.Dir, err)
			}
		}
		// One that is lost is made again from the other.
		lost := s.copies(two, 1)[0]
		must(t, os.Remove(lost))
		before = s.written()
		s.try("verify", "/ctao/f") // which finds it
		s.within(time.Minute, "repaired", func() bool {
			rs := s.rows("replicas", "/ctao/f")
			return len(rs) == 2 && rs[0]["state"] == "AVAILABLE" && rs[1]["state"] == "AVAILABLE"
		})
		repaired = append(repaired, s.written()-before)
		if b, err := os.ReadFile(s.copies(two, 1)[0]); err != nil || !bytes.Equal(b, data) {
			t.Errorf("repaired with other bytes: %v", err)
		}
		s.ok("verify", "/ctao/f")
		s.umount()
	}
	t.Logf("written by the daemon for %d bytes: %d, by the servers, and %d; to repair a copy %d and %d", size, uploaded[0], uploaded[1], repaired[0], repaired[1])
	if uploaded[1]-uploaded[0] < size*3/4 {
		t.Errorf("the second copy came by the daemon: it wrote %d bytes, and %d where it had to carry them", uploaded[0], uploaded[1])
	}
	if repaired[0] > size/4 || repaired[1] < size {
		t.Errorf("to repair a copy the daemon wrote %d bytes, and %d where it had to carry them", repaired[0], repaired[1])
	}
}

// Kills at any moment of copies that two servers make between themselves: each file is at both in the end, once and whole.
func TestKillWhileServersCopy(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	pki := identity(t)
	one, two := servertest.GridFTP(t, servertest.GridFTPOptions{PKI: pki}), servertest.GridFTP(t, servertest.GridFTPOptions{PKI: pki})
	s := elsewhere(t, one.FTP+one.Dir, two.FTP+two.Dir)
	s.expect("kept among the orphans.*data file without a record")
	s.mount()
	truth := map[string]string{}
	at := func(srv *servertest.Server, n int) bool {
		files := 0
		for _, f := range stored(t, srv) {
			if !strings.Contains(f, "/.tarn-uploads/") {
				files++
			}
		}
		return files >= n
	}
	usual, early := time.Duration(0), 0
	for i := range 2 + rounds(6) {
		name := fmt.Sprintf("/ctao/f%d", i)
		data := backendstest.Bytes(seed+uint64(i), 24<<20+i)
		must(t, os.WriteFile(s.mnt+name, data, 0o644))
		truth[name] = sumOf(data)
		s.within(time.Minute, "the first copy is there", func() bool { return at(one, i+1) })
		began := time.Now()
		if i < 2 {
			s.within(time.Minute, "the second copy is there", func() bool { return at(two, i+1) })
			usual = max(usual, time.Since(began))
			continue
		}
		if i%2 == 0 { // as soon as something has arrived
			for end := time.Now().Add(time.Minute); len(stored(t, two)) <= i && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
		} else {
			time.Sleep(time.Duration(rnd.Int64N(int64(usual) + 1)))
		}
		s.kill()
		if !at(two, i+1) {
			early++
		}
		s.mount()
		s.within(time.Minute, "the second copy is there after a kill", func() bool { return at(two, i+1) })
	}
	s.settle()
	t.Logf("%d of the kills came before the second copy was there, which takes some %v", early, usual)
	if early == 0 && rounds(6) >= 6 {
		t.Error("no kill came in time")
	}
	s.umount()
	must(t, os.RemoveAll(s.cache))
	s.mount() // begins with a look for what has to go
	for name, want := range truth {
		if n := len(s.rows("replicas", name)); n != 2 {
			t.Errorf("%s has %d replicas", name, n)
		}
		if got := sum(t, s.mnt+name); got != want {
			t.Errorf("%s through an empty cache: %s, want %s", name, got, want)
		}
	}
	for _, srv := range []*servertest.Server{one, two} {
		if wrong := strangers(t, srv, truth); len(wrong) > 0 {
			t.Errorf("each file is to be there once, and no other: %q", wrong)
		}
	}
	if left, err := filepath.Glob(filepath.Join(two.Dir, ".tarn-uploads/*")); err != nil || len(left) > early {
		t.Errorf("%d kills left %q, %v", early, left, err)
	}
	s.ok("verify", "/ctao")
	s.umount()
}
