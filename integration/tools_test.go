package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/integration/needed"
)

// TestPlainTools runs what people run, on one mount, each in its own directory.
func TestPlainTools(t *testing.T) {
	t.Parallel()
	needTools(t, "rsync", "tar", "git", "sqlite3", "getfattr", "setfattr", "sha256sum")
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	src := folder(t, map[string]int{"a/run1.fits": 50000, "a/b/run2.fits": 3 << 20, "empty": 0, "a/b/c/one": 1, "sp ace": 4097})
	if err := os.Symlink("a/run1.fits", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(src, "empty"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(src, "a/run1.fits"), time.Time{}, time.Unix(981173106, 0)); err != nil {
		t.Fatal(err)
	}
	// listing compares names, types, modes, sizes, times and link targets.
	const listing = `list() { (cd "$1" && find . -mindepth 1 ! -type d -printf '%P %y %m %s %Ts %l\n' | sort); }
		sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
		same() { diff <(list "$1") <(list "$2") && diff <(sums "$1") <(sums "$2"); };`
	for name, script := range map[string]string{
		"cp":    `cp -a $S copy; same $S copy; cp -a copy again; same copy again; cp -a again $L/back; same $S $L/back`,
		"rsync": `rsync -a $S/ r/; same $S r; test -z "$(rsync -aic --omit-dir-times $S/ r/)"; echo x >>$S2/f; rsync -a --inplace $S2/ r2/; echo y >>$S2/f; rsync -a --inplace --no-whole-file $S2/ r2/; cmp $S2/f r2/f`,
		"tar":   `mkdir x; tar -C $S -cf - . | tar -C x -xpf -; same $S x; tar -C x -czf x.tgz .; tar -C $S -df x.tgz`,
		"mv":    `cp -r $S/a m; mv m n; test ! -e m; mv n/run1.fits n/b/; cmp $S/a/run1.fits n/b/run1.fits; cp n/b/c/one o; mv -f o n/b/run1.fits; cmp $S/a/b/c/one n/b/run1.fits; mv n $L/out; test ! -e n; cmp $S/a/b/run2.fits $L/out/b/run2.fits`,
		"rm":    `cp -r $S x; rm x/a/run1.fits; test ! -e x/a/run1.fits; ! rmdir x/a 2>/dev/null; rm -rf x; test ! -e x; test -z "$(ls -A)"`,
		"dd":    `dd if=$S/a/b/run2.fits of=d bs=7777 status=none; cmp d $S/a/b/run2.fits; dd if=/dev/zero of=d bs=1k seek=10 count=1 conv=notrunc,fsync status=none; test $(stat -c %s d) = $((3<<20)); dd if=d bs=1k skip=10 count=1 status=none | cmp - <(head -c 1024 /dev/zero); dd if=/dev/urandom of=$L/al bs=1M count=1 status=none; dd if=$L/al of=al bs=256k oflag=direct status=none; dd if=al bs=256k iflag=direct status=none | cmp - $L/al`,
		"sums":  `cp -r $S/a .; (cd $S && find a -type f -print0 | xargs -0 sha256sum) >$L/sums; sha256sum --quiet -c $L/sums`,
		"find and ls": `cp -a $S/. .; test "$(find . -type f | wc -l)" = 5; test "$(find . -name 'run?.fits' | sort | tr '\n' ' ')" = "./a/b/run2.fits ./a/run1.fits ";
			test "$(ls)" = "$(cd $S && ls)"; ls -laR >/dev/null; test $(stat -c %h a) = 1; test $(stat -c %b a/b/run2.fits) = $((3<<11))`,
		"du and df": `cp -a $S/. .; test $(du -sb . | cut -f1) -ge 3199954; test $(du -s a/b/run2.fits | cut -f1) -ge 3072; df -P . | tail -1 | grep -q lake.yaml; test $(df --output=avail . | tail -1) -gt 0`,
		"git": `export GIT_CONFIG_GLOBAL=/dev/null HOME=$L; I="-c user.name=t -c user.email=t@t"; git init -q $L/g; (cd $L/g; for i in 1 2 3; do cp $S/a/run1.fits f$i; echo $i >>f$i; git add .; git $I commit -qm c$i; done);
			git clone -q --no-hardlinks $L/g c; cd c; git checkout -q HEAD~1; git checkout -q -; echo n >n; git add n; git $I commit -qm n; git gc -q --prune=now; git fsck --full --strict 2>&1; test -z "$(git status --porcelain)"; git clone -q --no-hardlinks . $L/g2; cmp $L/g2/n n`,
		"sqlite": `for j in delete truncate persist wal; do test "$(sqlite3 -bail $j.db "pragma journal_mode=$j; create table t(a integer primary key, b text); with recursive c(i) as (select 1 union all select i+1 from c where i<500) insert into t select i, hex(randomblob(50)) from c; delete from t where a%5=0; select count(*) from t;" | tail -1)" = 400;
			test "$(sqlite3 $j.db 'pragma integrity_check')" = ok; done`,
		"save by rename": `echo old >f; chmod 640 f; echo new >.f.tmp; mv .f.tmp f; test "$(cat f)" = new; for i in 1 2 3 4 5; do echo $i >.f.tmp; mv .f.tmp f; test "$(cat f)" = $i; done`,
		"sed":            `seq 100 >q; sed -i s/5/five/ q; sort -o q q; grep -q five q; test $(wc -l <q) = 100; : >q; test ! -s q; echo a >>q; echo b >>q; test "$(cat q)" = "$(printf 'a\nb')"`,
		"flock":          `flock lock true; (flock 9; ! flock -n lock true; echo held >out) 9>lock; flock -n lock true; test "$(cat out)" = held; flock ro.lock true`,
		"getfattr":       `cp $S/a/run1.fits .; setfattr -n user.obs_id -v 5029747 run1.fits; getfattr -d run1.fits >$L/x; grep -q 'user.obs_id="5029747"' $L/x; grep -q user.tarn.locality $L/x; ! setfattr -n user.tarn.state -v x run1.fits 2>/dev/null; setfattr -x user.obs_id run1.fits; ! getfattr -n user.obs_id run1.fits 2>/dev/null`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := *s
			sub.t = t
			dir := s.path("ctao", "dl0", strings.ReplaceAll(name, " ", "-"))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			local, second := t.TempDir(), t.TempDir()
			if err := os.WriteFile(filepath.Join(second, "f"), bytes.Repeat([]byte("line\n"), 50000), 0o644); err != nil {
				t.Fatal(err)
			}
			sub.sh(fmt.Sprintf("S=%s L=%s S2=%s; cd %s; %s %s", src, local, second, dir, listing, script))
		})
	}
	t.Run("vim", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("vim"); err != nil {
			needed.Missing(t, "no vim (scripts/setup.sh installs it)")
		}
		sub := *s
		sub.t = t
		sub.sh(`mkdir ctao/dl0/vim; cd ctao/dl0/vim; seq 10 >f; vim -u NONE -es -c '%s/7/seven/' -c wq f </dev/null; grep -q seven f; test $(wc -l <f) = 10`)
	})
}

