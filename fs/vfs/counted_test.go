package vfs

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"tarn/backends"
	"tarn/cache"
	"tarn/cache/journal"
)

// What has its rules is used already where the quota is kept; that it waits here for another copy makes it no more.
func TestQuotaCountsOnce(t *testing.T) {
	hot, err := cache.Open(cache.Options{Dir: t.TempDir(), Limit: 1 << 30, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer hot.Close()
	v := &FS{cache: hot, log: slog.New(slog.DiscardHandler), unsent: map[string]*unsent{}, asks: make(chan struct{}, 1)}
	v.opt.Quota = func(context.Context) (Quota, error) { return Quota{Limit: 100, Left: 40}, nil }
	add := func(id string, s journal.State, size int64) *unsent {
		if err := hot.ReserveUnsent(size); err != nil {
			t.Fatal(err)
		}
		u := &unsent{fs: v, id: id, state: s, reserved: size}
		v.unsent[id] = u
		return u
	}
	ruled, sealed := add("a", journal.Ruled, 60), add("b", journal.Sealed, 30)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); v.watchQuota(ctx) }()
	for end := time.Now().Add(10 * time.Second); v.quota.Load() == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	stop()
	<-done
	fits := func(n int64, want bool, when string) {
		t.Helper()
		if err := v.withinQuota(n); (err == nil) != want || err != nil && !errors.Is(err, backends.ErrQuota) {
			t.Errorf("%d bytes more, %s: %v", n, when, err)
		}
	}
	fits(10, true, "where 40 are left of 100, of which one with rules has 60, and one of 30 waits")
	fits(11, false, "where 40 are left of 100, of which one with rules has 60, and one of 30 waits")
	ruled.release()
	fits(10, true, "when the one with rules is safe")
	fits(11, false, "when the one with rules is safe")
	late := add("c", journal.Ruled, 10) // since the quota was asked for
	fits(1, false, "when one of 10 came")
	late.release()
	sealed.release()
	fits(40, true, "when nothing waits")
}
