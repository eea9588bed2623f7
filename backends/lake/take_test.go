package lake_test

import (
	"bytes"
	"errors"
	"testing"

	"tarn/backends"
	"tarn/backends/checksum"
)

// TestTake: the digests of what is sent are given back, and belong to what is stored.
func TestTake(t *testing.T) {
	r := newRig(t)
	data := content("x")
	rep, got, err := r.Take(ctx, r.dNear, "p", bytes.NewReader(data), int64(len(data)), false, nil)
	if err != nil || got != sums(data) || rep.PFN != "p" || rep.State != backends.Available || rep.Verified.IsZero() {
		t.Fatalf("%+v, %v, %v", rep, got, err)
	}
	if !bytes.Equal(r.near.Get("p"), data) || len(checksum.Known(got)) != 2 {
		t.Errorf("stored %d bytes, digests %v", len(r.near.Get("p")), got)
	}
}

// TestTakeAgain: what lies at the path already counts only if it has the size and the digests of the source.
func TestTakeAgain(t *testing.T) {
	for name, there := range map[string]string{"the same": "content", "of the same size": "contents"[:6] + "x", "of another size": "con"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.near.Put("p", []byte(there))
			data := []byte("content")
			_, got, err := r.Take(ctx, r.dNear, "p", bytes.NewReader(data), int64(len(data)), true, nil)
			if err != nil || got != sums(data) || !bytes.Equal(r.near.Get("p"), data) {
				t.Fatalf("%q, %v, %v", r.near.Get("p"), got, err)
			}
			if n, same := r.near.Calls("create"), there == "content"; same != (n == 0) {
				t.Errorf("%d uploads", n)
			}
		})
	}
}

// TestTakeIsVerified: a storage that keeps other bytes is found out.
func TestTakeIsVerified(t *testing.T) {
	r := newRig(t)
	r.near.Lie = func(b []byte) []byte { b[0] ^= 1; return b }
	data := content("x")
	if _, _, err := r.Take(ctx, r.dNear, "p", bytes.NewReader(data), int64(len(data)), false, nil); !errors.Is(err, backends.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if r.near.Get("p") != nil {
		t.Error("it stays")
	}
}

// TestProveAndOnTape: both tell what is there now, and change nothing.
func TestProveAndOnTape(t *testing.T) {
	r := newRig(t)
	data := content("x")
	r.near.Put("p", data)
	if _, err := r.Prove(ctx, r.dNear, "p", int64(len(data)), sums(data)); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		pfn  string
		size int64
		of   []byte
		want error
	}{{"p", 3, data, backends.ErrCorrupt}, {"p", int64(len(data)), content("y"), backends.ErrCorrupt}, {"none", 1, data, backends.ErrNotExist}} {
		if _, err := r.Prove(ctx, r.dNear, c.pfn, c.size, sums(c.of)); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if r.near.Get("p") == nil {
		t.Error("it was removed")
	}
	r.tape.Put("nearline", data)
	r.tape.Storage.Put("online", data)
	got, err := r.OnTape(ctx, r.tTape, []string{"online", "nearline", "none"})
	if err != nil || len(got) != 3 || got[0] || !got[1] || got[2] {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := r.OnTape(ctx, r.dNear, []string{"p"}); err != nil || !got[0] {
		t.Errorf("disk: %v, %v", got, err)
	}
}