// TestMmap maps a file of the mount for reading and for writing, new and published.
func TestMmap(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	p := s.path("ctao/dl0/mapped")
	want := content(7, 3<<20)
	for round := range 2 {
		f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(int64(len(want))); err != nil {
			t.Fatal(err)
		}
		m, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatalf("round %d: mmap: %v", round, err)
		}
		want[round] = byte('A' + round)
		copy(m, want)
		if err := unix.Msync(m, unix.MS_SYNC); err != nil {
			t.Fatal(err)
		}
		if err := unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: what was mapped is not what is read: %v", round, err)
		}
		s.drain()
		ro, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		m, err = unix.Mmap(int(ro.Fd()), 0, len(want), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatalf("round %d: mmap of the published file: %v", round, err)
		}
		if !bytes.Equal(m, want) {
			t.Errorf("round %d: the mapping of the published file differs", round)
		}
		if err := unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
		ro.Close()
	}
}

// TestMetadata sets metadata as attributes and finds the file by it, with the command
// and through .tarn/find; and looks at the other files of .tarn.
func TestMetadata(t *testing.T) {
	t.Parallel()
	needTools(t, "setfattr", "getfattr")
	s := newSite(t, "journal: {delay: 2s}\n")
	s.mount()
	s.sh(`mkdir -p ctao/dl3/crab; cd ctao/dl3/crab; for i in 1 2 3; do echo run$i >run$i.fits; setfattr -n user.obs_id -v 502974$i run$i.fits; done; setfattr -n user.level -v DL3 .`)
	// As long as they are unsent, metadata is the file's own, and not yet to be searched.
	if got := s.sh("getfattr --only-values -n user.obs_id ctao/dl3/crab/run2.fits"); got != "5029742" {
		t.Errorf("obs_id of an unsent file: %q", got)
	}
	var uploads []map[string]any
	s.json(".tarn/uploads", &uploads)
	if len(uploads) != 3 {
		t.Errorf(".tarn/uploads: %v, want three files", uploads)
	}
	s.drain()
	s.json(".tarn/uploads", &uploads)
	if len(uploads) != 0 {
		t.Errorf(".tarn/uploads: %v, want none", uploads)
	}
	for query, want := range map[string]string{
		"obs_id=5029742 and level=DL3": "/ctao/dl3/crab/run2.fits\n",
		"obs_id>5029741":               "/ctao/dl3/crab/run2.fits\n/ctao/dl3/crab/run3.fits\n",
		"obs_id=5029742 and level=DL1": "",
	} {
		if got := s.ok("find", query); got != want {
			t.Errorf("tarn find %q: %q, want %q", query, got, want)
		}
		names, err := os.ReadDir(s.path(".tarn/find", query))
		if err != nil || len(names) != strings.Count(want, "\n") {
			t.Errorf(".tarn/find/%s: %v, %v", query, names, err)
		}
		for _, n := range names {
			got, err := os.ReadFile(s.path(".tarn/find", query, n.Name()))
			if err != nil || string(got)+".fits" != strings.ReplaceAll(n.Name(), ".fits", "\n.fits") {
				t.Errorf(".tarn/find/%s/%s reads %q, %v", query, n.Name(), got, err)
			}
		}
	}
	if _, err := os.ReadDir(s.path(".tarn/find", "obs_id=")); err == nil {
		t.Error("a query that does not parse is a directory")
	}
	if got := s.ok("meta", "get", "/ctao/dl3/crab/run1.fits", "obs_id"); !strings.Contains(got, "5029741") {
		t.Errorf("tarn meta get: %q", got)
	}
	s.ok("meta", "set", "/ctao/dl3/crab/run1.fits", "quality=good")
	if got := s.sh("getfattr --only-values -n user.quality ctao/dl3/crab/run1.fits"); got != "good" {
		t.Errorf("what tarn meta set is, as an attribute: %q", got)
	}
	if got := s.sh("cat .tarn/config"); !regexp.MustCompile(`PIC-TAPE`).MatchString(got) {
		t.Errorf(".tarn/config: %s", got)
	}
	s.sh("cat .tarn/recalls .tarn/stats")
	if got := s.sh("ls -A"); strings.Contains(got, ".tarn") {
		t.Errorf(".tarn is listed: %q", got)
	}
	if got := s.sh("ls .tarn"); got != "config\nfind\nrecalls\nstats\nuploads\n" {
		t.Errorf("ls .tarn: %q", got)
	}
}

