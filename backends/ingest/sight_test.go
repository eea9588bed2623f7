package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
)

// served is a link whose catalogue's server is what a test says, and a record that it has sent to A.
func (r *rig) served(rules ...backends.Rule) (*link, *Record) {
	r.t.Helper()
	d := r.definition("A")
	d.Rules = rules
	k, err := newLink(Options{Lake: r.lake, Now: time.Now, Log: slog.New(slog.DiscardHandler), Workers: 2}, d, nil)
	r.must(err)
	rec := &Record{Path: "run1.fits", DID: k.did("run1.fits"), Size: 5, RSE: "A", PFN: "run1.fits", VerifiedAt: time.Now()}
	rec.Checksums = backends.Checksums{MD5: "5d41402abc4b2a76b9719d911017c592", Adler32: "062c0215"} // of hello
	return k, rec
}

// seen is a sight of a record with its copy at A, which one rule holds.
func (k *link) seen(r *Record, held backends.RuleStatus) sight {
	in := backends.Info{DID: r.DID, Type: backends.File, Size: r.Size, Checksums: r.Checksums}
	return sight{
		looks: map[backends.DID]backends.Look{r.DID: {Info: in, Replicas: []backends.Replica{{RSE: r.RSE, PFN: r.PFN, State: backends.Available}}}},
		held:  map[backends.DID][]backends.Held{k.home(r): {{RuleStatus: held, At: map[backends.DID][]string{r.DID: {r.RSE}}}}},
		asked: map[backends.DID]bool{r.DID: true},
		at:    k.clock(),
	}
}

// A file is not safe by a rule that ends before the one that was asked for: one that somebody deleted, or made for a while, is there until then.
func TestServedRuleThatEnds(t *testing.T) {
	r := newRig(t)
	in := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for _, c := range []struct {
		name        string
		want, found time.Time
		safe        bool
	}{
		{"both for ever", time.Time{}, time.Time{}, true},
		{"it was deleted", time.Time{}, in(time.Hour), false},
		{"it ends later", in(time.Hour), in(2 * time.Hour), true},
		{"by another clock", in(time.Hour), in(time.Hour - time.Minute), true},
		{"it never ends", in(time.Hour), time.Time{}, true},
		{"deleted before its time", in(30 * 24 * time.Hour), in(time.Hour), false},
		{"ended, and not taken away yet", in(-time.Minute), in(-time.Minute), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rule := backends.Rule{Copies: 1, Expression: "A", Expires: c.want}
			k, rec := r.served(rule)
			rule.Expires = c.found
			_, err := k.proveServed(rec, k.seen(rec, backends.RuleStatus{ID: "1", Rule: rule, State: backends.RuleOK}))
			if (err == nil) != c.safe || err != nil && !errors.Is(err, errUnsafe) {
				t.Errorf("want safe: %t, got %v", c.safe, err)
			}
		})
	}
}

// Two nodes that send a file of one name at the same time write to one path where that follows from the name: the one whose content the
// server has is not safe when the other one's lies there.
func TestServedOverwrittenByAnother(t *testing.T) {
	r := newRig(t)
	rule := backends.Rule{Copies: 1, Expression: "A"}
	k, rec := r.served(rule)
	rse, _ := r.lake.RSE("A")
	rse.Bound = true
	for text, safe := range map[string]bool{"hello": true, "jello": false, "": false} {
		r.must(os.WriteFile(filepath.Join(r.base, "A", rec.PFN), []byte(text), 0o644))
		clear(k.doubts)
		s := k.seen(rec, backends.RuleStatus{ID: "1", Rule: rule, State: backends.RuleOK})
		copies, errs := k.certifyAll(t.Context(), []*Record{rec}, s)
		if (errs[0] == nil) != safe || errs[0] != nil && !errors.Is(errs[0], errUnsafe) {
			t.Errorf("%q lies there: %v", text, errs[0])
		}
		if safe && (len(copies[0]) != 1 || copies[0][0].Proof != ProofSent) {
			t.Errorf("%q lies there: %+v", text, copies[0])
		}
	}
}

// A copy at a path that others write to as well is not safe as long as one who looked before it was registered may still write there.
func TestServedSafeWhenOthersAreDone(t *testing.T) {
	r := newRig(t)
	rule := backends.Rule{Copies: 1, Expression: "A"}
	k, rec := r.served(rule)
	r.must(os.WriteFile(filepath.Join(r.base, "A", rec.PFN), []byte("hello"), 0o644))
	rse, _ := r.lake.RSE("A")
	for _, c := range []struct {
		bound bool
		ago   time.Duration
		safe  bool
	}{{false, 0, true}, {true, 0, false}, {true, metFor, false}, {true, metFor + commitFor, true}, {true, -time.Hour, true}} {
		rse.Bound, rec.RegisteredAt = c.bound, time.Now().Add(-c.ago)
		_, errs := k.certifyAll(t.Context(), []*Record{rec}, k.seen(rec, backends.RuleStatus{ID: "1", Rule: rule, State: backends.RuleOK}))
		if (errs[0] == nil) != c.safe || errs[0] != nil && !errors.Is(errs[0], errUnsafe) {
			t.Errorf("bound: %t, registered %v ago: %v", c.bound, c.ago, errs[0])
		}
	}
	// The same is so of one that another node sent: nothing was left to be sent here.
	rse.Bound, rec.RegisteredAt = true, time.Now()
	s := k.seen(rec, backends.RuleStatus{ID: "1", Rule: rule, State: backends.RuleOK})
	rec.RSE, rec.PFN = "", ""
	if _, errs := k.certifyAll(t.Context(), []*Record{rec}, s); !errors.Is(errs[0], errUnsafe) {
		t.Errorf("sent by another node: %v", errs[0])
	}
}

