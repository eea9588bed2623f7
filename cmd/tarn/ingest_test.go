package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/backends/ingest"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// nightOf makes a folder of files as a telescope leaves them.
func nightOf(t *testing.T, dir string, files int) map[string]string {
	t.Helper()
	out := map[string]string{}
	for i := range files {
		out[fmt.Sprintf("2026/11/%02d/LST-1.1.Run%05d.0001.fits.fz", 1+i%3, i)] = strings.Repeat(fmt.Sprintf("event %d of the night\n", i), 200+i)
	}
	writeTree(t, dir, out)
	return out
}

func filesBelow(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestIngestOnce(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	files := nightOf(t, src, 12)
	page := filepath.Join(t.TempDir(), "night.html")
	once := []string{"ingest", "run", "--once", src, "/ctao/dl0/night", "--delete-source", "after-rules", "--name", "night",
		"--rule", "rse=LAPALMA-DISK", "--rule", "rse=PIC-TAPE from=LAPALMA-DISK", "--rule", "rse='country=IT' from=LAPALMA-DISK", "--report", page}
	if out := c.ok(once...); !strings.Contains(out, "12 files found, 12 safe") || !strings.Contains(out, "12 deleted") {
		t.Errorf("it says %q", out)
	}
	if left := filesBelow(t, src); len(left) != 0 {
		t.Errorf("at the source there are %q", left)
	}
	for name, text := range files {
		if got := c.ok("cat", "/ctao/dl0/night/"+name); got != text {
			t.Errorf("%s has %d bytes, want %d", name, len(got), len(text))
		}
	}
	where := c.ok("replicas", "/ctao/dl0/night/2026/11/01/LST-1.1.Run00000.0001.fits.fz")
	for _, rse := range []string{"LAPALMA-DISK", "PIC-TAPE", "CNAF-DISK"} {
		if !strings.Contains(where, rse) {
			t.Errorf("no copy at %s:\n%s", rse, where)
		}
	}
	if meta := c.ok("meta", "get", "/ctao/dl0/night/2026/11/02/LST-1.1.Run00001.0001.fits.fz"); !strings.Contains(meta, "LST-1") {
		t.Errorf("its metadata are %q", meta)
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Errorf("report: %v, %d bytes", err, len(b))
	}
	if out := c.ok("ingest", "audit", "night", "--deep"); !strings.Contains(out, "12 deletions proved, 0 not") {
		t.Errorf("audit says %q", out)
	}
	var st ingest.Status
	if err := json.Unmarshal([]byte(c.ok("--json", "ingest", "show", "night")), &st); err != nil || st.Deleted.Files != 12 || st.Name != "night" {
		t.Errorf("show --json: %+v, %v", st, err)
	}
	lines := strings.Split(strings.TrimSpace(c.ok("--json", "ingest", "show", "night", "--files", "--stage", "deleted")), "\n")
	var f control.IngestFile
	if err := json.Unmarshal([]byte(lines[0]), &f); err != nil || len(lines) != 12 || f.Stage != ingest.Deleted || f.Checksums.SHA256 == "" || f.DeletedAt.IsZero() || len(f.Copies) != 3 {
		t.Errorf("%d tombstones, the first %+v, %v", len(lines), f, err)
	}

	// A file that is damaged elsewhere since makes the audit fail: its proof holds no more.
	rules := c.ok("rule", "ls", "/ctao/dl0/night")
	if n := strings.Count(rules, "/ctao/dl0/night"); n != 3 {
		t.Errorf("%d rules are on the target, want one for each --rule:\n%s", n, rules)
	}
	// A second pass finds nothing, and asks for no other rules.
	if out := c.ok(once...); !strings.Contains(out, "12 files found") && !strings.Contains(out, "0 files found") {
		t.Errorf("a second pass says %q", out)
	}
	if again := c.ok("rule", "ls", "/ctao/dl0/night"); strings.Count(again, "/ctao/dl0/night") != 3 {
		t.Errorf("after a second pass the rules are\n%s", again)
	}
}

func TestIngestAuditFindsWhatWasLost(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	nightOf(t, src, 3)
	c.ok("ingest", "run", "--once", src, "/ctao/dl0/n", "--name", "n", "--delete-source", "after-rules", "--rule", "rse=PIC-DISK")
	copies := filesBelow(t, filepath.Join(c.lake, "rse/PIC-DISK"))
	if len(copies) != 3 {
		t.Fatalf("copies are %q", copies)
	}
	if err := os.WriteFile(copies[1], []byte("not what was written"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.fails(control.CodeCorrupt, []string{"1 deletion", "cannot be proved"}, "ingest", "audit", "n", "--deep")
}

// A lake is of use when the ledger of an ingest is damaged, and says so.
func TestIngestDamagedLedger(t *testing.T) {
	c := newDemoLake(t)
	src, at := t.TempDir(), filepath.Join(c.lake, "ingest")
	if _, err := os.Stat(at); !os.IsNotExist(err) {
		t.Errorf("a lake without ingests has their folder (%v)", err)
	}
	nightOf(t, src, 2)
	c.ok("ingest", "run", "--once", src, "/ctao/dl0/n", "--name", "n", "--rule", "rse=PIC-DISK")
	if err := os.WriteFile(filepath.Join(at, "n", "ledger", "MANIFEST"), []byte("nothing of badger's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := c.ok("ls", "-R", "/ctao/dl0/n"); !strings.Contains(out, "Run00001") {
		t.Errorf("ls says %q", out)
	}
	_, _, err := c.run("ingest", "ls")
	if err == nil || !strings.Contains(err.Error(), at) {
		t.Errorf("ingest ls: %v, want it to name %s", err, at)
	}
}

func TestIngestBadInput(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"a/f": "x"})
	file := filepath.Join(src, "a/f")
	add := func(name string, more ...string) []string { return append([]string{"ingest", "add", name}, more...) }
	good := []string{"--watch", src, "--to", "/ctao/dl0/x", "--rule", "rse=PIC-DISK"}
	for _, row := range []struct {
		code int
		say  []string
		args []string
	}{
		{control.CodeUsage, []string{"--rule", "--watch", "--to"}, add("n")},
		{control.CodeUsage, []string{"copies", "from:", "bandwidth"}, add("n", "--watch", src, "--to", "/ctao/x", "--rule", "copies=none rse=A", "--rule", "rse=A from=((", "--bandwidth", "fast")},
		{control.CodeUsage, []string{"--bandwidth", "nosuch", "not there"}, add("n", "--watch", filepath.Join(src, "not there"), "--to", "/nosuch/x", "--rule", "rse=PIC-DISK", "--bandwidth", "fast")}, // of flags and lake, too
		{control.CodeUsage, []string{"--bandwidth"}, add("n", append(good, "--bandwidth", "fast")...)},
		{control.CodeNoFile, []string{`no ingest "n"`}, []string{"ingest", "run", "n"}},
		{control.CodeUsage, []string{"NOWHERE"}, add("n", "--watch", src, "--to", "/ctao/dl0/x", "--rule", "rse=NOWHERE")},
		{control.CodeUsage, []string{"2 copies"}, add("n", "--watch", src, "--to", "/ctao/dl0/x", "--rule", "copies=2 rse=PIC-DISK")},
		{control.CodeUsage, nil, add("n", "--watch", filepath.Join(src, "not there"), "--to", "/ctao/dl0/x", "--rule", "rse=PIC-DISK")},
		{control.CodeUsage, nil, add("n", "--watch", file, "--to", "/ctao/dl0/x", "--rule", "rse=PIC-DISK")},
		{control.CodeUsage, nil, add("n", "--watch", filepath.Join(c.lake, "rse/PIC-DISK"), "--to", "/ctao/dl0/x", "--rule", "rse=PIC-DISK")},
		{control.CodeUsage, nil, add("n", "--watch", c.lake, "--to", "/ctao/dl0/x", "--rule", "rse=PIC-DISK")},
		{control.CodeUsage, []string{"nosuch"}, add("n", "--watch", src, "--to", "/nosuch/x", "--rule", "rse=PIC-DISK")},
		{control.CodeUsage, []string{"delete"}, add("n", append(good, "--delete-source", "now")...)},
		{control.CodeUsage, []string{"schedule"}, add("n", append(good, "--schedule", "at night")...)},
		{control.CodeUsage, nil, add("n", append(good, "--complete", "when done")...)},
		{control.CodeUsage, nil, add("n", append(good, "--pattern", "[")...)},
		{control.CodeUsage, nil, add("n", append(good, "--order", "random")...)},
		{control.CodeUsage, nil, add("bad/name", good...)},
		{control.CodeUsage, []string{"NOWHERE", "does not exist", "schedule"}, add("n", "--watch", filepath.Join(src, "not there"), "--to", "/ctao/dl0/x", "--rule", "rse=NOWHERE", "--schedule", "at night")}, // all at once
		{control.CodeUsage, []string{"scope"}, add("n", "--watch", src, "--to", "/", "--rule", "rse=PIC-DISK")},
		{control.CodeUsage, []string{"NOWHERE", "not there"}, []string{"ingest", "run", "--once", filepath.Join(src, "not there"), "/ctao/dl0/x", "--rule", "rse=NOWHERE"}},
		{control.CodeUsage, []string{"lake's own"}, []string{"ingest", "run", "--once", filepath.Join(c.lake, "rse/PIC-DISK"), "/ctao/dl0/x", "--rule", "rse=PIC-DISK"}},
		{control.CodeUsage, []string{"--rule"}, []string{"ingest", "run", "--once", src, "/ctao/dl0/x"}},
		{control.CodeUsage, []string{"--once"}, []string{"ingest", "run", "--rule", "rse=PIC-DISK"}},
		{control.CodeNoFile, []string{`no ingest "n"`}, []string{"ingest", "show", "n"}},
		{control.CodeNoFile, []string{`no ingest "n"`}, []string{"ingest", "pause", "n"}},
		{control.CodeNoFile, []string{`no ingest "n"`}, []string{"ingest", "rm", "n"}},
		{control.CodeNoFile, []string{`no ingest "n"`}, []string{"ingest", "audit", "n"}},
		{control.CodeNoFile, []string{`no ingest "n"`}, []string{"ingest", "retry", "n"}},
	} {
		c.fails(row.code, row.say, row.args...)
	}
	if out := c.ok("rule", "ls"); strings.Contains(out, "/ctao/dl0/x") {
		t.Errorf("what was refused left rules:\n%s", out)
	}

	c.ok(add("one", append(good, "--paused")...)...)
	c.fails(control.CodeUsage, []string{"one is paused", "resume one"}, "ingest", "run", "one")
	c.fails(control.CodeOther, []string{"one"}, add("one", append(good, "--paused")...)...)
	c.fails(control.CodeUsage, []string{"one"}, add("two", good...)...)
	c.fails(control.CodeUsage, []string{"one"}, add("two", "--watch", filepath.Join(src, "a"), "--to", "/ctao/dl0/y", "--rule", "rse=PIC-DISK")...)
	if out := c.ok("ingest", "ls"); !strings.Contains(out, "PAUSED") {
		t.Errorf("ls says %q", out)
	}
	// Nobody works on it here: it is stopped, and who follows it is not kept, nor keeps the lake.
	if out, said, err := c.run("ingest", "resume", "one"); err != nil || !strings.Contains(out, "one is stopped") || !strings.Contains(said, "tarn ingest run") {
		t.Errorf("resume says %q, %q, %v", out, said, err)
	}
	if out := c.ok("ingest", "ls"); !strings.Contains(out, "STOPPED") {
		t.Errorf("ls says %q", out)
	}
	if out := c.ok("ingest", "show", "one", "--follow"); !strings.Contains(out, "one: stopped") || !strings.Contains(out, "found ") {
		t.Errorf("show --follow says %q", out)
	}
	if out := c.ok("ingest", "pause", "one"); !strings.Contains(out, "one is paused") {
		t.Errorf("pause says %q", out)
	}
	c.ok("ingest", "rm", "one", "--force")
	if out := c.ok("ingest", "ls"); strings.Contains(out, "one") {
		t.Errorf("after rm ls says %q", out)
	}
}

// Where the lake is not mounted `ingest run` works on the ingests, the commands find it, and it writes its page when it ends.
func TestIngestRun(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	page := filepath.Join(t.TempDir(), "night.html")
	ctx, end := context.WithCancel(t.Context())
	defer end()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"tarn", "--lake", c.lake, "ingest", "run", "--report", page}, strings.NewReader(""), io.Discard, io.Discard)
	}()
	cfg, err := config.Load(filepath.Join(c.lake, "lake.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for give := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		client, _, err := control.Dial(ctx, cfg.Run)
		if err == nil {
			client.Close()
			break
		}
		if time.Now().After(give) {
			t.Fatal(err)
		}
	}
	nightOf(t, src, 5)
	c.ok("ingest", "add", "n", "--watch", src, "--to", "/ctao/dl0/n", "--delete-source", "after-rules", "--rule", "rse=PIC-DISK")

	// A view of it: an object a second, until it is interrupted, which is no error.
	watch, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	seen := 0
	out := writerFunc(func(p []byte) (int, error) {
		var st ingest.Status
		if err := json.Unmarshal(p, &st); err != nil || st.Name != "n" {
			t.Errorf("%q: %v", p, err)
		}
		if seen++; st.Deleted.Files == 5 || seen > 60 {
			interrupt()
		}
		return len(p), nil
	})
	if err := run(watch, []string{"tarn", "--lake", c.lake, "--json", "ingest", "show", "n", "--follow"}, strings.NewReader(""), out, io.Discard); err != nil {
		t.Error(err)
	}
	if left := filesBelow(t, src); len(left) != 0 || seen > 60 {
		t.Errorf("after %d objects there are at the source %q", seen, left)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Errorf("report: %v, %d bytes", err, len(b))
	}
	if out := c.ok("ingest", "audit", "n"); !strings.Contains(out, "5 deletions proved, 0 not") {
		t.Errorf("audit says %q", out)
	}

	// The same, of this one alone.
	ctx, end = context.WithCancel(t.Context())
	defer end()
	other := t.TempDir()
	c.ok("ingest", "add", "other", "--watch", other, "--to", "/ctao/dl0/other", "--delete-source", "after-rules", "--rule", "rse=PIC-DISK")
	nightOf(t, src, 3)
	nightOf(t, other, 2)
	go func() {
		ended <- run(ctx, []string{"tarn", "--lake", c.lake, "ingest", "run", "n"}, strings.NewReader(""), io.Discard, io.Discard)
	}()
	for give := time.Now().Add(30 * time.Second); len(filesBelow(t, src)) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(give) {
			t.Fatalf("run n leaves %q", filesBelow(t, src))
		}
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if left := filesBelow(t, other); len(left) != 2 {
		t.Errorf("run n leaves %q of another ingest", left)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestIngestRedraw(t *testing.T) {
	var b bytes.Buffer
	n, err := redraw(&b, 0, 10, []string{"short", "är är är är"})
	if err != nil || n != 2 || b.String() != "short\när är är \n" {
		t.Errorf("%d lines, %q, %v", n, b.String(), err)
	}
	b.Reset()
	if n, err = redraw(&b, n, 10, []string{"one"}); err != nil || n != 1 || b.String() != "\x1b[2A\x1b[Jone\n" {
		t.Errorf("%d lines, %q, %v", n, b.String(), err)
	}
}

func TestIngestLine(t *testing.T) {
	st := ingest.Status{State: ingest.Failed, Error: "a\nb", Found: ingest.Count{Files: 3, Bytes: 2048}, ETA: time.Minute}
	st.Name = "n"
	if got, want := ingestLine(st), "n: failed, 0 of 3 files safe, 0 B of 2.0 KiB, 0 transferred, 0 registered, 0 deleted, 0 stuck, 0 B/s, 1 min left: a; b"; got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
}

func TestIngestMetrics(t *testing.T) {
	st := ingest.Status{State: ingest.Running, Found: ingest.Count{Files: 3, Bytes: 30}, StuckAll: 1}
	st.Name = "a\"b\\c\nd"
	var b bytes.Buffer
	if err := ingestMetrics(&b, st); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE tarn_ingest_files gauge\n", `tarn_ingest_files{ingest="a\"b\\c\nd",stage="found"} 3` + "\n",
		`tarn_ingest_bytes{ingest="a\"b\\c\nd",stage="found"} 30` + "\n", `tarn_ingest_stuck_files{ingest="a\"b\\c\nd"} 1` + "\n", `tarn_ingest_up{ingest="a\"b\\c\nd"} 1` + "\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no line %q in\n%s", want, b.String())
		}
	}
}

// shownStatus asks for the status of an ingest until cond holds.
func (m mounted) ingestUntil(name string, cond func(ingest.Status) bool) (st ingest.Status) {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		out, _, err := m.run("--json", "ingest", "show", name)
		st = ingest.Status{}
		if err == nil && json.Unmarshal([]byte(out), &st) == nil && cond(st) {
			return st
		}
	}
	m.t.Fatalf("the ingest does not come so far: %+v", st)
	return st
}

// The daemon takes files in as they are written; who looks at the mount sees them at once, though the kernel knew that
// they were not there; a kill in the midst costs nothing.
func TestIngestInAMount(t *testing.T) {
	m := mountDemo(t)
	src := t.TempDir()
	at := filepath.Join(m.point, "ctao/dl0/live")
	if _, err := os.Stat(filepath.Join(at, "2026/11/01/LST-1.1.Run00000.0001.fits.fz")); !os.IsNotExist(err) {
		t.Fatal(err) // and the kernel keeps that
	}
	m.ok("ingest", "add", "live", "--watch", src, "--to", "/ctao/dl0/live", "--delete-source", "after-rules", "--rule", "rse=LAPALMA-DISK", "--rule", "rse=CNAF-DISK from=LAPALMA-DISK")
	files := nightOf(t, src, 10)
	m.ingestUntil("live", func(st ingest.Status) bool { return st.Deleted.Files == 10 })
	look := func() {
		t.Helper()
		for name, text := range files {
			if b, err := os.ReadFile(filepath.Join(at, name)); err != nil || string(b) != text {
				t.Errorf("%s in the mount: %d bytes, %v; want %d", name, len(b), err, len(text))
			}
		}
	}
	look()
	// An ingest of its own files would take them again and again, and delete them where they were.
	above := filepath.Dir(m.point)
	for _, dir := range []string{m.point, filepath.Join(m.point, "ctao/dl0"), above} {
		m.fails(control.CodeUsage, []string{m.point + " is the lake's own"}, "ingest", "add", "again", "--watch", dir, "--to", "/ctao/dl0/again", "--rule", "rse=CNAF-DISK")
		m.fails(control.CodeUsage, []string{m.point + " is the lake's own"}, "ingest", "run", "--once", dir, "/ctao/dl0/again", "--rule", "rse=CNAF-DISK")
	}
	if out := m.ok("status"); !strings.Contains(out, "ingest     live: running, 10 of 10 files safe, 10 deleted") {
		t.Errorf("status says\n%s", out)
	}
	var stats struct{ Ingests []ingest.Status }
	if b, err := os.ReadFile(filepath.Join(m.point, ".tarn/stats")); err != nil || json.Unmarshal(b, &stats) != nil || len(stats.Ingests) != 1 || stats.Ingests[0].Deleted.Files != 10 {
		t.Errorf(".tarn/stats: %+v, %v", stats, err)
	}

	d, err := control.ReadDaemon(m.cfg.Run)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		name := fmt.Sprintf("2026/12/LST-1.1.Run%05d.0001.fits.fz", i)
		files[name] = strings.Repeat(fmt.Sprintf("later event %d\n", i), 300)
		writeTree(t, src, map[string]string{name: files[name]})
		if i == 100 {
			m.ingestUntil("live", func(st ingest.Status) bool { return st.Registered.Files > 10 })
			if err := syscall.Kill(d.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	st := m.ingestUntil("live", func(st ingest.Status) bool { return st.Deleted.Files == 210 }) // the supervisor has started another daemon
	if st.Found.Files != 210 {
		t.Errorf("found are %+v", st.Found)
	}
	if left := filesBelow(t, src); len(left) != 0 {
		t.Errorf("at the source there are %q", left)
	}
	look()
	if out := m.ok("ingest", "audit", "live", "--deep"); !strings.Contains(out, "210 deletions proved, 0 not") {
		t.Errorf("audit says %q", out)
	}
	for _, rse := range []string{"LAPALMA-DISK", "CNAF-DISK"} {
		if n := len(filesBelow(t, filepath.Join(m.lake, "rse", rse))); n != 210 {
			t.Errorf("%d copies lie at %s, want 210", n, rse)
		}
	}
	m.fails(control.CodeFatal, []string{"works on the ingests by itself"}, "ingest", "run")
	m.ok("umount", m.point)
}

// TestIngestHDF5: attributes of HDF5 files become metadata where there is an h5py, and files come in without one.
func TestIngestHDF5(t *testing.T) {
	const python = "/usr/bin/python3"
	src := t.TempDir()
	make := exec.Command(python, "-c", "import h5py\nwith h5py.File('a.h5', 'w') as f: f.attrs['CTA ACTIVITY NAME'] = 'ctapipe-process'")
	make.Dir = src
	if out, err := make.CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("h5py is missing (make setup): %v\n%s", err, out)
		}
		t.Skipf("h5py is missing: %s", out)
	}
	writeTree(t, src, map[string]string{"broken.h5": "\x89HDF\r\n\x1a\nand no more"})
	c := newDemoLake(t)
	c.ok("ingest", "run", "--once", src, "/ctao/dl0/h5", "--rule", "rse=LAPALMA-DISK")
	if got := c.ok("meta", "get", "/ctao/dl0/h5/a.h5"); !strings.Contains(got, "ctapipe-process") {
		t.Errorf("its metadata are %q", got)
	}
	if got := c.ok("cat", "/ctao/dl0/h5/broken.h5"); !strings.HasPrefix(got, "\x89HDF") {
		t.Errorf("the broken one is %q", got)
	}
	t.Setenv("TARN_INGEST_PYTHON", "/nowhere/python")
	c.ok("ingest", "run", "--once", src, "/ctao/dl0/without", "--rule", "rse=LAPALMA-DISK")
	if got := c.ok("meta", "get", "/ctao/dl0/without/a.h5"); strings.Contains(got, "ctapipe") {
		t.Errorf("without h5py its metadata are %q", got)
	}
}
