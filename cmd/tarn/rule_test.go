package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/replication"
	"tarn/cmd/tarn/control"
)

func decodeOne[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return v
}

// What a rule says of its transfers is checked, kept and shown.
func TestRuleSaysHowCopiesAreMade(t *testing.T) {
	c := newDemoLake(t)
	id := strings.TrimSpace(c.ok("rule", "add", "/ctao/dl3", "CNAF-DISK", "--source", "PIC-DISK | LAPALMA-DISK", "--activity", "raw data", "--priority", "5", "--grouping", "all", "--comment", "second copy"))
	r := decodeOne[control.RuleEntry](t, c.ok("--json", "rule", "ls", "/ctao/dl3"))
	if string(r.ID) != id || r.Source != "PIC-DISK|LAPALMA-DISK" || r.Activity != "raw data" || r.Priority != 5 || r.Grouping != backends.GroupAll || r.Comment != "second copy" {
		t.Errorf("rule is %+v", r)
	}
	if out := c.ok("rule", "ls"); !strings.Contains(out, "(from PIC-DISK|LAPALMA-DISK, activity raw data, priority 5, grouping ALL, comment second copy)") {
		t.Errorf("for people:\n%s", out)
	}
	if again := strings.TrimSpace(c.ok("rule", "add", "/ctao/dl3", "CNAF-DISK", "--source", "PIC-DISK|LAPALMA-DISK", "--priority", "2")); again != id {
		t.Errorf("the same rule again is %s", again)
	}
	if r := decodeOne[control.RuleEntry](t, c.ok("--json", "rule", "ls", "/ctao/dl3")); r.Priority != 2 || r.Activity != "raw data" {
		t.Errorf("rule is %+v", r)
	}
	if other := strings.TrimSpace(c.ok("rule", "add", "/ctao/dl3", "CNAF-DISK")); other == id {
		t.Error("a rule without a source is the same")
	}
	for says, args := range map[string][]string{
		"want 1 to 5, not 6":                     {"--priority", "6"},
		"want 1 to 5, not 0":                     {"--priority", "0"},
		`grouping "SOME" is not`:                 {"--grouping", "some"},
		`source "X" matches none`:                {"--source", "X"},
		"source: ":                               {"--source", "(("},
		"have a number above 0 as quick":         {"--weight", "quick"},
		"an activity or weight of several lines": {"--activity", "a\nb"},
		"a lifetime that is not negative":        {"--copies", "0"},
		"--lifetime":                             {"--lifetime", "soon"},
	} {
		for _, op := range []string{"add", "simulate"} {
			c.fails(control.CodeUsage, []string{says}, append([]string{"rule", op, "/ctao/dl3", "CNAF-DISK"}, args...)...)
		}
	}
}

