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

// TestUploadsTellOfOrphans: what recovery put aside is no upload, but is not kept quiet about.
func TestUploadsTellOfOrphans(t *testing.T) {
	c := newDemoLake(t)
	if _, said, err := c.run("uploads", "ls"); err != nil || said != "" {
		t.Fatalf("%v, %q", err, said)
	}
	if err := os.WriteFile(filepath.Join(c.lake, "journal", "0123456789abcdef01234567.data"), []byte("nobody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, said, err := c.run("uploads", "ls", "--json")
	if err != nil || out != "" {
		t.Errorf("%v, %q", err, out)
	}
	for _, want := range []string{"1 file (8 B)", filepath.Join(c.lake, "journal", "orphans"), "tarn fsck"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in %q", want, said)
		}
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
