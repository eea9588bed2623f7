package rucio

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/servertest"
)

// lfn are the options of a tree of paths below /SCOPE, as the suites have it.
func (r *rig) paths() Options {
	return Options{Layout: backends.LayoutLFN, ScopeOf: first, Roots: []string{"/" + r.scope}, Lifetime: time.Hour}
}

// copyAt is a file with a copy at the rig's disk; n makes its size and checksum.
func (r *rig) copyAt(p string, n int) backends.Entry {
	d := r.did(p)
	return backends.Entry{
		Info:     backends.Info{DID: d, Type: backends.File, Size: int64(n), Checksums: backends.Checksums{Adler32: fmt.Sprintf("%08x", n), MD5: fmt.Sprintf("%032x", n)}},
		Meta:     backends.Meta{"night": "2026-01-02"},
		Replicas: []backends.Replica{{RSE: r.disk, PFN: d.Name[1:], State: backends.Available}},
	}
}

func (r *rig) collection(p string, typ backends.Type) backends.Entry {
	return backends.Entry{Info: backends.Info{DID: r.did(p), Type: typ}}
}

// root makes the root of the tree.
func (r *rig) root(t testing.TB, c *Catalogue) {
	t.Helper()
	if err := c.AddScope(t.Context(), backends.Info{DID: r.did("")}); err != nil {
		t.Fatal(err)
	}
}

// tree lists everything below d through the catalogue, as paths below the scope.
func (r *rig) tree(t testing.TB, c *Catalogue, d backends.DID) (out []string) {
	t.Helper()
	for in, err := range c.Contents(t.Context(), d, "") {
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(in.DID.Name, "/"+r.scope+"/")
		if in.IsDir() {
			out = append(out, name+"/")
			out = append(out, r.tree(t, c, in.DID)...)
		} else {
			out = append(out, fmt.Sprintf("%s %d", name, in.Size))
		}
	}
	return out
}

// TestFaultAtEveryStep spoils each request of a change in turn, in each way, gives up as a process that is killed there, and
// repeats the change from the beginning in another: it ends with one registration, attached, with its metadata and one rule.
func TestFaultAtEveryStep(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	entries := func(top string) []backends.Entry {
		return []backends.Entry{
			r.collection(top, backends.Container), r.collection(top+"/night", backends.Container), r.collection(top+"/night/set", backends.Dataset),
			r.copyAt(top+"/night/a", 2), r.copyAt(top+"/night/set/c", 4), r.copyAt(top+"/night/set/d", 5),
		}
	}
	want := func(top string) []string {
		return []string{top + "/", top + "/night/", top + "/night/a 2", top + "/night/set/", top + "/night/set/c 4", top + "/night/set/d 5"}
	}
	// An error is that of the first step that failed; a change that is repeated finds what it made.
	changes := map[string]func(ctx context.Context, c *Catalogue, all []backends.Entry) error{
		"import": func(ctx context.Context, c *Catalogue, all []backends.Entry) error {
			_, err := c.Import(ctx, seq(all))
			return err
		},
		"add": func(ctx context.Context, c *Catalogue, all []backends.Entry) error {
			for _, e := range all {
				err := c.Add(ctx, e.Info, e.Meta, e.Replicas...)
				if err != nil && !(e.Info.IsDir() && errors.Is(err, backends.ErrExist)) {
					return err
				}
			}
			return nil
		},
	}
	r.root(t, r.open(t, r.paths()))
	ways := map[string][]what{"refused or answer lost": {refuse, dropEnd}} // in turn: each way at every request is for make test-long
	if os.Getenv("LONG") != "" {
		ways = map[string][]what{"refused": {refuse}, "lost": {drop}, "answer lost": {dropEnd}}
	}
	for name, change := range changes {
		for how, do := range ways {
			if name == "add" && os.Getenv("LONG") == "" {
				continue // TestFailuresInAdd
			}
			t.Run(name+", "+how, func(t *testing.T) {
				b := newBetween(t, r.URL)
				killed, again := r.through(t, b, r.paths()), r.open(t, r.paths())
				for n := 0; ; n++ {
					top := fmt.Sprintf("%s-%s-%d", name, strings.ReplaceAll(how, " ", "-"), n)
					all := entries(top)
					ruled := func(c *Catalogue) error {
						for _, d := range []string{"/night/a", "/night/set/c", "/night/set/d"} {
							if _, err := c.AddRule(t.Context(), backends.Rule{DID: r.did(top + d), Copies: 1, Expression: r.disk}); err != nil {
								return err
							}
						}
						return nil
					}
					killed.Refresh(backends.DID{})
					b.spoil(only(n, do[n%len(do)]))
					err := change(t.Context(), killed, all)
					if err == nil {
						err = ruled(killed)
					}
					reached := n < len(b.requests())
					b.spoil(nil)
					if err != nil && (!reached || !backends.IsTemporary(err)) {
						t.Errorf("request %d %s: %v", n, how, err)
					}
					again.Refresh(backends.DID{})
					if err := change(t.Context(), again, all); err != nil {
						t.Fatalf("after request %d: again: %v", n, err)
					}
					if err := ruled(again); err != nil {
						t.Fatalf("after request %d: rules again: %v", n, err)
					}
					again.Refresh(backends.DID{})
					r.check(t, again, top, want(top), n)
					if t.Failed() {
						return
					}
					if !reached {
						t.Logf("%d requests", n)
						return
					}
				}
			})
		}
	}
}

// check looks at a tree through a catalogue that remembers nothing of it.
func (r *rig) check(t *testing.T, c *Catalogue, top string, want []string, n int) {
	t.Helper()
	got := append([]string{top + "/"}, r.tree(t, c, r.did(top))...)
	if !slices.Equal(got, want) {
		t.Errorf("after request %d: the tree is\n%v, want\n%v", n, got, want)
	}
	listed := false
	for in, err := range c.Contents(t.Context(), r.did(""), "") {
		if err != nil {
			t.Fatal(err)
		}
		listed = listed || in.DID == r.did(top)
	}
	if !listed {
		t.Errorf("after request %d: %s is in no directory", n, top)
	}
	for _, f := range []string{"/night/a"} {
		d := r.did(top + f)
		if reps, err := c.Replicas(t.Context(), d); err != nil || len(reps) != 1 || reps[0].RSE != r.disk || reps[0].PFN != d.Name[1:] {
			t.Errorf("after request %d: replicas of %s: %v, %v", n, d, reps, err)
		}
		if m, err := c.Meta(t.Context(), d); err != nil || m["night"] != "2026-01-02" {
			t.Errorf("after request %d: metadata of %s: %v, %v", n, d, m, err)
		}
	}
	for _, f := range []string{"/night/set/d"} {
		var rules []backends.RuleStatus
		for s, err := range c.RulesOf(t.Context(), r.did(top+f)) {
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, s)
		}
		if len(rules) != 1 {
			t.Errorf("after request %d: %d rules on %s: %v", n, len(rules), f, rules)
		}
	}
}

func seq(all []backends.Entry) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}
