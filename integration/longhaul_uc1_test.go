package integration

import (
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends/ingest"
	"tarn/backends/ingest/report"
)

// asked is the rate that was asked for: 40 TB in a day.
const asked = 463e6

// campaign is one of the six tests. Its files are true in number, and scaled in size.
type campaign struct {
	name, work, before string
	files              int
	size               int64 // here
	full               int64 // there
	rules              []string
	rses               []string
	change             bool // of the authority, in the middle
}

var campaigns = []campaign{
	{name: "1", work: "automatic detection, LAPALMA → PIC over GridFTP, automatic deletion; 190 files of 1.5 GB", before: "done; deletion at the source had technical difficulties",
		files: 190, size: 1_500_000, full: 1_500_000_000, rules: []string{"copies=1 rse=PIC-DISK"}, rses: []string{"PIC-DISK"}},
	{name: "2", work: "the same over XRootD; 190 files of 1.5 GB", before: "done",
		files: 190, size: 1_500_000, full: 1_500_000_000, rules: []string{"copies=1 rse=PIC-XRD"}, rses: []string{"PIC-XRD"}},
	{name: "2.1", work: "the same over XRootD; 8,000 files, 10 TB", before: "done",
		files: 8000, size: 150_000, full: 1_250_000_000, rules: []string{"copies=1 rse=PIC-XRD"}, rses: []string{"PIC-XRD"}},
	{name: "3", work: "GridFTP; 8,000 files, 10 TB", before: "done",
		files: 8000, size: 150_000, full: 1_250_000_000, rules: []string{"copies=1 rse=PIC-DISK"}, rses: []string{"PIC-DISK"}},
	{name: "4", work: "GridFTP; 32,000 files, 40 TB", before: "failed: more time than stated; the catalogue server had problems transferring a large number of files",
		files: 32000, size: 150_000, full: 1_250_000_000, rules: []string{"copies=1 rse=PIC-DISK"}, rses: []string{"PIC-DISK"}},
	{name: "5", work: "test 3 onto tape (Disk2Tape)", before: "done",
		files: 8000, size: 150_000, full: 1_250_000_000, rules: []string{"copies=1 rse=PIC-DISK", "copies=1 rse=PIC-TAPE"}, rses: []string{"PIC-DISK", "PIC-TAPE"}},
	{name: "6", work: "replication PIC → CNAF after LAPALMA → PIC, 8,000 files; the authority of both changes in the middle", before: "failed: the sites could not connect after an update of grid certificates and a change of CA",
		files: 8000, size: 150_000, full: 1_250_000_000, rules: []string{"copies=1 rse=PIC-DISK", "copies=1 rse=CNAF-DISK from=PIC-DISK"}, rses: []string{"PIC-DISK", "CNAF-DISK"}, change: true},
	{name: "6x", work: "the same over XRootD; 190 files", before: "not tried",
		files: 190, size: 1_500_000, full: 1_500_000_000, rules: []string{"copies=1 rse=PIC-XRD", "copies=1 rse=CNAF-XRD from=PIC-XRD"}, rses: []string{"PIC-XRD", "CNAF-XRD"}},
}

// TestUC1 is `make uc1`: the tests named by TARN_UC1 ("all", or 1,4,6), on real servers, proved against a manifest that was
// made before tarn saw a file. TARN_UC1_FILES and TARN_UC1_SIZE change what they move, TARN_UC1_FULL=1 takes the size that it was, TARN_UC1_DIR
// is where the folders of LAPALMA and of the GridFTP servers are (a disk that is fast enough, or tmpfs);
// the page goes to TARN_UC1_REPORT.
func TestUC1(t *testing.T) {
	which := os.Getenv("TARN_UC1")
	if which == "" {
		t.Skip("make uc1 runs it")
	}
	needXrdCl(t)
	r := report.Report{
		Title: "The long haul: from the telescope's disk to the data centres and tape", Time: time.Now(), Asked: asked, Facts: facts(),
		About: "Each test ran on real servers on this machine: a folder for LAPALMA, a GridFTP and an XRootD server for each of PIC and CNAF with credentials of their own, and a tape library at PIC. " +
			"A test passes when every file of a manifest made before it was seen is in the catalogue once, has its bytes at every place that the rules name, read at the servers' own folders and on the cartridges, " +
			"when nothing is left at the source and nothing else at the destinations, and when tarn ingest audit proves every deletion again. PIC over GridFTP is deterministic, all others are not.",
	}
	for _, c := range campaigns {
		if which != "all" && !strings.Contains(","+which+",", ","+c.name+",") {
			continue
		}
		c.files = number("TARN_UC1_FILES", c.files)
		c.size = int64(number("TARN_UC1_SIZE", int(c.size)))
		if os.Getenv("TARN_UC1_FULL") == "1" {
			c.size = c.full
		}
		t.Run(c.name, func(t *testing.T) {
			var row report.Test
			// A test that ends early is a row as well.
			defer func() {
				row.Name, row.Work, row.Before, row.Scaled = c.name, c.work, c.before, c.size < c.full
				if t.Failed() && row.Failed == "" {
					row.Failed = "it ended early; see what make uc1 printed"
				}
				r.Tests = append(r.Tests, row)
			}()
			c.run(t, &row)
			if row.Failed != "" {
				t.Error(row.Failed)
			}
			t.Logf("test %s: %s %d files, %.0f MB in %v: %.1f MB/s, %.0f files/s", c.name, row.Verdict(), row.Files, float64(row.Bytes)/1e6, row.Took.Round(time.Millisecond), row.BytesPerSecond()/1e6, row.FilesPerSecond())
		})
	}
	t.Logf("\n%s", r.Text())
	if name := os.Getenv("TARN_UC1_REPORT"); name != "" {
		f, err := os.Create(name)
		must(t, err)
		must(t, report.Write(f, r))
		must(t, f.Close())
	}
}

