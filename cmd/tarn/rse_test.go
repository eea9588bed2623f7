package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/cmd/tarn/control"
)

func (c tester) usage(rse string) (u control.RSEUsage) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.ok("rse", "usage", rse, "--json")), &u); err != nil {
		c.t.Fatal(err)
	}
	return u
}

func TestRSEUsageAndSet(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"a": "aaaa", "b": "bbbbb", "c": "cccccc"})
	c.ok("import", src, "/ctao/x", "--rse", "PIC-DISK")
	writeTree(t, src, map[string]string{"d": "d"})
	c.ok("import", src, "/ctao/x", "--rse", "CNAF-DISK")
	c.ok("rule", "add", "/ctao/x/a", "PIC-DISK")
	c.ok("rule", "add", "/ctao/x/a", "PIC-DISK|CNAF-DISK", "--lifetime", "1h")
	c.ok("rule", "add", "/ctao/x/b", "PIC-DISK", "--lifetime", "1h")
	u := c.usage("PIC-DISK")
	if u.All != (control.Held{Files: 3, Bytes: 15}) || u.States[backends.Available].Files != 3 || u.Total == 0 ||
		u.Expiring != (control.Held{Files: 1, Bytes: 5}) || u.Unlocked != (control.Held{Files: 1, Bytes: 6}) || u.Only.Files != 0 {
		t.Errorf("usage %+v", u)
	}
	if u := c.usage("CNAF-DISK"); u.Only != (control.Held{Files: 1, Bytes: 1}) || u.Expiring.Bytes != 4 || u.Unlocked.Files != 3 {
		t.Errorf("usage %+v", u)
	}
	if out := c.ok("rse", "usage"); !strings.Contains(out, "unlocked") || strings.Count(out, "\n") != 5 {
		t.Errorf("rse usage gives\n%s", out)
	}

	c.ok("rse", "set", "PIC-DISK", "country=PT", "tier=1", "read_only=true", "high=90%")
	if out := c.ok("rse", "ls"); !strings.Contains(out, "country=PT tier=1 (read-only)") {
		t.Errorf("rse ls gives\n%s", out)
	}
	if out := c.ok("config", "show", c.lake); !strings.Contains(out, "country: PT") || !strings.Contains(out, "high: 90%") || !strings.Contains(out, "low: 81%") {
		t.Errorf("config show gives\n%s", out)
	}
	if out := c.ok("rule", "add", "/ctao/x/c", "tier=1"); out == "" {
		t.Error("a rule does not find the new attribute")
	}
	c.ok("rse", "set", "PIC-DISK", "country=", "tier=", "read_only=", "high=")
	if b, err := os.ReadFile(filepath.Join(c.lake, "lake.local.yaml")); err != nil || strings.Contains(string(b), "PIC-DISK") {
		t.Errorf("left: %s, %v", b, err)
	}
	c.fails(control.CodeNoFile, []string{"no RSE NONE"}, "rse", "set", "NONE", "a=b")
	c.fails(control.CodeUsage, []string{"high", "nothing was written"}, "rse", "set", "PIC-DISK", "high=200%")
	c.fails(control.CodeUsage, []string{"KEY=VALUE"}, "rse", "set", "PIC-DISK", "high")
	c.fails(control.CodeUsage, []string{"name an RSE"}, "rse", "drain", "--wait")

	c.fails(control.CodeUsage, []string{"drain_to", "nothing was written"}, "rse", "drain", "PIC-DISK", "--to", "(")
	c.fails(control.CodeUsage, []string{"matches no other RSE"}, "rse", "drain", "PIC-DISK", "--to", "NOWHERE")
	c.fails(control.CodeUsage, []string{"matches no other RSE"}, "rse", "drain", "PIC-DISK", "--to", "PIC-DISK")
	if out := c.ok("rse", "drain", "PIC-DISK", "--status"); !strings.Contains(out, "not drained") {
		t.Errorf("a drain that was refused is begun: %q", out)
	}

	out := c.ok("rse", "drain", "PIC-DISK", "--to", "CNAF-DISK")
	if !strings.Contains(out, "waits for a mount") || !strings.Contains(out, "3") {
		t.Errorf("drain says %q", out)
	}
	c.fails(control.CodeFatal, []string{"3 replicas"}, "rse", "drain", "PIC-DISK", "--wait")
	c.ok("rse", "drain", "PIC-DISK", "--stop")
	if out := c.ok("rse", "drain", "PIC-DISK", "--status"); !strings.Contains(out, "not drained") {
		t.Errorf("status says %q", out)
	}
}