// What another node registered while a file was being sent is not overwritten by it.
func TestServedNameTakenWhileItIsSent(t *testing.T) {
	r := newRig(t)
	k, rec := r.served(backends.Rule{Copies: 1, Expression: "A"})
	rse, _ := r.lake.RSE("A")
	rse.Bound = true
	at := filepath.Join(r.base, "A", rec.PFN)
	free := &asked{}
	k.server = free
	now := time.Now()
	k.clock = func() time.Time { return now }
	if there, err := k.there(t.Context(), rec, strings.NewReader("hello")); there || err != nil {
		t.Fatalf("%t, %v", there, err)
	}
	other := backends.Info{DID: rec.DID, Type: backends.File, Size: 5, Checksums: backends.Checksums{MD5: "00000000000000000000000000000000"}}
	r.must(os.WriteFile(at, []byte("jello"), 0o644))
	free.has = map[backends.DID]backends.Look{rec.DID: {Info: other}}
	now = now.Add(metFor + time.Second)
	src := &source{ctx: t.Context(), k: k, r: rec, f: strings.NewReader("hello")}
	_, _, err := k.lake.Take(t.Context(), rse, rec.PFN, src, 5, false, nil)
	if src.late == nil || !backends.IsTemporary(src.late) || err == nil {
		t.Errorf("it was sent: %v, %v", src.late, err)
	}
	if b, _ := os.ReadFile(at); string(b) != "jello" {
		t.Errorf("%q lies there", b)
	}
	rec.PFN = "" // as when it is tried again
	if _, err := k.there(t.Context(), rec, strings.NewReader("hello")); !errors.Is(err, errTaken) {
		t.Errorf("then: %v", err)
	}
}

// asked is a server that has some files.
type asked struct {
	backends.Served
	rules   bool // there are some
	refuses map[backends.DID]error

	mu  sync.Mutex // guards has, of give
	has map[backends.DID]backends.Look
}

// give makes it have others.
func (s *asked) give(has map[backends.DID]backends.Look) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.has = has
}

// Ask makes them, unless it refuses those of one of the directories.
func (s *asked) Ask(_ context.Context, dirs []backends.DID, _ []backends.Rule) error {
	for _, d := range dirs {
		if err := s.refuses[d]; err != nil {
			return err
		}
	}
	s.rules = true
	return nil
}

// Held tells of them.
func (s *asked) Held(_ context.Context, _ backends.DID, rules []backends.Rule, want map[backends.DID]bool) ([]backends.Held, error) {
	out := make([]backends.Held, len(rules))
	for i := range out {
		if s.rules {
			out[i] = backends.Held{RuleStatus: backends.RuleStatus{ID: "1", Rule: rules[i], State: backends.RuleOK}, At: map[backends.DID][]string{}}
			for d := range want {
				out[i].At[d] = []string{"A"}
			}
		}
	}
	return out, nil
}

// Look gives that.
func (s *asked) Look(context.Context, []backends.DID) (map[backends.DID]backends.Look, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has, nil
}

// A file that is tried again at its path is not sent there because an answer about many left it out: somebody else's may be on record there.
func TestServedIsLookedAtBeforeItIsTriedAgain(t *testing.T) {
	r := newRig(t)
	k, rec := r.served(backends.Rule{Copies: 1, Expression: "A"})
	rec.tries, rec.met = true, &met{at: k.clock()}
	other := backends.Info{DID: rec.DID, Type: backends.File, Size: rec.Size + 1, Checksums: backends.Checksums{MD5: "00000000000000000000000000000000"}}
	k.server = &asked{has: map[backends.DID]backends.Look{rec.DID: {Info: other}}}
	if there, err := k.there(t.Context(), rec, strings.NewReader("hello")); there || !errors.Is(err, errTaken) {
		t.Errorf("want that the name is taken, got %t, %v", there, err)
	}
}

