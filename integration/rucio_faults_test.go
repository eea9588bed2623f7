package integration

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarn/backends/servertest"
)

// TestRucioAway takes the server away: before the first mount, before a later one, while directories are read, and while files are on their way.
func TestRucioAway(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{Own: true})
	rse, _ := g.folderDisk()
	known := g.upload(rse, "known.dat", 50000)
	g.lake(rse, "", "")

	// Nothing is known yet: a clear error, and soon.
	g.r.Stop()
	began := time.Now()
	if r := g.try("ls", "/"); r.code != 5 || !strings.Contains(r.err, "does not answer") || !strings.Contains(r.err, g.r.URL) {
		t.Errorf("ls while the server is away: exit %d, want 5\n%s", r.code, r.err)
	}
	if err := g.tryMount(nil); err == nil {
		t.Error("a lake that nothing is known of was mounted")
	}
	if d := time.Since(began); d > 50*time.Second {
		t.Errorf("it took %v to say so", d)
	}
	g.r.Start()
	g.mount()
	g.sh("mkdir " + g.path(g.scope, "dir"))
	g.sh("ls -l " + g.path(g.scope) + " " + g.path(g.scope, "dir"))

	data := content(7, 300000)
	written, err := os.Create(g.path(g.scope, "dir/meanwhile.dat")) // its upload comes to a server that is away
	if err != nil {
		t.Fatal(err)
	}

	// Away while it is mounted: what is known is shown, with its date; what is not is an error, and never an absence.
	g.r.Stop()
	time.Sleep(3 * time.Second) // longer than what is known is taken for true
	if out := g.sh("ls " + g.path(g.scope)); out != "dir\nknown.dat\n" {
		t.Errorf("a known directory while the server is away: %q", out)
	}
	if out := g.sh("getfattr --absolute-names --only-values -n user.tarn.asof " + g.path(g.scope, "known.dat")); !strings.HasPrefix(out, time.Now().UTC().Format("2006-")) {
		t.Errorf("of when it is: %q", out)
	}
	within(t, 40*time.Second, "stat of a name that is not known", func() {
		_, err := os.Stat(g.path(g.scope, "never-seen"))
		if err == nil || os.IsNotExist(err) {
			t.Errorf("stat of a name that is not known: %v", err)
		}
	})
	// A name that nobody can be asked for is not given away.
	if f, err := os.Create(g.path(g.scope, "dir/another.dat")); err == nil {
		f.Close()
		t.Error("a new name was given while the server was away")
	}
	// Written while it is away: safe here, registered when it is back, once.
	if _, err := written.Write(data); err != nil {
		t.Error(err)
	}
	if err := written.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, 20*time.Second, "the upload says that the server is away", func() bool {
		state, why := g.state(g.scope + "/dir/meanwhile.dat")
		return state != "" && state != "SAFE" && why != ""
	})
	g.reads(g.scope+"/dir/meanwhile.dat", data)
	g.umount("--now", "--force")

	// Mounted while it is away: the RSEs are those of the last time.
	g.mount()
	within(t, 40*time.Second, "reading a directory", func() {
		if _, err := os.ReadDir(g.path(g.scope)); err == nil || os.IsNotExist(err) {
			t.Errorf("a directory that is not known: %v", err)
		}
	})
	g.r.Start()
	g.retry()
	g.drain()
	if got := g.children("dir/__files__"); len(got) != 1 || got[0] != "meanwhile.dat" {
		t.Errorf("registered: %v", got)
	}
	g.settled("dir/__files__")
	if got := g.download(rse, "meanwhile.dat"); string(got) != string(data) {
		t.Error("it has other bytes")
	}
	g.reads(g.scope+"/known.dat", known)

	// Frozen in the middle of a listing: a deadline ends it.
	g.ok("refresh")
	g.r.Pause()
	within(t, 2*time.Minute, "reading a directory of a server that is frozen", func() {
		_, err := os.ReadDir(g.path(g.scope, "dir"))
		if os.IsNotExist(err) {
			t.Errorf("the directory is said to be gone: %v", err)
		}
	})
	g.r.Resume()
	eventually(t, time.Minute, "the directory is there again", func() bool {
		names, err := os.ReadDir(g.path(g.scope, "dir"))
		return err == nil && len(names) == 1
	})
	g.expect("is unavailable", "no answer in time", "deadline exceeded")
	g.umount()
}

// within fails when f takes longer; f then goes on.
func within(t testing.TB, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s hangs for %v", what, limit)
	}
}

