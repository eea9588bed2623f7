package ingest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/backends/fault"
)

// reason is what is said of the file that waits for the longest time.
func (r *rig) reason(contains string) {
	r.t.Helper()
	last := ""
	r.until("the reason has "+contains, func() bool {
		st, err := r.set.Status("dl0")
		r.must(err)
		if st.Oldest != nil && st.Oldest.Reason != last {
			last = st.Oldest.Reason
			r.t.Logf("reason: %s", last)
		}
		return st.Oldest != nil && strings.Contains(st.Oldest.Reason, contains)
	})
}

// TestReasons: whatever gate is closed, the oldest file's reason names it; of an RSE that is down it says how many copies of
// which expression were wanted.
func TestReasons(t *testing.T) {
	r := newRig(t)
	mend := r.disks["A"].On("Space", fault.Always(fault.ErrTemporary))
	r.write("f", "content")
	s := r.start(r.definition("A"))
	r.reason(`copies: 1 on "A" wanted, 0 there, 0 more possible: A is down`)
	r.must(s.Pause("dl0"))
	r.reason("paused")
	mend()
	r.must(s.Resume("dl0"))
	r.deleted(1)
}

// TestReasonSchedule: outside its hours an ingest says so of its oldest file; a clock that comes to them lets it go on.
func TestReasonSchedule(t *testing.T) {
	r := newRig(t)
	r.write("f", "content")
	d := r.definition("A")
	d.Schedule = "20:00-06:00"
	s := r.open(r.replicate())
	s.o.Now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local) }
	r.must(s.Add(t.Context(), d))
	r.background(s.Run)
	r.reason("20:00-06:00")
}

// TestReasonBandwidth: what waits for its share of the bandwidth says so.
func TestReasonBandwidth(t *testing.T) {
	r := newRig(t)
	r.write("f", strings.Repeat("x", 3<<20))
	d := r.definition("A")
	d.Bandwidth = 10
	r.start(d)
	r.reason("bandwidth of 10 bytes/s")
}

// TestReasonRule: a file that waits for a copy that the replication cannot make says why.
func TestReasonRule(t *testing.T) {
	r := newRig(t)
	r.disks["B"].On("Create", fault.Always(fault.ErrTemporary))
	r.write("f", "content")
	r.start(r.definition("A", "B"))
	r.reason(`1 of 1 on "B"`)
}

// TestClockJumps: a clock that jumps forward and back completes no file that grows, and keeps none that is complete.
func TestClockJumps(t *testing.T) {
	r := newRig(t)
	const year = 365 * 24 * time.Hour
	var ahead atomic.Int64
	d := r.definition("A")
	d.Complete = "age:1s"
	s := r.open(r.replicate())
	s.o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())).Round(0) } // without a monotonic part
	r.must(s.Add(t.Context(), d))
	mend := r.disks["A"].On("Create", fault.Always(errors.New("no")))
	r.write("failing", "it failed before the clock was put back")
	r.background(s.Run)
	r.until("a try failed", func() bool { st, _ := s.Status("dl0"); return st.Failures > 0 })
	ahead.Store(int64(-10 * year))
	mend()
	r.deleted(1)

	text := ""
	for i, jump := range []time.Duration{0, 2 * year, -3 * year, time.Hour, -time.Hour, 0} {
		ahead.Store(int64(jump))
		for range 4 {
			text += fmt.Sprintln(i)
			r.write("growing", text)
			time.Sleep(100 * time.Millisecond)
			if st, _ := s.Status("dl0"); st.Sealed.Files > 1 || st.Found.Files-st.Incomplete.Files > 1 {
				t.Fatalf("after a jump by %v it is complete: %+v", jump, st)
			}
		}
	}
	ahead.Store(int64(-year))
	r.deleted(2)
	if got := r.read("/ctao/dl0/growing"); got != text {
		t.Errorf("%q, want %q", got, text)
	}
}

// TestRunOnly: only the ingests that are named are worked on.
func TestRunOnly(t *testing.T) {
	r := newRig(t)
	s := r.open(r.replicate())
	d := r.definition("A")
	r.must(s.Add(t.Context(), d))
	other := d
	other.Name, other.Dir, other.Target = "other", filepath.Join(r.base, "other"), "/ctao/other"
	r.must(os.Mkdir(other.Dir, 0o755))
	r.must(os.WriteFile(filepath.Join(other.Dir, "g"), []byte("g"), 0o644))
	r.must(s.Add(t.Context(), other))
	r.write("f", "f")
	if err := s.RunOnly(t.Context(), "nosuch"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("no ingest of the name: %v", err)
	}
	r.background(func(ctx context.Context) error { return s.RunOnly(ctx, "dl0") })
	r.deleted(1)
	r.must(s.Pause("other"))
	r.must(s.Resume("other"))
	time.Sleep(500 * time.Millisecond)
	if st, _ := s.Status("other"); st.Found.Files != 0 || st.State != Paused {
		t.Errorf("the other one: %+v", st)
	}
}

// TestUnreadableFolder: a folder that this user cannot read is a fault of the definition.
func TestUnreadableFolder(t *testing.T) {
	r := newRig(t)
	s := r.open(nil)
	dir, err := os.MkdirTemp("", "unreadable") // the rig's are in one that others cannot enter
	r.must(err)
	t.Cleanup(func() { r.must(os.Remove(dir)) })
	for _, mode := range []os.FileMode{0o555, 0o333, 0o444, 0} {
		r.must(os.Chmod(dir, mode))
		var err error
		if os.Geteuid() == 0 { // as somebody else, on this thread only
			runtime.LockOSThread()
			unix.Setfsuid(65534)
			err = s.o.checkDir(dir)
			unix.Setfsuid(0)
			runtime.UnlockOSThread()
		} else {
			err = s.o.checkDir(dir)
		}
		if denied := errors.Is(err, backends.ErrPermission); denied != (mode != 0o555) || err != nil && !denied {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}
