package integration

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fsckRow is one line of `tarn fsck --json`.
type fsckRow struct {
	Kind, What, RSE, PFN, Path, Detail string
	Repaired, Lost                     bool
	Files, Problems                    int
	Backup                             struct {
		Files, Whole, Newer, Named int
		Restored                   bool
	}
}

// fsck runs it and gives its rows, the summary last.
func (s *site) fsck(code int, args ...string) (rows []fsckRow, sum fsckRow) {
	s.t.Helper()
	r := s.try(append([]string{"fsck", "--json"}, args...)...)
	if r.code != code {
		s.t.Fatalf("fsck %v: exit %d, want %d\n%s%s", args, r.code, code, r.out, r.err)
	}
	dec := json.NewDecoder(strings.NewReader(r.out))
	for dec.More() {
		var x fsckRow
		if err := dec.Decode(&x); err != nil {
			s.t.Fatal(err)
		}
		rows = append(rows, x)
	}
	if len(rows) == 0 || rows[len(rows)-1].Kind != "summary" {
		s.t.Fatalf("fsck %v has no summary:\n%s", args, r.out)
	}
	return rows[:len(rows)-1], rows[len(rows)-1]
}

// of gives the rows of one kind of finding.
func of(rows []fsckRow, what string) (out []fsckRow) {
	for _, r := range rows {
		if r.What == what {
			out = append(out, r)
		}
	}
	return out
}

