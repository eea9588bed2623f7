package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestPeerVerdict(t *testing.T) {
	r := &row{job: &job{name: "find -type f", unit: "s", lower: true}, sides: []string{"bare folder", "tarn", "a", "b"},
		values: [][]float64{{1}, {2}, {8}, {4}}, failures: map[int]string{}}
	if got := r.verdict(); got != "tarn ahead, 2.0× b" {
		t.Errorf("%q", got)
	}
	// A peer that failed does not count, and the reason is known for rows where tarn is behind.
	r.values, r.failures[3] = [][]float64{{1}, {2}, {1}, nil}, "more than 2m0s"
	if got, want := r.verdict(), "behind a, 0.50×: "+remark("find", "a"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := peerTable([]*row{r}); !strings.Contains(got, "| more than 2m0s |") {
		t.Errorf("%s", got)
	}
	r.values[2] = []float64{2}
	if got := r.verdict(); got != "level with a" {
		t.Errorf("%q", got)
	}
	wellFormed(t, peerChart([]*row{r}), "find -type f", "1× a")
	// What is said of one peer is not said of another.
	if got, other := remark("create, write 4 KiB, close", "rclone mount"), remark("create, write 4 KiB, close", "a"); got == other || !strings.Contains(got, "write-back") {
		t.Errorf("%q, %q", got, other)
	}
	r.values[2] = nil
	if got := r.verdict(); got != "" || peerChart([]*row{r}) != "" {
		t.Errorf("no peer, but %q", got)
	}
}

// TestLimit: a side that does not come to an end is given up, and not asked again.
func TestLimit(t *testing.T) {
	b := &bench{ctx: t.Context(), o: options{rounds: 2}, limit: 1}
	stuck := make(chan struct{})
	defer close(stuck)
	j := &job{name: "x", raw: true, run: func(place) (float64, error) { <-stuck; return 1, nil }}
	sides := []place{{name: "a"}}
	for range 2 {
		r := b.measureJob(j, sides)
		if r.failures[0] == "" || len(r.values[0]) > 0 {
			t.Errorf("%v, %v", r.failures, r.values)
		}
	}
	if len(b.gone) != 1 {
		t.Errorf("gone: %v", b.gone)
	}
}

func TestPeerData(t *testing.T) {
	b := &bench{dir: t.TempDir(), o: options{rounds: 2, size: 1 << 20}}
	if err := b.peerData(b.dir+"/src/data", peerSizes{tree: 3, many: 2}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"big", "many/f000001", "tree/d0000/run000002.fits", peerFile("whole", 1), "w-rclone/here", "w-s3fs/new-1-1/w0/here"} {
		if _, err := os.Stat(b.dir + "/src/data/" + f); err != nil {
			t.Error(err)
		}
	}
	if mnt := b.dir; isMount(mnt) {
		t.Errorf("%s is no mount", mnt)
	}
	if !isMount("/") {
		t.Error("/ is a mount")
	}
}

// TestLimitOfRounds: all rounds of a side in a row share its time, and what was measured in it counts.
func TestLimitOfRounds(t *testing.T) {
	b := &bench{ctx: t.Context(), o: options{rounds: 5}, limit: time.Hour}
	j := &job{name: "x", raw: true, run: func(place) (float64, error) { b.limit = 1; return 1, nil }} // no time is left now
	if r := b.measureJob(j, []place{{name: "a"}}); len(r.values[0]) != 1 || len(r.failures) != 0 || b.gone != nil {
		t.Errorf("%v, %v, gone: %v", r.values, r.failures, b.gone)
	}
}

func TestOneServer(t *testing.T) {
	b := &bench{o: options{rounds: 1}}
	for _, s := range b.onOneServer(nil, nil) {
		if !s.optional || len(s.jobs) != 2 {
			t.Errorf("%+v", s)
		}
	}
	for _, s := range oneServers {
		for _, p := range s.peers {
			if q := peerNamed(p.peer); q.name == "tarn" || q.version == "" {
				t.Errorf("%+v", q)
			}
		}
	}
	// One that needs a server of rclone's does not need it here.
	q := &peer{name: "x", needs: []string{"rclone", "sh"}}
	if why := q.without("rclone"); why != "" {
		t.Error(why)
	}
	if q.needs = append(q.needs, "no-such-program"); !strings.Contains(q.without("rclone"), "no-such-program is not installed") || len(q.needs) != 3 {
		t.Errorf("%q, %v", q.without("rclone"), q.needs)
	}
	if pfn, err := pfnOf([]byte(`{"rse":"S","pfn":"ctao/ab/f"}`)); pfn != "ctao/ab/f" || err != nil {
		t.Errorf("%q, %v", pfn, err)
	}
	for _, bad := range []string{"", "{}", `{"pfn":"a"}{"pfn":"b"}`} {
		if pfn, err := pfnOf([]byte(bad)); err == nil {
			t.Errorf("%s: %q", bad, pfn)
		}
	}
}

// TestRemarks: every row has a reason ready for the day that tarn is behind in it.
func TestRemarks(t *testing.T) {
	b := &bench{o: options{rounds: 1, size: 1 << 20}}
	jobs := b.peerJobs(peerSizes{})
	for _, s := range b.onOneServer(nil, nil) {
		jobs = append(jobs, s.jobs...)
	}
	for _, j := range jobs {
		if got := remark(j.name, "some peer"); got == remark("nothing of this name", "") {
			t.Errorf("%s: %s", j.name, got)
		}
	}
}

// TestEndDaemon ends a program by the file that names it, and waits for one that ends by itself.
func TestEndDaemon(t *testing.T) {
	c, err := spawn(nil, "sleep", "100")
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/pid"
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d\n", c.cmd.Process.Pid), 0o644); err != nil {
		t.Fatal(err)
	}
	endDaemon(file)
	<-c.done
	endDaemon(file + ".none")
}
