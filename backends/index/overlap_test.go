package index

import (
	"context"
	"errors"
	"testing"

	"tarn/backends"
)

// What is indexed anew after an index broke waits for a change that began before it did: its mark is gone.
func TestBeginAnewDuringAChange(t *testing.T) {
	r := small(t)
	r.build("/")
	o := r.x.begin(change{what: wasPut, did: did("/s/c/new")})
	r.x.breaks(errors.New("no space"))
	_, err := r.x.begun(context.Background())
	must(t, err)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.x.beginBehind(ended, 99); !errors.Is(err, context.Canceled) {
		t.Errorf("it does not wait: %v", err)
	}
	must(t, r.cat.Add(context.Background(), fileInfo("/s/c/new", 5), backends.Meta{"level": "DL3"}))
	o.end(nil)
	must(t, r.x.beginBehind(ended, 99))
	r.build("/")
	r.is("/", "level=DL3", true)
}

// Of changes that put into a collection and take out of it at once, which counts is what the catalogue has, however they begin and end.
func TestAttachedAndDetachedAtOnce(t *testing.T) {
	ctx := context.Background()
	for _, in := range []bool{true, false} {
		for _, order := range []string{"in time", "reversed"} {
			r := small(t)
			must(t, r.Add(ctx, backends.Info{DID: did("/s/set"), Type: backends.Dataset, Mode: 0o755}, nil))
			must(t, r.Attach(ctx, did("/s/set"), did("/s/c/h")))
			r.build("/")
			out, into := members(wasOut, did("/s/set"), []backends.DID{did("/s/c/h")}), members(wasIn, did("/s/set"), []backends.DID{did("/s/c/h")})
			first, last := r.x.begin(out...), r.x.begin(into...)
			if in { // it is taken out and put in again
				must(t, r.cat.Detach(ctx, did("/s/set"), did("/s/c/h")))
				must(t, r.cat.Attach(ctx, did("/s/set"), did("/s/c/h")))
			} else { // the one that began last was made first
				must(t, r.cat.Attach(ctx, did("/s/set"), did("/s/c/h")))
				must(t, r.cat.Detach(ctx, did("/s/set"), did("/s/c/h")))
			}
			if order == "reversed" {
				first, last = last, first
			}
			first.end(nil)
			r.is("/s/c", "level=DL3", true) // it has been looked at
			last.end(nil)
			r.is("/s/set", "level=DL3", true)
		}
	}
}

// A change of many names that was looked at in part, before the process ended, leaves no cover that answers.
func TestTornRename(t *testing.T) {
	r := small(t)
	r.build("/")
	r.x.mu.Lock()
	c, db := r.x.covers[0], r.x.db
	r.x.mu.Unlock()
	v := r.x.view(db, c, true)
	v.size = pendingBytes
	must(t, v.full())
	must(t, r.x.Close())
	r.open()
	r.is("/", "level=DL3", false)
	r.build("/")
	r.x.mu.Lock()
	c, db = r.x.covers[0], r.x.db
	r.x.mu.Unlock()
	v = r.x.view(db, c, true)
	v.size = pendingBytes
	must(t, v.full())
	must(t, v.flush())
	must(t, r.x.Close())
	r.open()
	r.is("/", "level=DL3", true)
}