// copiesAt gives the paths of the files at a disk RSE whose names begin with base.
func (s *site) copiesAt(rse, base string) (out []string) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.dir, "rse", rse), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(d.Name(), base+".") {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// oneDisk is a lake whose files have one copy each, at LAPALMA-DISK or PIC-DISK.
const oneDisk = crashLake + "write_rules: [{copies: 1, expression: LAPALMA-DISK}]\n"

// write makes a lake of these files, and unmounts it.
func (s *site) write(names ...string) {
	s.t.Helper()
	s.mount()
	for i, n := range names {
		p := s.path("ctao", n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(p, content(uint64(i)+77, 50_000+i), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	s.umount()
}

// Every fault of the storages is told, and nothing of a lake without one.
func TestFsckFindsWhatIsWrong(t *testing.T) {
	s := newSite(t, oneDisk)
	s.write("d/good", "d/missing", "d/short", "d/flipped")
	if rows, sum := s.fsck(0); sum.Files != 4 || sum.Problems != 0 {
		t.Fatalf("a sound lake: %+v\n%+v", sum, rows)
	}
	s.fsck(0, "--deep")
	one := func(base string) string {
		c := s.copiesAt("LAPALMA-DISK", base)
		if len(c) != 1 {
			t.Fatalf("%d copies of %s", len(c), base)
		}
		return c[0]
	}
	if err := os.Remove(one("missing")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(one("short"), 100); err != nil {
		t.Fatal(err)
	}
	flip(t, one("flipped"), 1000)
	if err := os.WriteFile(filepath.Join(s.dir, "rse/LAPALMA-DISK/stray"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	rows, sum := s.fsck(13)
	if len(of(rows, "replica_missing")) != 1 || len(of(rows, "replica_damaged")) != 1 || len(of(rows, "file_lost")) != 2 || len(of(rows, "unknown_copy")) != 1 || sum.Problems != 4 {
		t.Errorf("%+v\n%+v", sum, rows)
	}
	rows, _ = s.fsck(13, "--deep")
	if d := of(rows, "replica_damaged"); len(d) != 2 || !slices.ContainsFunc(d, func(r fsckRow) bool { return r.Path == "/ctao/d/flipped" }) {
		t.Errorf("--deep: %+v", rows)
	}
	s.fsck(13, "--deep", "--repair")
	if out := s.ok("replicas", "/ctao/d/flipped"); !strings.Contains(out, "BAD") {
		t.Errorf("after --repair:\n%s", out)
	}
	if r := s.try("fsck"); r.code != 13 || !strings.Contains(r.out, "file lost \"/ctao/d/missing\"") && !strings.Contains(r.out, "file lost /ctao/d/missing") {
		t.Errorf("for people: exit %d\n%s%s", r.code, r.out, r.err)
	}
	s.mount()
	if r := s.try("fsck"); r.code != 7 || !strings.Contains(r.err, "tarn umount") {
		t.Errorf("of a mounted lake: exit %d\n%s", r.code, r.err)
	}
}

// A lake whose catalogue is lost has a backup's files again, and those that are newer and
// can be named; what has no name is listed with its place.
func TestFsckAfterTheCatalogueIsLost(t *testing.T) {
	s := newSite(t, oneDisk)
	s.write("d/one", "d/two", "d/replaced")
	backup := filepath.Join(filepath.Dir(s.dir), "b.tarncat")
	s.ok("catalogue", "backup", backup)
	s.mount()
	s.sh("echo newer > ctao/d/three && mkdir ctao/new && echo nameless > ctao/new/four && echo second > ctao/d/replaced")
	s.umount()
	s.mount()
	// What was replaced goes when its grace has ended.
	s.within(time.Minute, "reaped", func() bool { return len(s.copiesAt("LAPALMA-DISK", "replaced")) == 1 })
	s.umount()
	manifest := filepath.Join(s.dir, "catalogue/db/MANIFEST")
	if err := os.WriteFile(manifest, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ls", "/"}, {"mount", s.dir, s.mnt}, {"catalogue", "backup", backup + "2"}, {"replicas", "/ctao/d/one"}} {
		if r := s.try(args...); r.code != 7 || !strings.Contains(r.err, "tarn fsck") {
			t.Errorf("%v with a damaged catalogue: exit %d\n%s", args, r.code, r.err)
		}
	}
	rows, _ := s.fsck(13)
	if d := of(rows, "catalogue_tells"); len(d) != 1 || !strings.Contains(d[0].Detail, "MANIFEST") {
		t.Errorf("what is damaged: %+v", d)
	}
	if len(of(rows, "catalogue_damaged")) != 1 || len(of(rows, "unknown_copy")) != 5 {
		t.Errorf("without a backup: %+v", rows)
	}
	rows, sum := s.fsck(13, "--backup", backup)
	if b := sum.Backup; b.Files != 3 || b.Whole != 2 || b.Newer != 3 || b.Named != 2 || b.Restored {
		t.Errorf("with a backup: %+v\n%+v", sum, rows)
	}
	if b, err := os.ReadFile(manifest); err != nil || string(b) != "damaged" {
		t.Errorf("without --repair the catalogue was changed: %q, %v", b, err)
	}
	rows, sum = s.fsck(0, "--backup", backup, "--repair")
	if b := sum.Backup; !b.Restored || sum.Files != 4 {
		t.Errorf("repair: %+v\n%+v", sum, rows)
	}
	left := 0
	for _, r := range of(rows, "unknown_copy") {
		if !r.Repaired {
			left++
			if !strings.Contains(r.PFN, "four.") || r.RSE != "LAPALMA-DISK" {
				t.Errorf("left: %+v", r)
			}
		}
	}
	if left != 1 {
		t.Errorf("%d copies are left: %+v", left, rows)
	}
	s.fsck(0, "--deep")
	s.mount()
	if got := s.sh("cat ctao/d/three ctao/d/replaced"); got != "newer\nsecond\n" {
		t.Errorf("the newer files: %q", got)
	}
	if got := fileSize(t, s.path("ctao/d/one")); got != 50_000 {
		t.Errorf("one has %d bytes", got)
	}
	s.umount()
}

func fileSize(t *testing.T, p string) int {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return len(b)
}

// Copies on tape are found again, too, though they are not read.
func TestFsckFindsCopiesOnTape(t *testing.T) {
	s := newSite(t, crashLake)
	s.write("d/one")
	backup := filepath.Join(filepath.Dir(s.dir), "b.tarncat")
	s.ok("catalogue", "backup", backup)
	s.mount()
	s.sh("echo newer > ctao/d/two")
	s.umount()
	s.taped("/ctao/d")
	if err := os.Remove(filepath.Join(s.dir, "catalogue/db/MANIFEST")); err != nil {
		t.Fatal(err)
	}
	s.fsck(0, "--repair", "--backup", backup)
	if out := s.ok("replicas", "/ctao/d/two"); strings.Count(out, "AVAILABLE") != 2 || !strings.Contains(out, "PIC-TAPE") {
		t.Errorf("copies of the newer file:\n%s", out)
	}
}

// What the journal keeps is told: what waits, and what recovery could make nothing of.
func TestFsckListsTheJournal(t *testing.T) {
	s := newSite(t, "journal: {delay: 1h}\n")
	s.mount()
	s.sh("echo unsent > ctao/u")
	s.ok("umount", "--now", "--force", s.mnt)
	<-s.exited
	s.daemon = nil
	orphan := filepath.Join(s.dir, "journal", "0123456789abcdef01234567.data")
	if err := os.WriteFile(orphan, []byte("nobody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	rows, _ := s.fsck(0)
	if u := of(rows, "unsent"); len(u) != 1 || u[0].Path != "/ctao/u" || u[0].Detail != "SEALED" {
		t.Errorf("unsent: %+v", rows)
	}
	if o := of(rows, "orphan"); len(o) != 1 || !strings.Contains(o[0].Path, "orphans/0123456789abcdef01234567.data") || o[0].Detail == "" {
		t.Errorf("orphans: %+v", rows)
	}
}
