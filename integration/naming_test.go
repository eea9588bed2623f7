package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// namedLake is a lake of two storages whose paths follow from scope and name.
func namedLake(t *testing.T, one, two, grace string) *site {
	return newLake(t, `name: named
rses:
  - {name: ONE, naming: hash, protocols: [{url: "`+one+`"}]}
  - {name: TWO, naming: identity, distance: 1, protocols: [{url: "`+two+`"}]}
scopes: [{name: ctao}]
write_rules: [{copies: 2, expression: rse_type=DISK}]
cache: {limit: 64MiB, free_floor: 0, head: 0, tail: 0}
catalogue: {grace: `+grace+`}
journal: {delay: 0s}
`)
}

// TestPathsFollowFromNames: on an nginx and an XRootD a file lies where Rucio looks for it,
// seen from outside, while it is written, overwritten, renamed, removed and made again.
func TestPathsFollowFromNames(t *testing.T) {
	needXrdCl(t)
	nginx := servertest.NGINX(t, servertest.NGINXOptions{})
	xrd := servertest.XRootD(t, servertest.XRootDOptions{})
	s := namedLake(t, nginx.HTTP, xrd.Root+"//data", "10m")
	for _, word := range []string{"(naming hash)", "(naming identity)"} {
		if out := s.ok("--lake", s.dir, "rse", "ls"); !strings.Contains(out, word) {
			t.Errorf("rse ls does not say %s:\n%s", word, out)
		}
	}
	s.mount()

	// md5("ctao:/ctao/dl3/run 1.fits") begins with 8099.
	const one, two = "ctao/80/99/ctao/dl3/run 1.fits", "ctao/ctao/dl3/run 1.fits"
	outside := func(srv *servertest.Server, p string) []byte {
		b, err := os.ReadFile(filepath.Join(srv.Dir, p))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return b
	}
	file := filepath.Join(s.mnt, "ctao/dl3/run 1.fits")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(p string, seed uint64, n int) []byte {
		t.Helper()
		data := backendstest.Bytes(seed, n)
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
		s.drain()
		return data
	}
	places := func(p string) (out []string) {
		for _, r := range s.rows("replicas", p) {
			out = append(out, r["pfn"].(string))
		}
		return out
	}
	has := func(what string, want []byte) {
		t.Helper()
		if got := outside(nginx, one); !bytes.Equal(got, want) {
			t.Errorf("%s: nginx has %d bytes at the path of its naming, want %d", what, len(got), len(want))
		}
		if got := outside(xrd, "data/"+two); !bytes.Equal(got, want) {
			t.Errorf("%s: XRootD has %d bytes at the path of its naming, want %d", what, len(got), len(want))
		}
	}
	reads := func(what, p string, want []byte) {
		t.Helper()
		s.ok("evict", p)
		if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d", what, len(got), err, len(want))
		}
		s.ok("verify", p)
	}

	a := write(file, 1, 300_001)
	has("written", a)
	reads("written", file, a)
	if got := places(file); len(got) != 2 || got[0] != one || got[1] != two {
		t.Errorf("tarn replicas gives %q", got)
	}

	b := write(file, 2, 200_002)
	has("overwritten, and the old content can be had back", a)
	reads("overwritten", file, b)
	for _, p := range places(file) {
		if p == one || p == two {
			t.Errorf("overwritten, the new content lies at %s", p)
		}
	}

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	c := write(file, 3, 100_003)
	has("removed and made again", a)
	reads("removed and made again", file, c)
	s.kill() // what is on record is found again
	s.mount()
	reads("after a crash", file, c)
	has("after a crash", a)
}

// TestPathsAreFreeAfterTheGrace: what was deleted for good has no path any more.
func TestPathsAreFreeAfterTheGrace(t *testing.T) {
	nginx, other := servertest.NGINX(t, servertest.NGINXOptions{}), servertest.NGINX(t, servertest.NGINXOptions{})
	s := namedLake(t, nginx.HTTP, other.HTTP, "1ms")
	s.mount()
	file := filepath.Join(s.mnt, "ctao/f")
	for round := range 3 {
		data := backendstest.Bytes(uint64(round), 10_000+round)
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		s.drain()
		// A renamed file keeps its path, and so it is not free.
		if err := os.Rename(file, file+".old"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data[1:], 0o644); err != nil {
			t.Fatal(err)
		}
		s.drain()
		if got, err := os.ReadFile(filepath.Join(other.Dir, "ctao/ctao/f")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("round %d: %d bytes at the path of the naming, %v", round, len(got), err)
		}
		for _, p := range []string{file, file + ".old"} {
			s.ok("evict", p)
			s.ok("verify", p)
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
		s.umount()
		s.mount() // begins with a look for what has to go
		s.within(time.Minute, "deletion", func() bool { return len(stored(t, nginx)) == 0 && len(stored(t, other)) == 0 })
	}
}

// TestFsckKnowsNames: where paths follow from names a copy tells which file it is of, and one that lies
// where a removed file of the backup lay is found to be another content.
func TestFsckKnowsNames(t *testing.T) {
	s := newSite(t, oneDisk+"rses: [{name: LAPALMA-DISK, naming: identity}]\n")
	s.write("d/one", "d/freed")
	backup := filepath.Join(filepath.Dir(s.dir), "b.tarncat")
	s.ok("catalogue", "backup", backup)
	s.mount()
	// A path that was freed after the backup, and is another content's now.
	s.sh("rm ctao/d/freed")
	s.umount()
	s.mount()
	at := filepath.Join(s.dir, "rse/LAPALMA-DISK/ctao/ctao/d")
	s.within(time.Minute, "reaped", func() bool { _, err := os.Stat(filepath.Join(at, "freed")); return os.IsNotExist(err) })
	s.sh("echo newer > ctao/d/three && echo another > ctao/d/freed")
	s.umount()
	for name, want := range map[string]string{"three": "newer\n", "freed": "another\n"} {
		if b, err := os.ReadFile(filepath.Join(at, name)); err != nil || string(b) != want {
			t.Fatalf("%s lies not where it should: %q, %v", name, b, err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "catalogue/db/MANIFEST"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	rows, sum := s.fsck(0, "--backup", backup, "--repair")
	if b := sum.Backup; !b.Restored || sum.Files != 3 {
		t.Errorf("repair: %+v\n%+v", sum, rows)
	}
	s.fsck(0, "--deep")
	s.mount()
	if got := s.sh("cat ctao/d/three ctao/d/freed"); got != "newer\nanother\n" {
		t.Errorf("the newer files: %q", got)
	}
	s.sh("mv ctao/d/freed ctao/d/moved") // the record of the old content goes, and takes nothing along
	s.umount()
	s.mount()
	if got := s.sh("cat ctao/d/moved"); got != "another\n" {
		t.Errorf("after a reaping: %q", got)
	}
	s.ok("verify", s.path("ctao", "d/moved"))
}
