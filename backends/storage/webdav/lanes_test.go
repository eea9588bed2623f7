package webdav

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// TestLanes: however many checksums are asked for, a connection rests after each, and there are no more connections
// than lanes; Close finds all of them.
func TestLanes(t *testing.T) {
	var mu sync.Mutex
	last := map[string]time.Time{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		at, used := last[r.RemoteAddr]
		last[r.RemoteAddr] = time.Now()
		mu.Unlock()
		if d := time.Since(at); used && d < laneRest {
			t.Errorf("the connection is used again after %v", d)
		}
		w.Header().Set("Server", "XrootD/5")
		w.Header().Set("Digest", "adler32=00000001")
	}))
	defer srv.Close()
	s := open(t, Options{URL: srv.URL + "/x"})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 40 {
				if _, err := s.Checksum(t.Context(), "f"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	mu.Lock()
	n := len(last)
	mu.Unlock()
	if n > maxLanes {
		t.Errorf("%d connections", n)
	}
}

// TestLanesAreMade: while no lane has rested another one is made, up to the limit.
func TestLanesAreMade(t *testing.T) {
	s := open(t, Options{URL: "http://127.0.0.1:1/x"})
	made := 0
	for s.another() {
		made++
	}
	if made != maxLanes-lanes {
		t.Errorf("%d were made", made)
	}
	s.spare.Store(0)
	for range made { // as their users give them back
		s.lanes <- &lane{}
	}
}
