package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	"tarn/cmd/tarn/demodata"
)

// tester runs one command against a lake and gives what it wrote.
type tester struct {
	t    *testing.T
	lake string
	in   string
}

func (c tester) run(args ...string) (stdout, stderr string, err error) {
	c.t.Helper()
	var out, errw bytes.Buffer
	all := []string{"tarn"}
	if c.lake != "" {
		all = append(all, "--lake", c.lake)
	}
	err = run(c.t.Context(), append(all, args...), strings.NewReader(c.in), &out, &errw)
	return out.String(), errw.String(), err
}

// ok runs a command that has to succeed.
func (c tester) ok(args ...string) string {
	c.t.Helper()
	out, errw, err := c.run(args...)
	if err != nil {
		c.t.Fatalf("tarn %s: %v\n%s%s", strings.Join(args, " "), err, out, errw)
	}
	return out
}

// fails runs a command that has to end with the exit code and say all of words.
func (c tester) fails(code int, words []string, args ...string) {
	c.t.Helper()
	out, errw, err := c.run(args...)
	if err == nil {
		c.t.Errorf("tarn %s succeeds, want exit code %d\n%s", strings.Join(args, " "), code, out)
		return
	}
	var said bytes.Buffer
	got := report(&said, err, false)
	if got != code {
		c.t.Errorf("tarn %s: exit code %d, want %d: %s", strings.Join(args, " "), got, code, said.String())
	}
	for _, w := range words {
		if !strings.Contains(said.String()+errw, w) {
			c.t.Errorf("tarn %s: does not say %q:\n%s%s", strings.Join(args, " "), w, errw, said.String())
		}
	}
}

// newDemoLake makes the lake of the demonstration in a folder of the test.
func newDemoLake(t *testing.T) tester {
	t.Helper()
	t.Setenv("USER", "ada")
	t.Setenv("TARN_LAKE", "")
	c := tester{t: t, lake: filepath.Join(t.TempDir(), "lake")}
	tester{t: t}.ok("init", "--demo", c.lake)
	return c
}

