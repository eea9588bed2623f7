package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fill writes a file until the disk is full.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	b := make([]byte, 1<<20)
	for len(b) > 0 {
		if _, err = f.Write(b); err != nil {
			b = b[:len(b)/2]
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	must(t, f.Close())
}

// refused writes a file for which there is no room: an error in time, and no daemon that died.
func (s *site) refused(name string, n int) {
	s.t.Helper()
	began := time.Now()
	err := os.WriteFile(s.path(name), content(1, n), 0o644)
	if !errors.Is(err, syscall.ENOSPC) {
		s.t.Errorf("write %s: %v, want ENOSPC", name, err)
	}
	if d := time.Since(began); d > 5*time.Second {
		s.t.Errorf("ENOSPC after %v", d)
	}
}

// TestFullCacheDisk: cache and journal on a small disk. Clean files go first; then the
// writer hears ENOSPC; what is cached is read on; it heals. R11, W10.
func TestFullCacheDisk(t *testing.T) {
	disk := tmpfs(t, "24m")
	s := newSite(t, fmt.Sprintf(`
cache: {path: %[1]s/cache, limit: 1G, free_floor: 2M}
journal: {path: %[1]s/journal, delay: 50ms}
`, disk))
	s.expect("no space left on device", "no room")
	s.mount()
	// More than the disk holds, at a pace at which it is sent.
	want := map[string][]byte{}
	for i := range 8 {
		name := fmt.Sprintf("ctao/dl3/f%02d", i)
		want[name] = content(uint64(i+1), 4_000_000)
		must(t, os.WriteFile(s.path(name), want[name], 0o644))
		s.drain()
	}
	for name, b := range want {
		s.reads(name, b)
	}
	// A file that can never fit.
	s.refused("ctao/dl3/huge", 40_000_000)
	must(t, os.Remove(s.path("ctao/dl3/huge")))
	must(t, os.WriteFile(s.path("ctao/dl3/small"), []byte("small"), 0o644))
	s.drain()
	// Somebody else fills the disk: clean files make room for what is written.
	dropPageCache(t)
	s.sh("cat ctao/dl3/f0[0-3] >/dev/null")
	if whole := s.ok("cache", "ls"); !strings.Contains(whole, "4000000  4000000") {
		t.Fatalf("nothing in the cache to make room with:\n%s", whole)
	}
	fill(t, filepath.Join(disk, "filler"))
	last := content(77, 1_000_000)
	if err := os.WriteFile(s.path("ctao/dl3/last"), last, 0o644); err != nil {
		t.Errorf("with clean files to evict: %v", err)
	}
	s.reads("ctao/dl3/last", last)
	s.drain()
	// And with none: reads bypass the cache, writers are refused, names can go.
	fill(t, filepath.Join(disk, "filler2"))
	s.ok("evict", "/ctao/dl3")
	fill(t, filepath.Join(disk, "filler3"))
	s.refused("ctao/dl3/refused", 3_000_000)
	for name, b := range want {
		s.reads(name, b)
	}
	must(t, os.Remove(s.path("ctao/dl3/f00")))
	s.ok("status", s.mnt)
	for _, f := range []string{"filler", "filler2", "filler3"} {
		must(t, os.Remove(filepath.Join(disk, f)))
	}
	healed := content(78, 3_000_000)
	must(t, os.WriteFile(s.path("ctao/dl3/healed"), healed, 0o644))
	s.drain()
	s.reads("ctao/dl3/healed", healed)
	s.reads("ctao/dl3/small", []byte("small"))
	if !bytes.Equal(healed, content(78, 3_000_000)) {
		t.Error("the test spoilt its own data")
	}
	s.umount()
}

// TestFullJournalDisk: the journal alone on a small disk: unsent files are kept, further
// ones refused, and all goes on when there is room.
func TestFullJournalDisk(t *testing.T) {
	disk := tmpfs(t, "8m")
	s := newSite(t, fmt.Sprintf("journal: {path: %s/journal, delay: 1h}\n", disk))
	s.expect("no space left on device", "no room")
	s.mount()
	kept := content(1, 3_000_000)
	must(t, os.WriteFile(s.path("ctao/dl3/kept"), kept, 0o644))
	s.refused("ctao/dl3/big", 10_000_000)
	fill(t, filepath.Join(disk, "filler"))
	s.refused("ctao/dl3/more", 1_000_000)
	s.reads("ctao/dl3/kept", kept)
	s.kill()
	s.mount() // on a disk that is full
	s.reads("ctao/dl3/kept", kept)
	s.sh("rm -f ctao/dl3/big ctao/dl3/more; ls ctao/dl3")
	s.settle() // a start does not wait for the delay
	must(t, os.Remove(filepath.Join(disk, "filler")))
	must(t, os.WriteFile(s.path("ctao/dl3/healed"), kept, 0o644))
	s.umount()
	s.dropCacheOf()
	s.mount()
	s.reads("ctao/dl3/kept", kept)
	s.reads("ctao/dl3/healed", kept)
}

// TestFullDiskAfterKill: small files are in the journal's log only when kill -9 comes, and the
// disk is full when the daemon starts again. It starts, the files are there, and are sent. R11.
func TestFullDiskAfterKill(t *testing.T) {
	needTools(t, "fallocate")
	disk := loopDisk(t, "1700M")
	s := newSite(t, fmt.Sprintf("journal: {path: %s/journal, delay: 1h}\n", disk.dir))
	s.expect("no space left on device", "no room", "too full")
	s.mount()
	want := map[string][]byte{}
	write := func(n int) {
		t.Helper()
		for range n {
			name := fmt.Sprintf("ctao/dl3/f%03d", len(want))
			want[name] = content(uint64(len(want)+1), 20_000+len(want))
			must(t, os.WriteFile(s.path(name), want[name], 0o644))
		}
	}
	write(70)
	s.within(20*time.Second, "a log", func() bool {
		_, err := os.Stat(filepath.Join(disk.dir, "journal/log-1"))
		return err == nil
	})
	write(150)
	s.kill()
	without := len(want) - len(s.dataFiles(disk.dir))
	if without < 50 {
		t.Fatalf("only %d of %d files have no file of their own", without, len(want))
	}
	for size := 1 << 30; size >= 1<<20; size /= 2 {
		for exec.Command("fallocate", "-l", fmt.Sprint(size), filepath.Join(disk.dir, fmt.Sprint("filler", time.Now().UnixNano()))).Run() == nil {
		}
	}
	fill(t, filepath.Join(disk.dir, "filler"))
	before := s.dataFiles(disk.dir)
	s.mount()
	if after := s.dataFiles(disk.dir); len(after) > len(before) {
		t.Errorf("the disk was not full: %d data files after %d", len(after), len(before))
	}
	for name, b := range want {
		s.reads(name, b)
	}
	s.kill()
	s.mount()
	for name, b := range want {
		s.reads(name, b)
	}
	s.drain()
	fillers, err := filepath.Glob(filepath.Join(disk.dir, "filler*"))
	must(t, err)
	for _, p := range fillers {
		must(t, os.Remove(p))
	}
	write(10)
	s.umount()
	s.dropCacheOf()
	s.mount()
	for name, b := range want {
		s.reads(name, b)
	}
}

// dataFiles lists the contents in the journal below dir that have a file.
func (s *site) dataFiles(dir string) []string {
	s.t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "journal/*.data"))
	must(s.t, err)
	return list
}