// Explain and simulate tell how it stands, and change nothing.
func TestRuleExplainAndSimulate(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"x/a": strings.Repeat("a", 5000), "x/b": "b"})
	c.ok("import", filepath.Join(src, "x"), "/ctao/x", "--rse", "PIC-DISK")
	before := c.ok("--json", "rule", "ls")

	sim := decodeOne[replication.Simulated](t, c.ok("--json", "rule", "simulate", "/ctao/x", "CNAF-DISK"))
	if sim.Files != 2 || sim.Bytes != 5001 || sim.There != 0 || len(sim.Links) != 1 || sim.Links[0].From != "PIC-DISK" || sim.Links[0].To != "CNAF-DISK" || sim.Links[0].Files != 2 || sim.Links[0].Bytes != 5001 {
		t.Errorf("simulated: %+v", sim)
	}
	if sim := decodeOne[replication.Simulated](t, c.ok("--json", "rule", "simulate", "/ctao/x", "PIC-DISK")); sim.There != 2 || len(sim.Links) != 0 {
		t.Errorf("simulated: %+v", sim)
	}
	if out := c.ok("rule", "simulate", "/ctao/x", "CNAF-DISK", "--source", "LAPALMA-DISK"); !strings.Contains(out, "2 files") || !strings.Contains(out, "waits for a copy at LAPALMA-DISK") || !strings.Contains(out, "nothing would be copied now") {
		t.Errorf("for people:\n%s", out)
	}
	if out := c.ok("rule", "simulate", "/ctao/x", "CNAF-DISK"); !strings.Contains(out, "PIC-DISK") || !strings.Contains(out, "0 have all copies already") {
		t.Errorf("for people:\n%s", out)
	}
	if after := c.ok("--json", "rule", "ls"); after != before {
		t.Errorf("there were rules\n%s\nand now\n%s", before, after)
	}
	if out := c.ok("replicas", "/ctao/x"); strings.Contains(out, "CNAF") {
		t.Errorf("it was copied:\n%s", out)
	}

	id := strings.TrimSpace(c.ok("rule", "add", "/ctao/x", "CNAF-DISK", "--source", "LAPALMA-DISK"))
	x := decodeOne[control.RuleExplained](t, c.ok("--json", "rule", "explain", id))
	if x.Files != 2 || x.Lacking != 2 || len(x.First) != 2 || x.First[0].Missing != 1 || len(x.RSEs) != 1 || x.RSEs[0].RSE != "CNAF-DISK" || strings.Join(x.First[0].Why, "") != "waits for a copy at LAPALMA-DISK" {
		t.Errorf("explained: %+v", x)
	}
	out := c.ok("rule", "explain", "/ctao/x/a")
	for _, want := range []string{id, "1 file at /ctao/x/a", "1 more wanted, has none", "waits for a copy at LAPALMA-DISK", "CNAF-DISK has 0 files"} {
		if !strings.Contains(out, want) {
			t.Errorf("for people, without %q:\n%s", want, out)
		}
	}
	c.ok("rule", "add", "/ctao/x", "CNAF-DISK")
	if out := c.ok("rule", "explain", "--files", "1", "/ctao/x"); !strings.Contains(out, "the next look asks for a copy to CNAF-DISK from PIC-DISK") || !strings.Contains(out, "and 1 more") {
		t.Errorf("for people:\n%s", out)
	}
	c.fails(control.CodeNoFile, []string{"there is no rule"}, "rule", "explain", strings.Repeat("ab", 16))
	c.fails(control.CodeNothing, []string{"no rule is on /ctao/dl1"}, "rule", "explain", "/ctao/dl1")
	c.fails(control.CodeFatal, []string{"no daemon"}, "transfers", "retry")
}

// Copies of a mounted lake are listed, called off and asked for again.
func TestTransfersByHand(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"x/a": strings.Repeat("a", 5000)})
	c.ok("import", filepath.Join(src, "x"), "/ctao/x", "--rse", "PIC-DISK")
	c.ok("rule", "add", "/ctao/x", "CNAF-DISK", "--source", "LAPALMA-DISK")
	m := mountLake(t, c)
	within := func(what string, args []string, want string) {
		t.Helper()
		out := ""
		for range 600 {
			if out = m.ok(args...); strings.Contains(out, want) {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("%s: %v gives\n%s", what, args, out)
	}
	within("it waits", []string{"transfers"}, "waits for a copy at LAPALMA-DISK")
	within("it is no failure", []string{"rule", "ls", "/ctao/x"}, "REPLICATING")
	if out := m.ok("transfers", "priority", "/ctao/x", "5"); !strings.Contains(out, "0 copies changed") {
		t.Errorf("priority says %q", out)
	}
	m.fails(control.CodeUsage, []string{"want 1 to 5"}, "transfers", "priority", "/ctao/x", "9")
	m.fails(control.CodeUsage, []string{"there is no RSE X"}, "transfers", "cancel", "/ctao/x", "--to", "X")
	if out := m.ok("transfers", "cancel", "/ctao/x"); !strings.Contains(out, "1 copy cancelled") {
		t.Errorf("cancel says %q", out)
	}
	within("it is cancelled", []string{"transfers", "ls"}, "CANCELLED")
	within("so the rule is stuck", []string{"rule", "ls", "/ctao/x"}, "STUCK")
	if out := m.ok("rule", "explain", "/ctao/x"); !strings.Contains(out, "cancelled") {
		t.Errorf("explain says\n%s", out)
	}
	if out := m.ok("transfers", "retry", "/ctao/x"); !strings.Contains(out, "1 copy asked for") {
		t.Errorf("retry says %q", out)
	}
	within("it waits again", []string{"transfers"}, "waits for a copy at LAPALMA-DISK")
	m.ok("rule", "add", "/ctao/x", "LAPALMA-DISK") // the first copy, from which the second is made
	within("both are made", []string{"replicas", "/ctao/x"}, "CNAF-DISK")
	m.ok("umount", m.point)
}
