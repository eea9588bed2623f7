package wire

import (
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"7": 7 * time.Second, "-3": 0, "": 0, "x": 0, "99999999999": maxRetryAfter,
		"Thu, 26 Nov 2026 12:00:30 GMT": 30 * time.Second, "Thu, 26 Nov 2020 12:00:30 GMT": 0,
	} {
		if got := RetryAfter(v, now); got != want {
			t.Errorf("%q is %v, want %v", v, got, want)
		}
	}
}