// A file that waits for a rule that somebody deleted goes on when it is told to.
func TestServedRetryAsksForRules(t *testing.T) {
	r := newRig(t)
	k, rec := r.served(backends.Rule{Copies: 1, Expression: "A"})
	k.ledger = newLedger(t, t.TempDir())
	r.must(os.WriteFile(filepath.Join(r.base, "A", rec.PFN), []byte("hello"), 0o644))
	k.server = &asked{has: k.seen(rec, backends.RuleStatus{}).looks}
	rec.Stage, rec.FoundAt = Registered, time.Now()
	r.must(k.ledger.commit(&change{path: rec.Path, to: rec}))
	pass := func(want int) {
		t.Helper()
		if n, err := k.proveAll(t.Context(), false); err != nil || n != want {
			t.Errorf("%d files became safe, want %d: %v", n, want, err)
		}
	}
	pass(0)
	_, err := k.retry([]string{rec.Path})
	r.must(err)
	pass(1)
}

// A file is not put where somebody else's of its name has come to lie while its storage took its time to verify it, and an empty one no more than
// others; what is there stays.
func TestServedThatOthersGaveWhileItWasSent(t *testing.T) {
	for text, step := range map[string]string{"hello": "Commit", "": "send"} {
		r := newRig(t)
		k, rec := r.served(backends.Rule{Copies: 1, Expression: "A"})
		rse, _ := r.lake.RSE("A")
		rse.Bound = true
		r.write(rec.Path, text)
		r.must(k.enterFolder())
		defer k.leaveFolder()
		v, err := k.folder.stat(rec.Path)
		r.must(err)
		rec.Size, rec.Ino, rec.Dev, rec.MTime, rec.CTime = v.Size, v.Ino, v.Dev, v.MTime, v.CTime
		server := &asked{}
		k.server = server
		ended := make(chan struct{})
		k.patient = func(ctx context.Context, _ time.Duration) bool { // of the vigil
			if ctx.Err() != nil {
				close(ended)
			}
			return ctx.Err() == nil
		}
		others := filepath.Join(r.base, "A", rec.PFN)
		given := func() {
			server.give(map[backends.DID]backends.Look{rec.DID: {Info: backends.Info{DID: rec.DID, Type: backends.File, Size: 6}}})
			r.must(os.WriteFile(others, []byte("others"), 0o644))
		}
		r.disks["A"].On("Commit", func(string) error {
			if step == "Commit" {
				given()
				<-ended
			}
			return nil
		})
		now := time.Now()
		k.clock = func() time.Time { return now }
		k.hook = func(name, _ string) error {
			if name == step {
				now = now.Add(metFor + 1)
				given()
			}
			return nil
		}
		if err := k.transfer(t.Context(), rec); !errors.Is(err, errMet) || outage(err) {
			t.Errorf("%q is sent: %v", text, err)
		}
		if b, err := os.ReadFile(others); err != nil || string(b) != "others" {
			t.Errorf("%q lies where others' is on record: %v", b, err)
		}
		if err := k.transfer(t.Context(), rec); !errors.Is(err, errTaken) {
			t.Errorf("it is tried again: %v", err)
		}
	}
}

// A directory whose rules the server does not take holds none of the others, and is asked for again.
func TestServedRulesThatAreRefused(t *testing.T) {
	r := newRig(t)
	k, rec := r.served(backends.Rule{Copies: 1, Expression: "A"})
	k.ledger = newLedger(t, t.TempDir())
	now := time.Now()
	k.clock = func() time.Time { return now }
	why := fmt.Errorf("over quota: %w", backends.ErrQuota)
	good, bad := backends.DID{Scope: "ctao", Name: "/ctao/dl0/good"}, k.home(rec)
	server := &asked{refuses: map[backends.DID]error{bad: why}}
	k.server = server
	r.must(k.askFor(t.Context(), []backends.DID{good, bad}))
	if !server.rules {
		t.Error("nothing was asked for the other one")
	}
	server.has = k.seen(rec, backends.RuleStatus{}).looks
	s := k.seen(rec, backends.RuleStatus{})
	if _, err := k.proveServed(rec, s); !errors.Is(err, errUnsafe) || !errors.Is(err, errStalled) || !errors.Is(err, backends.ErrQuota) {
		t.Errorf("the reason is not told: %v", err)
	}
	r.must(os.WriteFile(filepath.Join(r.base, "A", rec.PFN), []byte("hello"), 0o644))
	rec.Stage, rec.FoundAt = Registered, time.Now()
	r.must(k.ledger.commit(&change{path: rec.Path, to: rec}))
	server.refuses, server.rules = nil, false
	for _, want := range []int{0, 1} {
		if n, err := k.proveAll(t.Context(), false); err != nil || n != want {
			t.Errorf("%d files became safe, want %d: %v", n, want, err)
		}
		now = now.Add(time.Minute)
	}
	away := fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrTemporary)
	server.refuses = map[backends.DID]error{bad: away}
	if err := k.askFor(t.Context(), []backends.DID{good, bad}); !errors.Is(err, away) || k.refusal(bad) != nil {
		t.Errorf("a server that is away refuses nothing: %v", err)
	}
}
