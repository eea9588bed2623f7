package vfs

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		in   string
		want procInfo
		ok   bool
	}{
		{"1234 (md5sum) R 1 1234 1234 34816 1234 4194304 1 0 0 0 0 0 0 0 20 0 1 0 555 1 1", procInfo{comm: "md5sum", tty: true, start: "555"}, true},
		{"1 (a) b) (c)) S 0 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 7 1 1", procInfo{comm: "a) b) (c)", start: "7"}, true},
		{"1 (x) S 0 1 1", procInfo{}, false},
		{"", procInfo{}, false},
		{"1 )x( S", procInfo{}, false},
		{"1 (x) S 0 1 1 tty -1 0 1 0 0 0 0 0 0 0 20 0 1 0 7 1 1", procInfo{}, false},
	} {
		if got, ok := parseStat(c.in); ok != c.ok || got != c.want {
			t.Errorf("parseStat(%q) = %+v %v, want %+v %v", c.in, got, ok, c.want, c.ok)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1234 (md5sum) R 1 1234 1234 34816 1234 4194304 1 0 0 0 0 0 0 0 20 0 1 0 555 1 1")
	f.Add("1 (a) b) (c)) S")
	f.Fuzz(func(t *testing.T, s string) { parseStat(s) })
}

// TestPolicyRules: the first rule whose conditions all hold decides.
func TestPolicyRules(t *testing.T) {
	p := newPolicy(DefaultPolicy(), time.Now)
	for _, c := range []struct {
		comm string
		tty  bool
		want Action
	}{
		{"updatedb", true, Refuse}, {"file", false, Refuse}, {"grep", false, Refuse}, {"grep", true, Recall}, {"md5sum", false, Recall}, {"python3", false, Recall},
	} {
		if got := p.action(procInfo{comm: c.comm, tty: c.tty}, 1000); got != c.want {
			t.Errorf("%s tty=%v: %s, want %s", c.comm, c.tty, got, c.want)
		}
	}
	uid := newPolicy(Policy{Rules: []Rule{{UID: []uint32{7}, Action: Refuse}}}, time.Now)
	if uid.action(procInfo{}, 7) != Refuse || uid.action(procInfo{}, 8) != Recall {
		t.Error("rules by uid")
	}
}

// TestPolicyBurst: many tiny reads hold a process back, the window forgets, and the
// process can be let through (R9).
func TestPolicyBurst(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait() // killed: the error is that
	}()
	pid := uint32(cmd.Process.Pid)
	for readable := false; !readable; { // exec has happened
		info, ok := readProc(pid)
		readable = ok && info.comm == "sleep"
	}
	now := time.Unix(1e9, 0)
	o := DefaultPolicy()
	o.BurstFiles = 3
	p := newPolicy(o, func() time.Time { return now })
	c := Caller{UID: 1, PID: pid}
	for i := range 3 {
		if why := p.refuse(c); why != "" {
			t.Fatalf("refused after %d: %s", i, why)
		}
		p.released(c, 100, 1<<30)
	}
	if p.refuse(c) == "" {
		t.Fatal("not held back after a burst")
	}
	if h := p.list(); len(h) != 1 || h[0].PID != pid || h[0].Comm != "sleep" {
		t.Fatalf("held: %+v", h)
	}
	now = now.Add(2 * time.Minute)
	if why := p.refuse(c); why != "" {
		t.Fatalf("still held after the window: %s", why)
	}
	for range 3 {
		p.released(c, 100, 1<<30)
	}
	if p.refuse(c) == "" {
		t.Fatal("not held back by a second burst")
	}
	if !p.allow(pid) || p.refuse(c) != "" {
		t.Fatal("allow did not let it through")
	}
	for range 5 {
		p.released(c, 2<<20, 1<<30) // not tiny
		p.released(c, 10, 10)       // whole
	}
	if info, _ := readProc(uint32(os.Getpid())); slices.Contains(o.Rules[0].Comm, info.comm) {
		t.Skip("the test binary is named like a scanner")
	}
	if why := p.refuse(Caller{PID: uint32(os.Getpid())}); why != "" {
		t.Fatalf("another process is held back: %s", why)
	}
}
