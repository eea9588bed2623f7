package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/cmd/tarn/control"
)

// checked runs a check with --json and gives its findings as "what RSE path", and the summary.
func (c tester) checked(code int, args ...string) (rows []string, sum control.CheckReply) {
	c.t.Helper()
	out, errw, err := c.run(append([]string{"replicas", "--json"}, args...)...)
	got := 0
	if err != nil {
		var said strings.Builder
		got = report(&said, err, false)
		errw += said.String()
	}
	if got != code {
		c.t.Errorf("replicas %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, errw)
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var x struct {
			control.CheckEntry
			Summary *control.CheckReply `json:"summary"`
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			c.t.Fatalf("%q: %v", line, err)
		}
		if x.Summary != nil {
			sum = *x.Summary
			continue
		}
		at := string(x.Path)
		if at == "" {
			at = string(x.PFN)
		}
		word := x.What
		if x.Repaired {
			word += "!"
		}
		rows = append(rows, strings.TrimSpace(word+" "+x.RSE+" "+at))
	}
	slices.Sort(rows)
	return rows, sum
}

// pfn gives the file of a copy.
func (c tester) pfn(path, rse string) string {
	c.t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(c.ok("replicas", "--json", path)), "\n") {
		var r control.ReplicaEntry
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			c.t.Fatal(err)
		}
		if r.RSE == rse {
			return filepath.Join(c.lake, "rse", rse, string(r.PFN))
		}
	}
	c.t.Fatalf("no copy of %s at %s", path, rse)
	return ""
}

func (c tester) same(got []string, want ...string) {
	c.t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		c.t.Errorf("found\n   %s\nwant\n   %s", strings.Join(got, "\n   "), strings.Join(want, "\n   "))
	}
}

func TestReplicasCheckAndRepair(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"a": "aaaa", "b": "bbbb", "c": "cccc", "d/e": "eeee", "d/f": "ffff"})
	c.ok("import", src, "/ctao/x", "--rse", "PIC-DISK")
	c.ok("import", src, "/ctao/x", "--rse", "CNAF-DISK")
	disks := []string{"--rse", "rse_type=DISK"}
	rows, sum := c.checked(0, append([]string{"check", "--deep"}, disks...)...)
	c.same(rows)
	if sum.Good != 10 || sum.Replicas != 10 || sum.Files != 10 || sum.RSEs != 3 {
		t.Errorf("summary %+v", sum)
	}
	if got := c.ok("replicas", "/ctao/x/a"); got != c.ok("replicas", "ls", "/ctao/x/a") || !strings.Contains(got, "CNAF-DISK") {
		t.Errorf("replicas PATH gives %q", got)
	}

	// One is lost, one is cut, one is flipped, of one nothing is left; and there is a file that nobody knows.
	old := time.Now().Add(-2 * time.Hour)
	for _, p := range []string{c.pfn("/ctao/x/a", "PIC-DISK"), c.pfn("/ctao/x/d/f", "PIC-DISK"), c.pfn("/ctao/x/d/f", "CNAF-DISK")} {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(c.pfn("/ctao/x/b", "CNAF-DISK"), []byte("bb"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.pfn("/ctao/x/c", "CNAF-DISK"), []byte("XXXX"), 0o644); err != nil {
		t.Fatal(err)
	}
	writeTree(t, filepath.Join(c.lake, "rse", "PIC-DISK"), map[string]string{"old": "1", "new": "2", ".tarn-uploads/z": "3"})
	for _, name := range []string{"old", ".tarn-uploads/z"} {
		if err := os.Chtimes(filepath.Join(c.lake, "rse", "PIC-DISK", name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	lost := []string{"lost PIC-DISK /ctao/x/a", "lost PIC-DISK /ctao/x/d/f", "lost CNAF-DISK /ctao/x/d/f", "lost CNAF-DISK /ctao/x/b", "gone  /ctao/x/d/f"}
	rows, _ = c.checked(control.CodeCorrupt, append([]string{"check"}, disks...)...)
	c.same(rows, append(lost, "dark PIC-DISK old")...)
	rows, _ = c.checked(control.CodeCorrupt, append([]string{"check", "--deep"}, disks...)...)
	c.same(rows, append(lost, "dark PIC-DISK old", "bad CNAF-DISK /ctao/x/c")...)
	rows, _ = c.checked(control.CodePartial, "check", "--rse", "PIC-DISK")
	c.same(rows, lost[0], lost[1], "dark PIC-DISK old")
	rows, _ = c.checked(control.CodePartial, "check", "--deep", "/ctao/x/a", "/ctao/x/c")
	c.same(rows, lost[0], "bad CNAF-DISK /ctao/x/c")

	// Repair declares, and leaves the dark one until it is told to; with copies at one RSE only nothing is deleted.
	rows, sum = c.checked(control.CodeCorrupt, append([]string{"repair", "--deep"}, disks...)...)
	c.same(rows, "lost! PIC-DISK /ctao/x/a", "lost! PIC-DISK /ctao/x/d/f", "lost! CNAF-DISK /ctao/x/d/f", "lost! CNAF-DISK /ctao/x/b",
		"gone  /ctao/x/d/f", "dark PIC-DISK old", "bad! CNAF-DISK /ctao/x/c")
	if got := c.ok("replicas", "/ctao/x/c"); !strings.Contains(got, "BAD") {
		t.Errorf("after repair: %s", got)
	}
	rows, _ = c.checked(control.CodeCorrupt, append([]string{"check"}, disks...)...)
	c.same(rows, "gone  /ctao/x/d/f", "dark PIC-DISK old")
	rows, _ = c.checked(control.CodeCorrupt, "repair", "--rse", "PIC-DISK", "--delete-dark", "--grace", "1h")
	c.same(rows, "dark! PIC-DISK old", "gone  /ctao/x/d/f")
	for name, there := range map[string]bool{"old": false, "new": true, ".tarn-uploads/z": true} {
		if _, err := os.Stat(filepath.Join(c.lake, "rse", "PIC-DISK", name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}

	// What comes back counts again.
	if err := os.WriteFile(c.pfn("/ctao/x/b", "CNAF-DISK"), []byte("bbbb"), 0o644); err != nil {
		t.Fatal(err)
	}
	rows, _ = c.checked(0, "repair", "/ctao/x/b")
	c.same(rows, "back! CNAF-DISK /ctao/x/b")
	rows, _ = c.checked(0, "check", "/ctao/x/b")
	c.same(rows)

	c.fails(control.CodeUsage, []string{"PATH, or --rse"}, "replicas", "check")
	c.fails(control.CodeNoFile, []string{"matches no RSE"}, "replicas", "check", "--rse", "NONE")
}

// TestReplicasOfADiskThatIsNotMounted: a storage without one of its copies is not believed.
func TestReplicasOfADiskThatIsNotMounted(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"a": "a", "b": "b", "c": "c", "d": "d", "e": "e"})
	c.ok("import", src, "/ctao/x", "--rse", "PIC-DISK")
	disk := filepath.Join(c.lake, "rse", "PIC-DISK")
	if err := os.Rename(disk, disk+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	rows, _ := c.checked(control.CodePartial, "repair", "--rse", "PIC-DISK")
	c.same(rows, "unavailable PIC-DISK")
	rows, _ = c.checked(control.CodeCorrupt, "repair", "--rse", "PIC-DISK", "--force")
	if len(rows) != 10 {
		t.Errorf("with --force: %q", rows)
	}
}
