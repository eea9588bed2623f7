package backends_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends"
)

func TestOutlive(t *testing.T) {
	ended := func(c context.Context) bool { synctest.Wait(); return c.Err() != nil }
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), t, "kept"))
		c, end := backends.Outlive(ctx, time.Minute)
		defer end()
		if c.Value(t) != "kept" {
			t.Error("the values of the context are gone")
		}
		time.Sleep(time.Hour)
		if ended(c) {
			t.Fatal("it ended before the caller's")
		}
		cancel()
		if time.Sleep(time.Minute - time.Nanosecond); ended(c) {
			t.Fatal("it ended before its time after the caller's")
		}
		if time.Sleep(time.Nanosecond); !ended(c) {
			t.Fatal("it goes on for longer than its time after the caller's")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, end := backends.Outlive(t.Context(), time.Minute)
		if end(); !ended(c) {
			t.Fatal("cancel does not end it")
		}
	})
	synctest.Test(t, func(t *testing.T) { // nothing waits for the rest of the minute
		ctx, cancel := context.WithCancel(t.Context())
		_, end := backends.Outlive(ctx, time.Minute)
		cancel()
		synctest.Wait()
		end()
	})
}