// TestRucioKilled ends the daemon at each request that an upload makes, as kill -9 does: the file is registered once, with its rule and its bytes.
func TestRucioKilled(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	rse, _ := g.folderDisk()
	front := newFront(t, g.r.URL)
	g.lake(rse, "  url: "+front.URL+"\n", "")
	g.mount()
	killed := 0
	for n := range 12 { // an upload makes fewer such requests
		dir, name := fmt.Sprintf("d%d", n), fmt.Sprintf("f%d.dat", n)
		g.sh("mkdir " + g.path(g.scope, dir))
		var seen, kills atomic.Int32
		pid := g.daemon.Process
		front.each(func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			if !byUploads(r) || seen.Add(1)-1 != int32(n) {
				return false
			}
			if n%2 == 0 { // the server does it, and nobody hears of it
				front.pass(httptest.NewRecorder(), r)
			}
			kills.Add(1)
			_ = pid.Kill()
			return true
		})
		data := g.write(g.scope+"/"+dir+"/"+name, 20000+n)
		eventually(t, 20*time.Second, "the file is safe or the daemon is killed", func() bool {
			return kills.Load() > 0 || g.safe(g.scope+"/"+dir+"/"+name)
		})
		front.each(nil)
		if kills.Load() > 0 {
			killed++
			g.buried(pid.Pid)
			eventually(t, 10*time.Second, "the mount is dead", func() bool { // with io_uring the kernel ends it a moment after the process
				var st syscall.Statfs_t
				err := syscall.Statfs(g.mnt, &st)
				return unserved(err)
			})
			g.mount()
		}
		g.drain()
		g.reads(g.scope+"/"+dir+"/"+name, data)
		if got := g.replicas(name); len(got) != 1 || got[rse] != "AVAILABLE" {
			t.Fatalf("killed at request %d: replicas %v", n, got)
		}
		if got := g.children(dir + "/__files__"); len(got) != 1 || got[0] != name {
			t.Fatalf("killed at request %d: attached %v", n, got)
		}
		if got := g.children(dir); len(got) != 1 {
			t.Fatalf("killed at request %d: the directory has %v", n, got)
		}
		if rules := g.rules(dir + "/__files__"); len(rules) != 1 {
			t.Fatalf("killed at request %d: rules %+v", n, rules)
		}
	}
	if killed < 5 || killed == 12 {
		t.Errorf("killed %d times of 12: the test no longer meets all the requests of an upload", killed)
	}
	t.Logf("killed at %d requests of an upload", killed)
	g.umount()
}

// byUploads tells whether a request is one of those that uploads make, and no look-up.
func byUploads(r *http.Request) bool {
	p := r.URL.Path
	return r.Method == http.MethodPost && (p == "/replicas" || p == "/replicas/list" || p == "/dids" || p == "/dids/attachments" || p == "/dids/bulkdidsmeta" || p == "/rules/")
}

// safe tells whether a file is at its storage and registered; false when the daemon has just been killed.
func (g *rucioRig) safe(p string) bool {
	g.t.Helper()
	r := g.try("uploads", "ls", "--json")
	return r.code == 0 && !strings.Contains(r.out, `"/`+p+`"`)
}

// front is an HTTP server before Rucio that a test can interfere in.
type front struct {
	*httptest.Server
	proxy *httputil.ReverseProxy
	n     atomic.Int64
	what  atomic.Pointer[func(i int64, w http.ResponseWriter, r *http.Request) bool]
}

