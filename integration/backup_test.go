package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A backup of a mounted lake brings names, places and content back.
func TestCatalogueBackup(t *testing.T) {
	s := newSite(t, crashLake)
	s.mount()
	s.sh("mkdir -p ctao/b && echo one > ctao/b/one && echo two > ctao/b/two")
	s.drain()
	file := filepath.Join(filepath.Dir(s.dir), "b.tarncat")
	var info struct {
		Lake  string `json:"lake"`
		Files int    `json:"files"`
	}
	if err := json.Unmarshal([]byte(s.ok("catalogue", "backup", file, "--json")), &info); err != nil || info.Files != 2 || info.Lake == "" {
		t.Fatalf("%+v, %v", info, err)
	}
	if r := s.try("catalogue", "restore", file, "--force"); r.code != 7 || !strings.Contains(r.err, "unmount") {
		t.Errorf("restore of a mounted lake: exit %d\n%s", r.code, r.err)
	}
	s.sh("rm ctao/b/two && echo three > ctao/b/three")
	s.umount()

	// Without a daemon, to stdout: what it knows now.
	if b := s.ok("catalogue", "backup", "-"); !strings.HasPrefix(b, "tarn catalogue backup\n") {
		t.Errorf("to stdout: %.40q", b)
	}
	if r := s.try("catalogue", "restore", file); r.code != 1 || !strings.Contains(r.err, "--force") {
		t.Errorf("restore over a catalogue with files: exit %d\n%s", r.code, r.err)
	}
	cut := file + ".cut"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, b[:len(b)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.try("catalogue", "restore", "--force", cut); r.code != 13 {
		t.Errorf("restore of a backup that is cut short: exit %d\n%s", r.code, r.err)
	}
	if got := s.ok("ls", "/ctao/b"); got != "one\nthree\n" {
		t.Errorf("a refused restore changed the lake: %q", got)
	}
	var done struct {
		Aside string `json:"aside"`
	}
	if err := json.Unmarshal([]byte(s.ok("catalogue", "restore", "--force", file, "--json")), &done); err != nil || done.Aside == "" {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := os.Stat(done.Aside); err != nil {
		t.Error(err)
	}
	if got := s.ok("ls", "/ctao/b"); got != "one\ntwo\n" {
		t.Errorf("after the restore the lake has %q", got)
	}
	s.mount()
	if got := s.sh("cat ctao/b/one"); got != "one\n" {
		t.Errorf("one is %q", got)
	}
	s.umount()
}