// dropCacheOf takes the cache away while nothing is mounted.
func (s *site) dropCacheOf() {
	s.t.Helper()
	must(s.t, os.RemoveAll(s.cache))
}

// TestFullCatalogueDisk: the catalogue stops taking changes above its floor of free space,
// never dies of a full disk, goes on being read, and heals. (Its database writes through
// memory maps, and a page that finds no room on the disk would kill the daemon.)
func TestFullCatalogueDisk(t *testing.T) {
	disk := tmpfs(t, "160m")
	s := newSite(t, "journal: {delay: 20ms}\n")
	must(t, os.Remove(filepath.Join(s.dir, "lake.local.yaml")))
	must(t, os.WriteFile(filepath.Join(s.dir, "lake.local.yaml"), fmt.Appendf(nil, "journal: {delay: 20ms}\ncatalogue: {path: %s/catalogue, free_floor: 32M}\n", disk), 0o600))
	s.ok("init", s.dir)
	s.expect("no space", "floor", "upload failed")
	s.mount()
	must(t, os.MkdirAll(s.path("ctao/dl3"), 0o755))
	must(t, os.WriteFile(s.path("ctao/dl3/before"), []byte("before"), 0o644))
	s.drain()
	fill(t, filepath.Join(disk, "filler"))
	if err := os.Mkdir(s.path("ctao/dl3/refused"), 0o755); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("mkdir with a full catalogue: %v, want ENOSPC", err)
	}
	// A file is accepted, kept, and registered later: the journal does not need the catalogue.
	must(t, os.WriteFile(s.path("ctao/dl3/during"), []byte("during"), 0o644))
	s.reads("ctao/dl3/before", []byte("before"))
	s.reads("ctao/dl3/during", []byte("during"))
	time.Sleep(300 * time.Millisecond) // an upload fails at its registration
	if left := s.rows("uploads", "ls"); len(left) != 1 {
		t.Errorf("unsent: %v", left)
	}
	s.ok("status", s.mnt)
	s.kill()
	// To open it takes room as well: refused in words, and nothing is lost.
	s.fails(8, []string{"catalogue", "no space left", "free space on that disk"}, "mount", s.dir, s.mnt)
	must(t, os.Remove(filepath.Join(disk, "filler")))
	s.mount()
	s.reads("ctao/dl3/during", []byte("during"))
	s.settle()
	must(t, os.Mkdir(s.path("ctao/dl3/healed"), 0o755))
	// The end of a daemon on a full disk.
	fill(t, filepath.Join(disk, "filler"))
	s.umount()
	must(t, os.Remove(filepath.Join(disk, "filler")))
	s.dropCacheOf()
	s.mount()
	s.reads("ctao/dl3/during", []byte("during"))
}