func newFront(t testing.TB, to string) *front {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{proxy: httputil.NewSingleHostReverseProxy(u)}
	f.proxy.FlushInterval = -1
	f.proxy.ErrorLog = log.New(io.Discard, "", 0)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if what := f.what.Load(); what != nil && (*what)(f.n.Add(1)-1, w, r) {
			return
		}
		f.pass(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *front) pass(w http.ResponseWriter, r *http.Request) { f.proxy.ServeHTTP(w, r) }

// each lets f be asked for each request from now on, with their number: true, it has answered. Nil: all pass.
func (f *front) each(what func(i int64, w http.ResponseWriter, r *http.Request) bool) {
	f.n.Store(0)
	if what == nil {
		f.what.Store(nil)
		return
	}
	f.what.Store(&what)
}

// TestRucio503 has a proxy answer 503, to the first requests and then to every tenth: nothing is lost, doubled or said to be absent.
func TestRucio503(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	rse, _ := g.folderDisk()
	front := newFront(t, g.r.URL)
	g.lake(rse, "  url: "+front.URL+"\n", "")
	g.mount()
	g.sh("mkdir " + g.path(g.scope, "d"))
	front.each(func(i int64, w http.ResponseWriter, r *http.Request) bool {
		if i >= 6 && i%10 != 1 || strings.HasPrefix(r.URL.Path, "/auth") {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		http.Error(w, "no worker is free", http.StatusServiceUnavailable)
		return true
	})
	want := map[string][]byte{}
	for i := range 5 {
		name := fmt.Sprintf("f%d.dat", i)
		b := content(uint64(i), 1000+i)
		want[name] = b
		file := filepath.Join(g.work, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "a file is written", func() bool {
			out, err := g.trySh("cp " + file + " " + g.path(g.scope, "d", name))
			if err != nil && strings.Contains(out, "No such file") {
				t.Errorf("a 503 looks like an absence: %s", out)
			}
			return err == nil
		})
	}
	g.drain()
	front.each(nil)
	if got := g.children("d/__files__"); len(got) != len(want) {
		t.Errorf("attached: %v", got)
	}
	for name, b := range want {
		g.reads(g.scope+"/d/"+name, b)
	}
	if rules := g.rules("d/__files__"); len(rules) != 1 {
		t.Errorf("rules: %+v", rules)
	}
	g.expect("503 Service Unavailable")
	g.umount()
}

// TestRucioQuota has an account whose quota ends while it writes: the file is safe at the storage and registered, and waits for its rule with the
// reason in words. From then on writers hear it, and df shows it.
func TestRucioQuota(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	rse, _ := g.folderDisk()
	g.lake(rse, "", "")
	g.mount()
	g.sh("mkdir " + g.path(g.scope, "d"))
	data := content(7, 5000)
	f, err := os.Create(g.path(g.scope, "d/f.dat"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	g.r.SetQuota(g.account, 0, rse)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var why string
	eventually(t, 30*time.Second, "the upload tells of the quota", func() bool {
		_, why = g.state(g.scope + "/d/f.dat")
		return strings.Contains(why, "quota")
	})
	g.reads(g.scope+"/d/f.dat", data)
	if r := g.try("rule", "add", "/"+g.scope+"/d", rse, "--lifetime", "1h"); r.code != 8 || !strings.Contains(r.err, "quota") {
		t.Errorf("a rule without a quota: exit %d, want 8\n%s", r.code, r.err)
	}
	g.ok("refresh")
	write := func(n int) error { return os.WriteFile(g.path(g.scope, "d/g.dat"), content(8, n), 0o644) }
	eventually(t, 20*time.Second, "a writer hears of the quota", func() bool { return errors.Is(write(100), syscall.EDQUOT) })
	df := func() (total, free int64) {
		var st syscall.Statfs_t
		if err := syscall.Statfs(g.mnt, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
	}
	if total, free := df(); total != 0 || free != 0 {
		t.Errorf("df shows %d bytes, %d free, and nothing may be written", total, free)
	}
	g.r.SetQuota(g.account, 1<<20, rse)
	eventually(t, 20*time.Second, "the new quota counts", func() bool { return write(100) == nil })
	if total, free := df(); total != 1<<20 || free <= 0 || free >= 1<<20 {
		t.Errorf("df shows %d bytes, %d free, of a quota of %d", total, free, 1<<20)
	}
	if err := write(2 << 20); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("more than the quota: %v", err)
	}
	if err := os.Remove(g.path(g.scope, "d/g.dat")); err != nil {
		t.Error(err)
	}
	g.r.SetQuota(g.account, -1, rse)
	g.retry()
	g.drain()
	g.settled("d/__files__")
	g.expect("upload failed")
	g.umount()
}

// TestRucioBlocked closes an RSE for writing, before and while a lake is mounted.
func TestRucioBlocked(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	rse, _ := g.folderDisk()
	g.lake(rse, "", "")
	g.mount()
	g.sh("mkdir " + g.path(g.scope, "d"))
	g.write(g.scope+"/d/before.dat", 1000)
	g.drain()
	g.shut(rse, "write")
	g.ok("refresh")
	eventually(t, 30*time.Second, "it is known to be closed", func() bool {
		return g.rows("rse", "ls")[0]["read_only"] != nil || strings.Contains(fmt.Sprint(g.rows("rse", "ls")), "read_only:true")
	})
	data := g.write(g.scope+"/d/waits.dat", 2000)
	var why string
	eventually(t, 30*time.Second, "the upload says that the RSE is closed", func() bool {
		_, why = g.state(g.scope + "/d/waits.dat")
		return strings.Contains(why, "read-only")
	})
	g.reads(g.scope+"/d/waits.dat", data)
	if got := g.replicas("waits.dat"); len(got) != 0 {
		t.Errorf("it was registered: %v", got)
	}
	g.reopen(rse, "write")
	g.ok("refresh")
	eventually(t, 30*time.Second, "it is known to be open", func() bool {
		return !strings.Contains(fmt.Sprint(g.rows("rse", "ls")), "read_only:true")
	})
	g.retry()
	g.drain()
	if got := g.replicas("waits.dat"); got[rse] != "AVAILABLE" {
		t.Errorf("replicas: %v", got)
	}
	g.expect("upload failed")
	g.umount()
}

// TestRucioErrnos are those of what Rucio does not let be done.
func TestRucioErrnos(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	rse, _ := g.folderDisk()
	g.upload(rse, "f.dat", 1000)
	g.rucio("did", "add", "--type", "dataset", g.scope+":set")
	g.rucio("did", "content", "add", "--to-did", g.scope+":set", g.scope+":f.dat")
	g.lake(rse, "", "")
	g.mount()
	file := g.path(g.scope, "set/f.dat")
	open := func(flags int) error {
		f, err := os.OpenFile(file, flags, 0o644)
		if err == nil {
			err = f.Close()
		}
		return err
	}
	for _, c := range []struct {
		what string
		err  error
		want syscall.Errno
	}{
		{"a name that is not there", statErr(g.path(g.scope, "set/none")), syscall.ENOENT},
		{"a scope that is not there", statErr(g.path("no.such.scope")), syscall.ENOENT},
		{"a path below a file", statErr(file + "/x"), syscall.ENOTDIR},
		{"writing to a published file", open(os.O_WRONLY), syscall.EPERM},
		{"emptying it", open(os.O_WRONLY | os.O_TRUNC), syscall.EPERM},
		{"making it again", open(os.O_CREATE | os.O_EXCL | os.O_WRONLY), syscall.EEXIST},
		{"renaming it", os.Rename(file, g.path(g.scope, "set/g.dat")), syscall.EXDEV},
		{"renaming a directory", os.Rename(g.path(g.scope, "set"), g.path(g.scope, "sat")), syscall.EXDEV},
		{"a symbolic link", os.Symlink("x", g.path(g.scope, "set/link")), syscall.EPERM},
		{"a directory in a dataset", os.Mkdir(g.path(g.scope, "set/sub"), 0o755), syscall.EPERM},
		{"rmdir of what is not empty", syscall.Rmdir(g.path(g.scope, "set")), syscall.ENOTEMPTY},
		{"a name that is too long", os.Mkdir(g.path(g.scope, strings.Repeat("x", 252)), 0o755), syscall.ENAMETOOLONG},
		{"a name that Rucio does not take", os.Mkdir(g.path(g.scope, "a b"), 0o755), syscall.EINVAL},
		{"a directory that is there", os.Mkdir(g.path(g.scope, "set"), 0o755), syscall.EEXIST},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
		}
	}
	g.umount()
}

func statErr(p string) error {
	_, err := os.Stat(p)
	return err
}

// TestRucioWithoutLakeFile mounts what the user's rucio.cfg names.
func TestRucioWithoutLakeFile(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	rse, _ := g.folderDisk()
	data := g.upload(rse, "f.dat", 100000)
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	r := g.try("mount", "--supervise=false", "rucio:", g.mnt, "--set", "write_rules=[{copies: 1, expression: "+rse+"}]", "--set", "cache.free_floor=16M")
	if r.code != 0 {
		t.Fatalf("tarn mount rucio: exit %d\n%s", r.code, r.err)
	}
	mounted := true
	defer func() {
		if mounted {
			g.try("umount", "--now", "--force", g.mnt)
		}
	}()
	g.reads(g.scope+"/f.dat", data)
	g.sh("mkdir " + g.path(g.scope, "d"))
	mine := g.write(g.scope+"/d/mine.dat", 1000)
	if r := g.try("umount", g.mnt); r.code != 0 {
		t.Fatalf("umount: %s", r.err)
	}
	mounted = false
	if got := g.replicas("mine.dat"); got[rse] != "AVAILABLE" {
		t.Errorf("replicas of what was written: %v", got)
	}
	if got := g.download(rse, "mine.dat"); string(got) != string(mine) {
		t.Error("it has other bytes")
	}
	err := filepath.WalkDir(cache, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), servertest.RucioPassword) {
			t.Errorf("%s holds the password", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