func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInit(t *testing.T) {
	t.Setenv("USER", "ada")
	t.Setenv("TARN_LAKE", "")
	c := tester{t: t}
	base := t.TempDir()

	demo := filepath.Join(base, "demo")
	c.ok("init", "--demo", demo)
	cfg, err := config.Load(filepath.Join(demo, "lake.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var rses []string
	for _, r := range cfg.RSEs {
		rses = append(rses, r.Name+" "+r.Kind+" "+r.Attributes["country"])
		if !strings.HasPrefix(r.Path, demo+"/") {
			t.Errorf("RSE %s is at %s, not below the lake's folder", r.Name, r.Path)
		}
	}
	if got, want := strings.Join(rses, ", "), "LAPALMA-DISK disk ES, PIC-DISK disk ES, CNAF-DISK disk IT, PIC-TAPE tape ES"; got != want {
		t.Errorf("RSEs are %s", got)
	}
	if cfg.RSEs[3].Tape.Speed != 1000 {
		t.Errorf("the tape's speed is %v", cfg.RSEs[3].Tape.Speed)
	}
	if got := c.ok("--lake", demo, "ls", "-R", "/"); got != "/ctao/\n/ctao/dl0/\n/ctao/dl1/\n/ctao/dl3/\n/user.ada/\n" {
		t.Errorf("the new lake holds\n%s", got)
	}
	for _, p := range []string{"catalogue", "cache", "journal", "run", "rse/PIC-TAPE", "rse/PIC-DISK"} {
		st, err := os.Stat(filepath.Join(demo, p))
		if err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", p, st, err)
		}
	}

	before, _ := os.ReadFile(filepath.Join(demo, "lake.yaml"))
	if out := c.ok("init", "--demo", demo); !strings.Contains(out, "is a lake already; nothing was changed") {
		t.Errorf("init of a lake says %q", out)
	}
	if after, _ := os.ReadFile(filepath.Join(demo, "lake.yaml")); !bytes.Equal(before, after) {
		t.Error("init changed the lake file")
	}

	plain := filepath.Join(base, "plain lake")
	c.ok("init", plain)
	if got := c.ok("--lake", plain, "ls", "/"); got != "user.ada/\n" {
		t.Errorf("the plain lake holds %q", got)
	}
	c.fails(control.CodeOther, []string{"is a lake already, and not that of the demonstration"}, "init", "--demo", plain)

	full := filepath.Join(base, "full")
	writeTree(t, full, map[string]string{"precious": "x"})
	c.fails(control.CodeOther, []string{"is not empty", "precious"}, "init", full)
	c.fails(control.CodeNoDir, []string{"is a file"}, "init", filepath.Join(full, "precious"))
	if names, _ := os.ReadDir(full); len(names) != 1 {
		t.Errorf("a refused init left %v", names)
	}
	c.fails(control.CodeFatal, []string{"name: want 1 to 63"}, "init", "--name", "a/b", filepath.Join(base, "n"))
	c.fails(control.CodeUsage, nil, "init")

	// Written by hand, and completed.
	hand := filepath.Join(base, "hand")
	writeTree(t, hand, map[string]string{"lake.yaml": "rses: [{name: D, path: d}]\nscopes: [{name: s}]\n"})
	c.fails(control.CodeFatal, []string{"is not there", "tarn init"}, "--lake", hand, "ls", "/")
	if out := c.ok("init", hand); !strings.Contains(out, "completed") {
		t.Errorf("init of a lake.yaml says %q", out)
	}
	if got := c.ok("--lake", hand, "ls", "/"); got != "s/\n" {
		t.Errorf("it holds %q", got)
	}
}

// USER may be missing, or no scope.
func TestUserScope(t *testing.T) {
	uid := "user." + itoa(os.Getuid())
	for user, want := range map[string]string{"ada": "user.ada", "a b": uid, strings.Repeat("x", 30): uid, "ü": uid} {
		t.Setenv("USER", user)
		if got := userScope(); got != want {
			t.Errorf("USER=%q gives %s, want %s", user, got, want)
		}
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestNoLake(t *testing.T) {
	t.Setenv("TARN_LAKE", "")
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	c := tester{t: t}
	c.fails(control.CodeFatal, []string{"looked for", "--lake or TARN_LAKE"}, "--lake", "nowhere", "ls")
	bad := filepath.Join(t.TempDir(), "lake.yaml")
	writeTree(t, filepath.Dir(bad), map[string]string{"lake.yaml": "nmae: x\ncache: {limit: lots}\n"})
	c.fails(control.CodeFatal, []string{`nmae: unknown key; did you mean "name"?`, `"lots" is not a size`, "want at least one RSE"}, "config", "check", bad)
	c.fails(control.CodeFatal, []string{"--set: cache.hed: unknown key"}, "--set", "cache.hed=3", "config", "check", bad)
}

func TestFilesOfALake(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	if _, err := demodata.Write(t.Context(), filepath.Join(src, "crab"), demodata.Options{Files: 3, Size: 60_000, Seed: 1}, nil); err != nil {
		t.Fatal(err)
	}
	writeTree(t, src, map[string]string{"crab/notes/a b": "hello", "crab/notes/new\nline": "x"})
	if err := os.Symlink("crab_obs5029747.fits", filepath.Join(src, "crab", "first")); err != nil {
		t.Fatal(err)
	}

	out := c.ok("import", filepath.Join(src, "crab"), "/ctao/dl3/crab", "--rse", "PIC-TAPE", "--meta", "level=DL3")
	if !strings.HasPrefix(out, "5 files in the lake") {
		t.Errorf("import says %q", out)
	}
	for i := range 3 {
		c.ok("meta", "set", "/ctao/dl3/crab/crab_obs502974"+itoa(7+i)+".fits", "obs_id=502974"+itoa(7+i))
	}

	want := "crab_obs5029747.fits\ncrab_obs5029748.fits\ncrab_obs5029749.fits\nfirst -> crab_obs5029747.fits\nnotes/\n"
	if got := c.ok("ls", "/ctao/dl3/crab"); got != want {
		t.Errorf("ls gives\n%s", got)
	}
	if got := c.ok("ls", "/ctao/dl3/crab/notes"); got != "a b\n\"new\\nline\"\n" {
		t.Errorf("ls of odd names gives %q", got)
	}
	long := c.ok("ls", "-l", "/ctao/dl3/crab")
	if !strings.Contains(long, "NEARLINE") || strings.Contains(long, "ONLINE_AND") {
		t.Errorf("after an import to tape ls -l gives\n%s", long)
	}
	if got := c.ok("find", "obs_id=5029748 and level=DL3"); got != "/ctao/dl3/crab/crab_obs5029748.fits\n" {
		t.Errorf("find gives %q", got)
	}
	if got := c.ok("find", "/ctao", "level=DL3", "size<10"); got != "/ctao/dl3/crab/notes/a b\n\"/ctao/dl3/crab/notes/new\\nline\"\n" {
		t.Errorf("find of small ones gives %q", got)
	}
	if got := c.ok("find", "-0", "size<3 type=file level=DL3"); got != "/ctao/dl3/crab/notes/new\nline\x00" {
		t.Errorf("find -0 gives %q", got)
	}
	if got := c.ok("meta", "get", "/ctao/dl3/crab/crab_obs5029747.fits", "obs_id"); got != "5029747\n" {
		t.Errorf("meta get gives %q", got)
	}
	c.ok("meta", "set", "--delete", "obs_id", "/ctao/dl3/crab/crab_obs5029747.fits")
	c.fails(control.CodeNoFile, []string{"has no metadata"}, "meta", "get", "/ctao/dl3/crab/crab_obs5029747.fits", "obs_id")

	var du control.UsageEntry
	if err := json.Unmarshal([]byte(c.ok("du", "--json", "-l", "/ctao/dl3/crab")), &du); err != nil {
		t.Fatal(err)
	}
	if du.Files != 6 || du.Directories != 2 || du.Bytes <= 6+3*50_000 || du.Nearline < 3*50_000 {
		t.Errorf("du gives %+v", du)
	}
	if got := c.ok("du", "--depth", "1", "/ctao"); strings.Count(got, "\n") != 5 || !strings.HasSuffix(got, "  /ctao\n") {
		t.Errorf("du --depth 1 gives\n%s", got)
	}

	// The plan and the recall.
	if got := c.ok("stage", "--dry-run", "/ctao/dl3/crab"); !strings.Contains(got, "to recall: 3 files") || !strings.Contains(got, "from 1 tape") {
		t.Errorf("the plan is %q", got)
	}
	if got := c.ok("stage", "--wait", "/ctao/dl3/crab"); !strings.HasPrefix(got, "3 files staged") {
		t.Errorf("stage says %q", got)
	}
	if got := c.ok("stage", "--wait", "/ctao/dl3/crab"); !strings.HasPrefix(got, "all of 5 files online already") {
		t.Errorf("stage of what is online says %q", got)
	}
	c.ok("evict", "/ctao")

	// Out again, by get and cat, through recalls.
	dst := filepath.Join(t.TempDir(), "out")
	c.ok("get", "-r", "/ctao/dl3/crab", dst)
	sameTree(t, filepath.Join(src, "crab"), dst)
	c.fails(control.CodeUsage, []string{"-r"}, "get", "/ctao/dl3/crab", dst)
	head := c.ok("cat", "--head", "30", "/ctao/dl3/crab/first")
	if head != "SIMPLE  =                    T" {
		t.Errorf("cat through a link gives %q", head)
	}
	if got := c.ok("cat", "--offset", "1", "--head", "3", "/ctao/dl3/crab/notes/a b"); got != "ell" {
		t.Errorf("cat of a range gives %q", got)
	}
	if got := c.ok("explain", "/ctao/dl3/crab/crab_obs5029748.fits"); !strings.Contains(got, "hot cache") {
		t.Errorf("explain says %q", got)
	}

	var e control.Entry
	if err := json.Unmarshal([]byte(c.ok("stat", "--json", "/ctao/dl3/crab/crab_obs5029748.fits")), &e); err != nil {
		t.Fatal(err)
	}
	if e.Checksums.SHA256 == "" || len(e.Replicas) != 1 || e.Replicas[0].RSE != "PIC-TAPE" || e.Meta["level"] != "DL3" {
		t.Errorf("stat gives %+v", e)
	}
	if got := c.ok("stat", "/ctao/dl3/crab/crab_obs5029748.fits"); !strings.Contains(got, "replica   PIC-TAPE AVAILABLE") {
		t.Errorf("stat gives\n%s", got)
	}
}

// sameTree compares two folders: names, types, contents, links, times and modes.
func sameTree(t *testing.T, a, b string) {
	t.Helper()
	list := func(dir string) map[string]string {
		out := map[string]string{}
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(dir, p)
			st, err := os.Lstat(p)
			if err != nil {
				return err
			}
			s := st.Mode().String()
			switch {
			case st.Mode()&fs.ModeSymlink != 0:
				s, _ = os.Readlink(p)
			case st.Mode().IsRegular():
				x, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				sum := sha256.Sum256(x)
				s += " " + string(sum[:]) + st.ModTime().String()
			case rel != ".":
				s += st.ModTime().String()
			}
			out[rel] = s
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	x, y := list(a), list(b)
	for name, s := range x {
		if y[name] != s {
			t.Errorf("%q is %q in %s, and %q in %s", name, s, a, y[name], b)
		}
	}
	for name := range y {
		if _, ok := x[name]; !ok {
			t.Errorf("%q is in %s only", name, b)
		}
	}
}

func TestPutAndUndelete(t *testing.T) {
	c := newDemoLake(t)
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a.txt": "one", "b.txt": "two"})
	c.ok("put", filepath.Join(dir, "a.txt"), filepath.Join(dir, "b.txt"), "/user.ada/")
	if got := c.ok("cat", "/user.ada/a.txt", "/user.ada/b.txt"); got != "onetwo" {
		t.Errorf("cat gives %q", got)
	}
	got := c.ok("replicas", "/user.ada")
	for _, want := range []string{"LAPALMA-DISK  AVAILABLE", "PIC-TAPE      AVAILABLE"} {
		if strings.Count(got, want) != 2 {
			t.Errorf("%q does not stand twice in\n%s", want, got)
		}
	}
	c.fails(control.CodeOther, []string{"exists already", "--replace"}, "put", filepath.Join(dir, "b.txt"), "/user.ada/a.txt")
	in := c
	in.in = "from stdin"
	in.ok("put", "-", "/user.ada/a.txt", "--replace")
	if got := c.ok("cat", "/user.ada/a.txt"); got != "from stdin" {
		t.Errorf("after put --replace cat gives %q", got)
	}
	if got := c.ok("undelete", "--list", "/user.ada"); !strings.Contains(got, "replaced") || !strings.Contains(got, "/user.ada/a.txt") {
		t.Errorf("undelete --list gives\n%s", got)
	}
	c.ok("undelete", "/user.ada/a.txt")
	if got := c.ok("cat", "/user.ada/a.txt"); got != "one" {
		t.Errorf("after undelete cat gives %q", got)
	}
	c.fails(control.CodeNoFile, []string{"nothing of", "--list"}, "undelete", "/user.ada/zz")
	if got := c.ok("ls", "/user.ada"); got != "a.txt\nb.txt\n" {
		t.Errorf("left over: %s", got)
	}
	if got := c.ok("uploads", "ls"); got != "" {
		t.Errorf("unsent after put without a daemon: %s", got)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"x/a": strings.Repeat("a", 5000), "x/b": "b"})
	c.ok("import", filepath.Join(src, "x"), "/ctao/x", "--rse", "PIC-DISK")
	if got := c.ok("verify", "-v", "/ctao/x"); !strings.Contains(got, "2 replicas good, 0 not") {
		t.Errorf("verify says %q", got)
	}
	var r control.ReplicaEntry
	if err := json.Unmarshal([]byte(c.ok("replicas", "--json", "/ctao/x/a")), &r); err != nil {
		t.Fatal(err)
	}
	f := filepath.Join(c.lake, "rse/PIC-DISK", string(r.PFN))
	b, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	b[77] ^= 1
	if err := os.WriteFile(f, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.fails(control.CodeCorrupt, []string{"1 replica corrupt or missing"}, "verify", "/ctao/x")
	if got := c.ok("replicas", "/ctao/x/a"); !strings.Contains(got, "BAD") {
		t.Errorf("the damaged replica is not BAD:\n%s", got)
	}
	c.fails(control.CodeCorrupt, []string{"no good replica"}, "cat", "/ctao/x/a")
}

func TestRules(t *testing.T) {
	c := newDemoLake(t)
	id := strings.TrimSpace(c.ok("rule", "add", "/ctao/dl3", "country=IT & rse_type=DISK", "--lifetime", "2d", "--comment", "for Bologna"))
	if again := strings.TrimSpace(c.ok("rule", "add", "/ctao/dl3", "country=IT&rse_type=DISK")); again == "" {
		t.Error("a second rule has no id")
	}
	out := c.ok("rule", "ls", "/ctao/dl3")
	if !strings.Contains(out, id) || !strings.Contains(out, "country=IT&rse_type=DISK") {
		t.Errorf("rule ls gives\n%s", out)
	}
	c.ok("rule", "rm", id)
	if out := c.ok("rule", "ls"); strings.Contains(out, id) {
		t.Errorf("after rm it still is there:\n%s", out)
	}
	c.fails(control.CodeNoFile, []string{id}, "rule", "rm", id)
	c.fails(control.CodeUsage, []string{"matches 1 of the lake's RSEs", "rse ls"}, "rule", "add", "/ctao", "CNAF-DISK", "-n", "2")
	c.fails(control.CodeUsage, []string{"RSE expression looks like"}, "rule", "add", "/ctao", "((")
	c.fails(control.CodeUsage, []string{"cannot be on /"}, "rule", "add", "/", "CNAF-DISK")
	c.fails(control.CodeNoFile, []string{"/ctao/dl33", "is it /ctao/dl3"}, "rule", "add", "/ctao/dl33", "CNAF-DISK")
	if out := c.ok("rse", "ls"); !strings.Contains(out, "PIC-TAPE") || !strings.Contains(out, "country=IT") {
		t.Errorf("rse ls gives\n%s", out)
	}
}

// What is wrong, where, why, and what to do, with the exit codes of docs/cli.md.
func TestErrorsOfCommands(t *testing.T) {
	c := newDemoLake(t)
	c.fails(control.CodeNoFile, []string{"/ctao/dl2: there is no dl2 in /ctao", "is it /ctao/dl"}, "ls", "/ctao/dl2")
	c.fails(control.CodeNoDir, []string{"there is no nope in /ctao"}, "ls", "/ctao/nope/x/y")
	c.fails(control.CodeUsage, []string{"is a relative path", "absolute"}, "ls", "ctao")
	c.fails(control.CodeUsage, []string{"character"}, "find", "a = = b")
	c.fails(control.CodeUsage, []string{"a query is missing"}, "find", "/ctao")
	c.fails(control.CodeUsage, []string{"want at least one PATH"}, "meta", "set", "a=b")
	c.fails(control.CodeUsage, []string{"is a directory"}, "cat", "/ctao")
	c.fails(control.CodeUsage, []string{"--rse"}, "import", ".", "/ctao")
	c.fails(control.CodeNoFile, []string{`RSE "X"`}, "import", ".", "/ctao/x", "--rse", "X")
	c.fails(control.CodeNoFile, []string{"no scope"}, "import", ".", "/nope/x", "--rse", "PIC-DISK")
	c.fails(control.CodeNoFile, []string{"no such file"}, "import", "/no/such/dir", "/ctao/x", "--rse", "PIC-DISK")
	c.fails(control.CodeUsage, []string{"duration"}, "pin", "--for", "long", "/ctao")
	c.fails(control.CodeNoFile, nil, "recalls", "allow", "4194305")
	c.fails(control.CodeNothing, []string{"no upload has failed"}, "uploads", "retry", "--all")
	c.fails(control.CodeFatal, []string{"no daemon", "tarn mount"}, "cache", "limit", "3G")
	c.fails(control.CodeNothing, []string{"is not a mount of tarn"}, "umount", t.TempDir())
	out, _, err := c.run("ls", "/ctao/nope", "--json")
	if err == nil || out != "" {
		t.Errorf("a failed listing wrote %q, %v", out, err)
	}
}

// A second command waits for the first, which has the lake open; one that waits too
// long is told.
func TestLakeIsLocked(t *testing.T) {
	c := newDemoLake(t)
	cfg, err := config.Load(filepath.Join(c.lake, "lake.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: testTerminal()}
	o, err := openLake(cfg, openOptions{Log: s.logger(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	late := &session{t: testTerminal()}
	far := time.Now()
	late.t.now = func() time.Time { far = far.Add(3 * time.Second); return far }
	_, err = late.connectTo(t.Context(), cfg)
	if e := control.Describe(err); e == nil || e.Code != control.CodeFatal || e.Kind != "busy" {
		t.Errorf("a locked lake gives %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := c.run("ls", "/")
		done <- err
	}()
	time.Sleep(100 * time.Millisecond) // let it find the lock
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("a command that waited for another one: %v", err)
	}
}

// A command that is interrupted ends at once and leaves the lake in order.
func TestInterruptedImport(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	files := map[string]string{}
	for i := range 200 {
		files["f"+itoa(i)] = strings.Repeat("x", i)
	}
	writeTree(t, src, files)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		time.Sleep(30 * time.Millisecond)
		cancel()
	}()
	var out, errw bytes.Buffer
	err := run(ctx, []string{"tarn", "--lake", c.lake, "import", src, "/ctao/i", "--rse", "PIC-DISK"}, nil, &out, &errw)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	c.ok("import", src, "/ctao/i", "--rse", "PIC-DISK")
	if got := strings.Count(c.ok("ls", "/ctao/i"), "\n"); got != 200 {
		t.Errorf("%d files after the second run", got)
	}
	if out := c.ok("verify", "/ctao/i"); !strings.Contains(out, "200 replicas good") {
		t.Errorf("verify says %q", out)
	}
	stored := 0
	err = filepath.WalkDir(filepath.Join(c.lake, "rse/PIC-DISK"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			stored++
		}
		return err
	})
	if err != nil || stored != 200 {
		t.Errorf("%d files at the RSE, want 200 and no orphan: %v", stored, err)
	}
}

func TestSmallCommands(t *testing.T) {
	c := tester{t: t}
	if out := c.ok("version"); !strings.HasPrefix(out, "tarn ") || !strings.Contains(out, "go1") {
		t.Errorf("version is %q", out)
	}
	if c.ok("--version") != c.ok("version") {
		t.Error("--version and version differ")
	}
	for shell, want := range map[string]string{"bash": "complete -o", "zsh": "#compdef tarn", "fish": "complete -c tarn"} {
		if out := c.ok("completion", shell); !strings.Contains(out, want) {
			t.Errorf("completion %s has no %q", shell, want)
		}
	}
	args := os.Args
	os.Args = []string{"tarn", completionFlag} // the library looks there
	t.Cleanup(func() { os.Args = args })
	if out := c.ok(completionFlag); !strings.Contains(out, "import") {
		t.Errorf("completion gives %q", out)
	}
	c.fails(control.CodeUsage, nil, "completion", "tcsh")
	if out := c.ok("help", "stage"); !strings.Contains(out, "--dry-run") || !strings.Contains(out, "Examples:") {
		t.Errorf("help stage is %q", out)
	}
	if out := c.ok("config", "keys"); !strings.Contains(out, "cache.limit") || !strings.Contains(out, "rses[].tape.drives") {
		t.Errorf("config keys gives %q", out)
	}
	dir := filepath.Join(t.TempDir(), "d")
	if out := c.ok("demo-data", dir, "--files", "2", "--size", "20K"); !strings.HasPrefix(out, "2 FITS files") {
		t.Errorf("demo-data says %q", out)
	}
	lake := newDemoLake(t)
	shown := lake.ok("config", "show")
	cfg, err := config.Parse(filepath.Join(lake.lake, "lake.yaml"), []byte(shown))
	if err != nil || cfg.Name == "" {
		t.Errorf("what config show prints is not a lake file: %v\n%s", err, shown)
	}
}

// A mountpoint that cannot be used is refused with the reason, before anything is started.
func TestMountRefuses(t *testing.T) {
	c := newDemoLake(t)
	base := t.TempDir()
	c.fails(control.CodeNoDir, []string{"does not exist", "mkdir -p"}, "mount", c.lake, filepath.Join(base, "no"))
	writeTree(t, base, map[string]string{"full/x": ""})
	c.fails(control.CodeOther, []string{"is not empty"}, "mount", c.lake, filepath.Join(base, "full"))
	c.fails(control.CodeNoDir, []string{"is not a directory"}, "mount", c.lake, filepath.Join(base, "full/x"))
	c.fails(control.CodeUsage, []string{"which the lake needs"}, "mount", c.lake, filepath.Join(c.lake, "cache"))
	c.fails(control.CodeUsage, []string{"which the lake needs"}, "mount", c.lake, c.lake)
	c.fails(control.CodeUsage, []string{"no mount option frobnicate"}, "mount", "-o", "frobnicate", c.lake, base)
	c.fails(control.CodeFatal, []string{`"maybe"`}, "mount", "--close", "maybe", c.lake, base)
	c.fails(control.CodeUsage, nil, "mount")
}