// TestCareOfAMountedLake: while files are written and renamed a check finds nothing; then an RSE is drained, and another
// kept below its mark; settings survive the daemon.
func TestCareOfAMountedLake(t *testing.T) {
	m := mountDemo(t)
	dir := filepath.Join(m.point, "ctao", "live")
	if err := os.MkdirAll(filepath.Join(dir, "to"), 0o755); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 400 {
			name := fmt.Sprint("f", i)
			if i < 40 {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(name, 100)), 0o644); err != nil {
					t.Error(err)
				}
			}
			from, to := filepath.Join(dir, fmt.Sprint("f", i%40)), filepath.Join(dir, "to", fmt.Sprint("f", i%40))
			if i%80 >= 40 {
				from, to = to, from
			}
			if err := os.Rename(from, to); err != nil && i > 80 {
				t.Error(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	for range 4 {
		rows, _ := m.checked(0, "check", "--rse", "*", "--grace", "0")
		m.same(rows)
		rows, _ = m.checked(0, "repair", "--rse", "rse_type=DISK", "--grace", "0", "--deep", "--delete-dark")
		m.same(rows)
	}
	wg.Wait()
	waitFor(t, func() bool { return m.usage("PIC-TAPE").All.Files == 40 && m.usage("PIC-TAPE").Unverified.Files == 0 })

	// The write rule wants one copy at a disk in ES. Where it is is drained, and the other one gets it.
	from := "LAPALMA-DISK"
	if m.usage(from).All.Files == 0 {
		from = "PIC-DISK"
	}
	had := m.usage(from).All.Files
	m.ok("rse", "drain", from, "--wait")
	other := map[string]string{"LAPALMA-DISK": "PIC-DISK", "PIC-DISK": "LAPALMA-DISK"}[from]
	if u, v := m.usage(from), m.usage(other); u.All.Files != 0 || v.All.Files != 40 || u.Care == nil || u.Care.Removed != had {
		t.Errorf("%s has %+v, %s has %+v", from, u, other, v)
	}
	if out := m.ok("status"); !strings.Contains(out, from+": drained: 0 replicas left") {
		t.Errorf("status says\n%s", out)
	}
	m.ok("umount", m.point)
	m.mount()
	if err := os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return m.usage(other).All.Files == 41 })
	if u := m.usage(from); u.All.Files != 0 {
		t.Errorf("after a restart copies go to the drained RSE: %+v", u)
	}
	m.ok("rse", "drain", from, "--stop")

	// Copies at CNAF that no rule needs, above its mark.
	id := strings.TrimSpace(m.ok("rule", "add", "/ctao/live", "CNAF-DISK"))
	waitFor(t, func() bool { return m.usage("CNAF-DISK").All.Files == 41 })
	m.ok("rse", "set", "CNAF-DISK", "high=2K", "low=1K", "grace=1ms")
	m.ok("rule", "rm", id)
	m.ok("rse", "set", "CNAF-DISK", "high=2K") // a look now
	waitFor(t, func() bool {                   // the engine may have been at the rule that was removed, and have copied anew
		u := m.usage("CNAF-DISK")
		return u.Care != nil && u.Care.RemovedBytes >= 11003-1024
	}, func() string { return m.ok("rse", "usage", "CNAF-DISK", "--json") })
	if out := m.ok("rse", "usage", "CNAF-DISK"); !strings.Contains(out, "high 2.0 KiB, low 1.0 KiB") || !strings.Contains(out, "deleted") {
		t.Errorf("rse usage says\n%s", out)
	}
	rows, _ := m.checked(0, "check", "--rse", "*", "--deep", "--grace", "0")
	m.same(rows)

	// What was removed lies there, too, until its grace period ends.
	if err := os.Remove(filepath.Join(dir, "new")); err != nil {
		t.Fatal(err)
	}
	var d control.RSEDrain
	waitFor(t, func() bool {
		if err := json.Unmarshal([]byte(m.ok("rse", "drain", other, "--status", "--json")), &d); err != nil {
			t.Fatal(err)
		}
		return d.Past == control.Held{Files: 1, Bytes: 3} && d.Left.Files == 40
	})
	if out := m.ok("rse", "drain", other, "--status"); !strings.Contains(out, "1 removed or replaced") {
		t.Errorf("status says\n%s", out)
	}
	m.ok("umount", m.point)
}

// waitFor waits for what comes true by itself.
func waitFor(t *testing.T, ok func() bool, why ...func() string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			for _, w := range why {
				t.Log(w())
			}
			t.Fatal("it does not come true")
		}
	}
}
