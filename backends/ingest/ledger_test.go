package ingest

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"tarn/backends"
)

func newLedger(t *testing.T, dir string) *ledger {
	t.Helper()
	l, err := openLedger(dir, slog.New(slog.DiscardHandler), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l
}

func paths(rs []*Record) (out []string) {
	for _, r := range rs {
		out = append(out, r.Path)
	}
	return out
}

// TestLedgerOrder: the queue has urgent files first, then old ones; failed ones wait aside; all of it outlives the process.
func TestLedgerOrder(t *testing.T) {
	dir := t.TempDir()
	l := newLedger(t, dir)
	at := func(d int) time.Time { return time.Unix(1e9, 0).Add(time.Duration(d) * time.Second) }
	rec := func(path string, rank, mtime int) *Record {
		return &Record{Path: path, Stage: Found, Rank: rank, MTime: at(mtime), Size: 10, FoundAt: at(0)}
	}
	before := &Record{Path: "antique", Stage: Found, Rank: 1, MTime: time.Unix(-1000, 0), Size: 10, FoundAt: at(0)}
	failed := rec("failed", 0, 0)
	failed.NextTry, failed.Attempts = at(100), stuckAfter
	for _, r := range []*Record{rec("new", 1, 20), rec("old", 1, 10), rec("urgent", 0, 30), before, failed, rec("negative", -1, 0)} {
		if err := l.commit(&change{path: r.Path, to: r}); err != nil {
			t.Fatal(err)
		}
	}
	look := func() {
		t.Helper()
		rs, _, err := l.next(toSend, nil, 100)
		if got, want := fmt.Sprint(paths(rs), err), "[negative urgent antique old new] <nil>"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		rs, next, err := l.due(at(99), 100)
		if len(rs) != 0 || !next.Equal(at(100)) || err != nil {
			t.Errorf("due: %v %v %v", paths(rs), next, err)
		}
		for _, now := range []time.Time{at(100), at(-1e6)} { // its time has come; the clock jumped back
			if rs, _, _ = l.due(now, 100); fmt.Sprint(paths(rs)) != "[failed]" {
				t.Errorf("due at %v: %v", now, paths(rs))
			}
		}
		if c := l.count(); c.Of[Found] != (Count{6, 60}) || c.Of[Sealed] != (Count{}) || c.Stuck != 1 {
			t.Errorf("%+v", c)
		}
	}
	look()
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if err := l.commit(&change{path: "x", to: rec("x", 0, 0)}); !errors.Is(err, backends.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	l = newLedger(t, dir)
	look()
}

// TestLedgerRevisions: who does not know the last revision changes nothing, and hurts nobody in the same transaction.
func TestLedgerRevisions(t *testing.T) {
	l := newLedger(t, t.TempDir())
	a := &Record{Path: "a", Stage: Found, Size: 1}
	if err := l.commit(&change{path: "a", to: a}); err != nil || a.Rev == 0 {
		t.Fatal(a.Rev, err)
	}
	stale := &change{path: "a", rev: a.Rev + 7, to: &Record{Path: "a", Stage: Safe}}
	again := &change{path: "a", to: &Record{Path: "a", Stage: Safe}}
	good := &change{path: "b", to: &Record{Path: "b", Stage: Found}}
	if err := l.commit(stale, again, good); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(stale.err, backends.ErrStale) || !errors.Is(again.err, backends.ErrStale) || good.err != nil {
		t.Errorf("%v, %v, %v", stale.err, again.err, good.err)
	}
	gone := *a
	gone.Stage = Deleted
	if err := l.commit(&change{path: "a", rev: a.Rev, to: &gone}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.get("a"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("after deletion: %v", err)
	}
	if err := l.commit(&change{path: "a", to: &Record{Path: "a", Stage: Found}}); err != nil { // another file of the name
		t.Fatal(err)
	}
	var all []string
	for r, err := range l.all(t.Context(), true) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(r.Path, " ", r.Stage))
	}
	if got := fmt.Sprint(all); got != "[a FOUND b FOUND a DELETED]" {
		t.Error(got)
	}
}

// TestLedgerGroups: many writers at once share transactions, and scans that page through see all.
func TestLedgerGroups(t *testing.T) {
	l := newLedger(t, t.TempDir())
	const writers, each = 20, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				p := fmt.Sprintf("%d/%d", w, i)
				if err := l.commit(&change{path: p, to: &Record{Path: p, Stage: Found, Size: 2}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for _, err := range l.all(t.Context(), true) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	var after []byte
	m := 0
	for {
		rs, last, err := l.next(toSend, after, 77)
		if err != nil {
			t.Fatal(err)
		}
		if last == nil {
			break
		}
		m, after = m+len(rs), last
	}
	if c := l.count(); n != writers*each || m != n || c.Of[Found] != (Count{int64(n), 2 * int64(n)}) {
		t.Errorf("%d records, %d in the queue, counted %+v", n, m, c.Of[Found])
	}
	big := make([]*change, 3000)
	for i := range big {
		p := fmt.Sprint("big", i)
		big[i] = &change{path: p, to: &Record{Path: p, Stage: Found}}
	}
	if err := l.commit(big...); err != nil || l.count().Of[Found].Files != int64(n+len(big)) {
		t.Errorf("%v, %+v", err, l.count())
	}
}

// TestWords: sizes, schedules and what is deleted.
func TestWords(t *testing.T) {
	for s, want := range map[string]int64{"": -2, "never": -2, "after-rules": -1, "keep-newest:2TB": 2e12, "keep-newest:0": 0, "keep-newest:1.5GiB": 3 << 29, "keep-newest:10": 10} {
		if got, err := parseDelete(s); got != want || err != nil {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"always", "keep-newest", "keep-newest:", "keep-newest:-1", "keep-newest:2XB", "keep-newest:1e30TB", "after-rules:", "keep-newest:nan"} {
		if got, err := parseDelete(s); !errors.Is(err, backends.ErrName) {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	open := func(s, at string) bool {
		t.Helper()
		x, err := parseSchedule(s)
		if err != nil {
			t.Fatal(err)
		}
		now, _ := time.Parse("15:04", at)
		return x.open(now)
	}
	for _, c := range []struct {
		s, at string
		want  bool
	}{{"", "12:00", true}, {"08:00-18:00", "08:00", true}, {"08:00-18:00", "18:00", false}, {"22:00-06:00", "23:30", true}, {"22:00-06:00", "05:59", true},
		{"22:00-06:00", "06:00", false}, {"01:00-02:00, 20:00-24:00", "23:59", true}, {"01:00-02:00,20:00-24:00", "12:00", false}} {
		if got := open(c.s, c.at); got != c.want {
			t.Errorf("%s at %s: %v", c.s, c.at, got)
		}
	}
	for _, s := range []string{"x", "08:00", "08:00-08:00", "8-9", "08:00-25:00", ","} {
		if _, err := parseSchedule(s); !errors.Is(err, backends.ErrName) {
			t.Errorf("%q: %v", s, err)
		}
	}
}