// TestStatfs compares df with what the lake holds and what its disks have left (N11).
func TestStatfs(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	var before, after, disk unix.Statfs_t
	if err := unix.Statfs(s.mnt, &before); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("ctao/dl0/big"), content(1, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	s.drain()
	if err := unix.Statfs(s.mnt, &after); err != nil {
		t.Fatal(err)
	}
	if err := unix.Statfs(s.dir, &disk); err != nil {
		t.Fatal(err)
	}
	used := func(f unix.Statfs_t) int64 { return int64(f.Blocks-f.Bfree) * f.Bsize }
	if d := used(after) - used(before); d != 8<<20 {
		t.Errorf("8 MiB more are %d bytes more used", d)
	}
	free, real := int64(after.Bavail)*after.Bsize, int64(disk.Bavail)*disk.Bsize
	if free <= 0 || free > real+1<<30 {
		t.Errorf("%d bytes free, the disk below has %d", free, real)
	}
	if after.Type != 0x65735546 || after.Namelen != 255 {
		t.Errorf("type %#x, names of %d bytes", after.Type, after.Namelen)
	}
}

// TestNewFile follows a new file to its two replicas, one on tape, looks at both at their
// storages, and reads it from there through an empty cache.
func TestNewFile(t *testing.T) {
	t.Parallel()
	s := newSite(t, keepEnds+"journal: {delay: 50ms}\n")
	s.mount()
	want := fits(3, 300000)
	p := s.path("ctao/dl3/new.fits")
	if err := os.WriteFile(p, want, 0o644); err != nil {
		t.Fatal(err)
	}
	s.drain()
	onDisk := ""
	kinds := map[string]int{}
	for _, r := range s.rows("replicas", "/ctao/dl3/new.fits") {
		if r["state"] != "AVAILABLE" || r["verified"] == nil {
			t.Errorf("replica %v: want an available, verified one", r)
		}
		kinds[fmt.Sprint(r["kind"])]++
		if r["kind"] == "DISK" {
			onDisk = filepath.Join(s.dir, "rse", fmt.Sprint(r["rse"]), fmt.Sprint(r["pfn"]))
		}
	}
	if kinds["DISK"] != 1 || kinds["TAPE"] != 1 || len(kinds) != 2 {
		t.Fatalf("replicas by kind: %v, want one on disk and one on tape", kinds)
	}
	if got, err := os.ReadFile(onDisk); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the replica at the disk storage: %v", err)
	}
	var cart []byte
	carts, err := filepath.Glob(filepath.Join(s.dir, "rse/PIC-TAPE/cartridges/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range carts {
		b, err := os.ReadFile(c)
		if err != nil {
			t.Fatal(err)
		}
		cart = append(cart, b...)
	}
	if !bytes.Contains(cart, want) {
		t.Errorf("the file's bytes are on none of %d cartridges", len(carts))
	}
	s.ok("evict", "/ctao/dl3/new.fits")
	if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read from the disk replica: %v", err)
	}
	if n := s.recalled(); n != 0 {
		t.Errorf("%d recalls with a disk replica there", n)
	}
	// Without the disk replica it comes from tape.
	s.expect(`new\.fits`)
	s.ok("evict", "/ctao/dl3/new.fits")
	if err := os.Remove(onDisk); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read from tape: %v", err)
	}
	if n := s.recalled(); n != 1 {
		t.Errorf("%d recalls without a disk replica, want 1", n)
	}
}

// TestKilledWriter: what a process wrote before it was killed is there, as the kernel
// closes its files.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	cmd := exec.Command("bash", "-c", "exec 5>ctao/dl0/log; echo one >&5; echo two >&5; echo ready; sleep 100")
	cmd.Dir = s.mnt
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // killed, as it should be
	s.drain()
	if got := s.sh("cat ctao/dl0/log"); got != "one\ntwo\n" {
		t.Errorf("the killed writer left %q", got)
	}
}