// TestCacheDiskDies: the disk below the hot cache stops answering while the daemon runs.
// What is at the storages is read past the cache, and files are written.
func TestCacheDiskDies(t *testing.T) {
	disk := loopDisk(t, "64M").dir
	s := newSite(t, fmt.Sprintf("cache: {path: %s/cache, free_floor: 1M}\njournal: {delay: 20ms}\n", disk))
	s.expect("input/output error", "cache")
	s.mount()
	b := content(1, 1_000_000)
	must(t, os.WriteFile(s.path("ctao/dl3/cached"), b, 0o644))
	must(t, os.WriteFile(s.path("ctao/dl3/evicted"), b[1:], 0o644))
	s.drain()
	s.ok("evict", "/ctao/dl3/evicted")
	shutdown(t, disk)
	dropPageCache(t)
	s.reads("ctao/dl3/cached", b)
	s.reads("ctao/dl3/evicted", b[1:])
	must(t, os.WriteFile(s.path("ctao/dl3/new"), b[2:], 0o644))
	s.drain()
	s.reads("ctao/dl3/new", b[2:])
	s.ok("status", s.mnt)
	s.umount()
}

// TestDiskTurnsReadOnly: the file system below cache and journal finds an error and goes
// read-only, as ext4 does. Writers hear it, what is there is read on, also past the cache,
// and all that was promised is there when the disk is mounted anew.
func TestDiskTurnsReadOnly(t *testing.T) {
	disk := loopDisk(t, "64M")
	s := newSite(t, fmt.Sprintf("cache: {path: %[1]s/cache, free_floor: 1M}\njournal: {path: %[1]s/journal, delay: 2s}\n", disk.dir))
	s.expect("read-only file system", "input/output error")
	s.mount()
	b := content(1, 1_000_000)
	must(t, os.WriteFile(s.path("ctao/dl3/cached"), b, 0o644))
	must(t, os.WriteFile(s.path("ctao/dl3/evicted"), b[1:], 0o644))
	s.drain()
	s.ok("evict", "/ctao/dl3/evicted")
	must(t, os.WriteFile(s.path("ctao/dl3/unsent"), b[2:], 0o644))
	if out, err := exec.Command("mount", "-o", "remount,abort", disk.dir).CombinedOutput(); err != nil {
		missing(t, "abort an ext4: %v: %s", err, out)
	}
	began := time.Now()
	for _, name := range []string{"ctao/dl3/new", "ctao/dl3/cached"} {
		if err := os.WriteFile(s.path(name), b[3:], 0o644); !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EIO) {
			t.Errorf("write %s: %v, want EROFS or EIO", name, err)
		}
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("errors after %v", d)
	}
	dropPageCache(t)
	s.reads("ctao/dl3/evicted", b[1:])
	s.reads("ctao/dl3/unsent", b[2:])
	s.ok("status", s.mnt)
	s.kill()
	s.ok("umount", "--now", "--force", s.mnt)
	if out, err := disk.umount(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	if out, err := disk.mount(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	s.mount()
	s.reads("ctao/dl3/unsent", b[2:])
	s.drain()
	s.umount()
	if got := s.ok("cat", "/ctao/dl3/unsent"); got != string(b[2:]) {
		t.Error("another content at the sites")
	}
}

// TestFullDiskOfLedger: where an ingest cannot note what it does, it does nothing, says why, and goes on by itself when there is room.
func TestFullDiskOfLedger(t *testing.T) {
	disk := tmpfs(t, "220m")
	h := &haul{site: newSite(t, fmt.Sprintf("ingest: {path: %s/ingests}\n", disk))}
	h.expect("no space left")
	h.mount()
	m := newManifest(filepath.Join(t.TempDir(), "src"), "/ctao/full")
	must(t, os.Mkdir(m.dir, 0o755))
	h.watchDir("full", m.dir, m.target, "copies=1 rse=LAPALMA-DISK")
	must(t, m.fill(0, 3, 1000))
	must(t, h.gone("full", 3, still))
	fill(t, disk+"/fill")
	must(t, m.fill(3, 6, 1000))
	if st, err := h.progress("full", still, told); err != nil || !strings.Contains(st.Error, "no space left") {
		t.Errorf("it is not told: %v; %s", err, word(st))
	}
	time.Sleep(2 * time.Second)
	if left, err := regular(m.dir); err != nil || len(left) != 3 {
		t.Errorf("at the source there are %q, %v", left, err)
	}
	must(t, os.Remove(disk+"/fill"))
	must(t, h.gone("full", 6, still))
	if r := h.try("ingest", "audit", "full", "--deep"); r.code != 0 || !strings.Contains(r.out, "6 deletions proved, 0 not") {
		t.Errorf("audit: %s%s", r.out, r.err)
	}
	h.umount()
}