// window is how many files of full size are at the source at most.
const window = 4

// run runs the test; what is wrong is in the row.
func (c campaign) run(t *testing.T, row *report.Test) {
	o := haulOptions{xrootd: strings.HasSuffix(c.rses[0], "-XRD"), dirs: map[string]string{}}
	src := filepath.Join(t.TempDir(), "LAPALMA")
	if base := os.Getenv("TARN_UC1_DIR"); base != "" {
		dir, err := os.MkdirTemp(base, "tarn-uc1-")
		must(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		must(t, os.Chmod(dir, 0o755)) // the servers are not root's
		src = filepath.Join(dir, "LAPALMA")
		for _, rse := range []string{"PIC-DISK", "CNAF-DISK"} {
			o.dirs[rse] = filepath.Join(dir, rse)
			must(t, os.Mkdir(o.dirs[rse], 0o755))
		}
	}
	must(t, os.Mkdir(src, 0o755))
	h := newHaul(t, o)
	h.mount()
	name := "test" + strings.ReplaceAll(c.name, ".", "-")
	h.watchDir(name, src, "/ctao/dl0", c.rules...)
	m := newManifest(src, "/ctao/dl0")
	full := c.size >= 100_000_000
	began := time.Now()
	writing, changed := make(chan error, 1), make(chan struct{})
	checked := &expiry{h: h, m: m, rse: c.rses[0]}
	go func() {
		for i := range c.files {
			if c.change && i == c.files*3/4 {
				<-changed // however fast the others are, some come to the new hosts
			}
			if err := m.add(i, c.size, !full); err != nil {
				writing <- err
				return
			}
			for full && t.Context().Err() == nil {
				left, err := regular(m.dir)
				if err == nil {
					err = checked.look(left)
				}
				if err != nil {
					writing <- err
					return
				}
				if len(left) < window {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		writing <- nil
	}()
	var err error
	if c.change {
		err = c.changed(h, name, row, sync.OnceFunc(func() { close(changed) }))
	}
	if err == nil {
		err = h.gone(name, c.files, 3*time.Minute)
	}
	if werr := <-writing; werr != nil {
		err = werr
	}
	took := time.Since(began)
	st := h.ingest(name)
	records, rerr := h.records(name)
	if rerr != nil {
		t.Errorf("records: %v", rerr)
	}
	got, rerr := report.Of(st, nil, func() iter.Seq2[ingest.Record, error] {
		return func(yield func(ingest.Record, error) bool) {
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
			}
		}
	})
	if rerr != nil {
		t.Errorf("report: %v", rerr)
	}
	got.Notes = row.Notes
	*row = got
	row.Files, row.Bytes, row.Safe, row.Deleted, row.Took = int64(c.files), m.bytes(), st.Safe.Files, st.Deleted.Files, took
	if err == nil && full {
		err = checked.all(c.files)
		row.Notes = append(row.Notes, "Files were made as they were taken; each was compared at the destination with the bytes that were made, and then removed there, so that the disk held a window. The rate includes making and comparing them.")
	} else if err == nil {
		err = h.proof(name, m, c.rses...)
	}
	row.Notes = append(row.Notes, fmt.Sprintf("%d transfers, %d of them failed and were made again; the daemon had %d MiB in memory at the end.", st.Attempts, st.Failures, h.rss()>>20))
	if err != nil {
		row.Failed = err.Error()
	}
	h.umount("--now", "--force")
}

// changed replaces the authority when half of the files have gone, and lets the new one come after a pause in which nothing moves.
func (c campaign) changed(h *haul, name string, row *report.Test, goOn func()) error {
	defer goOn()
	if err := h.gone(name, c.files/2, 3*time.Minute); err != nil {
		return err
	}
	pid := h.served()
	next := h.changeHosts()
	goOn()
	// What was under way comes to its end, and then nothing does.
	last := int64(-1)
	for at := h.ingest(name).Safe.Files; at != last; at = h.ingest(name).Safe.Files {
		last = at
		time.Sleep(5 * time.Second)
	}
	if last >= int64(c.files) {
		return fmt.Errorf("all files were safe before the authority changed")
	}
	time.Sleep(5 * time.Second)
	if st := h.ingest(name); st.Safe.Files != last {
		return fmt.Errorf("%d files came to hosts whose authority nobody trusts", st.Safe.Files-last)
	}
	h.trust(next)
	h.pki.CA.Distrust(h.t, h.pki.Certificates)
	began := time.Now()
	if _, err := h.progress(name, 3*time.Minute, func(st ingest.Status) bool { return st.Safe.Files > last }); err != nil {
		return fmt.Errorf("after the new authority has come: %w", err)
	}
	if now := h.served(); now != pid {
		return fmt.Errorf("the daemon was restarted")
	}
	row.Notes = append(row.Notes, fmt.Sprintf("The hosts changed to another authority with %d files safe, and nothing moved. %v after it came to X509_CERT_DIR, and the old one had gone, transfers went on by themselves, in the same process.", last, time.Since(began).Round(100*time.Millisecond)))
	return nil
}

// expiry lets replicas end at a destination, each after it was compared with what was made.
type expiry struct {
	h    *haul
	m    *manifest
	rse  string
	seen map[int]bool
}

// look compares and removes what has gone from the source.
func (e *expiry) look(left []string) error {
	if e.seen == nil {
		e.seen = map[int]bool{}
	}
	still := map[string]bool{}
	for _, p := range left {
		still[p] = true
	}
	dir := e.h.servers[e.rse].Dir
	files, err := regular(dir)
	if err != nil {
		return err
	}
	for _, p := range files {
		if strings.Contains(p, ".tarn-uploads") {
			continue
		}
		var run, part int
		if _, err := fmt.Sscanf(filepath.Base(p), "LST1.Run%d.%d.", &run, &part); err != nil {
			return fmt.Errorf("%s has %s, which nobody made", e.rse, p)
		}
		name := fileName(run*100 + part)
		e.m.mu.Lock()
		f, ok := e.m.files[name]
		e.m.mu.Unlock()
		switch {
		case !ok:
			return fmt.Errorf("%s has %s, which nobody made", e.rse, p)
		case still[name]:
			continue
		case e.seen[f.index]:
			return fmt.Errorf("%s came twice", name)
		}
		if err := same(filepath.Join(dir, p), f.index, f.size); err != nil {
			return err
		}
		e.seen[f.index] = true
		if err := os.Remove(filepath.Join(dir, p)); err != nil {
			return err
		}
	}
	return nil
}

// all wants every file to have been seen.
func (e *expiry) all(n int) error {
	left, err := regular(e.m.dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%d files are left at the source", len(left))
	}
	if err := e.look(nil); err != nil {
		return err
	}
	if len(e.seen) != n {
		return fmt.Errorf("%d of %d files came to %s", len(e.seen), n, e.rse)
	}
	return nil
}

// facts are what a rate depends on.
func facts() (out []report.Fact) {
	version, _ := exec.Command(tarn, "version").Output()
	first, _, _ := strings.Cut(string(version), "\n")
	out = append(out, report.Fact{Name: "tarn", Value: first}, report.Fact{Name: "go", Value: runtime.Version()})
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "model name" {
				out = append(out, report.Fact{Name: "machine", Value: fmt.Sprintf("%d × %s", runtime.NumCPU(), strings.TrimSpace(v))})
				break
			}
		}
	}
	for _, p := range []struct{ name, bin, flag string }{{"GridFTP server", "/usr/sbin/globus-gridftp-server", "-version"}, {"XRootD server", "xrootd", "-v"}} {
		if b, err := exec.Command(p.bin, p.flag).CombinedOutput(); err == nil {
			first, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
			out = append(out, report.Fact{Name: p.name, Value: first})
		}
	}
	return out
}
