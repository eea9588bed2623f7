package ingest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// meters measure what an ingest does in this process.
type meters struct {
	now     func() time.Time
	started time.Time // of the monotonic clock

	mu        sync.Mutex // guards the rest
	sent      int64      // bytes
	made      int64      // files made safe
	recent    []mark     // the last ten seconds
	samples   []Sample
	every     time.Duration // between two samples; doubled when there are too many
	latencies Latencies
}

// mark is a moment of the last seconds.
type mark struct {
	at          time.Time
	sent, files int64
}

// mostSamples bounds what Samples gives.
const mostSamples = 2000

// bounds are those of a Histogram.
var bounds = []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second,
	10 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 5 * time.Hour, 12 * time.Hour, 24 * time.Hour, 72 * time.Hour}

func newMeters(now func() time.Time) *meters {
	h := func() Histogram { return Histogram{Bounds: bounds, Counts: make([]int64, len(bounds)+1)} }
	return &meters{now: now, started: time.Now(), every: 500 * time.Millisecond, latencies: Latencies{h(), h(), h()}}
}

func (m *meters) bytes(n int64) { m.mu.Lock(); m.sent += n; m.mu.Unlock() }

func (m *meters) transferred(r *Record) { m.took(&m.latencies.Transferred, r, r.VerifiedAt, 0) }
func (m *meters) safe(r *Record)        { m.took(&m.latencies.Safe, r, r.SafeAt, 1) }
func (m *meters) deleted(r *Record)     { m.took(&m.latencies.Deleted, r, r.DeletedAt, 0) }

// took counts how long a file took.
func (m *meters) took(h *Histogram, r *Record, until time.Time, safe int64) {
	d := until.Sub(r.FoundAt)
	i, _ := slices.BinarySearch(bounds, d)
	m.mu.Lock()
	defer m.mu.Unlock()
	h.Counts[i]++
	m.made += safe
}

// sample notes where things stand.
func (m *meters) sample() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.recent = append(m.recent, mark{now, m.sent, m.made})
	for len(m.recent) > 2 && now.Sub(m.recent[1].at) > 10*time.Second {
		m.recent = m.recent[1:]
	}
	s := Sample{Time: m.now(), Bytes: m.sent, Files: m.made}
	if n := len(m.samples); n > 0 {
		last := m.samples[n-1]
		d := s.Time.Sub(last.Time)
		if d < m.every {
			return
		}
		s.Rate, s.FileRate = float64(s.Bytes-last.Bytes)/d.Seconds(), float64(s.Files-last.Files)/d.Seconds()
	}
	m.samples = append(m.samples, s)
	if len(m.samples) <= mostSamples {
		return
	}
	m.every *= 2
	half := m.samples[:1]
	for i := 2; i < len(m.samples); i += 2 {
		a, b := half[len(half)-1], m.samples[i]
		if d := b.Time.Sub(a.Time).Seconds(); d > 0 {
			b.Rate, b.FileRate = float64(b.Bytes-a.Bytes)/d, float64(b.Files-a.Files)/d
		}
		half = append(half, b)
	}
	m.samples = half
}

// rates are bytes and files a second over the last ten seconds.
func (m *meters) rates() (bytes, files float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.recent) == 0 {
		return 0, 0
	}
	a := m.recent[0]
	d := time.Since(a.at).Seconds()
	if d < 0.1 {
		return 0, 0
	}
	return max(0, float64(m.sent-a.sent)/d), float64(m.made-a.files) / d
}

// sampler samples until ctx ends.
func (m *meters) sampler(ctx context.Context) {
	for {
		m.sample()
		if !sleep(ctx, 500*time.Millisecond) {
			m.sample()
			return
		}
	}
}

// status is how the link is doing.
func (k *link) status() Status {
	c := k.ledger.count()
	s := Status{Definition: k.d, Started: k.meters.started, Changed: c.Trash, Kept: c.Kept, Attempts: c.Tried, Failures: c.Fails, StuckAll: c.Stuck,
		Found: c.Of[Found], Sealed: c.Of[Sealed], Transferred: c.Of[Transferred], Verified: c.Of[Verified], Registered: c.Of[Registered], Safe: c.Of[Safe], Deleted: c.Of[Deleted]}
	if c.First != 0 {
		s.FirstSeen = time.Unix(0, c.First)
	}
	if c.Last != 0 {
		s.LastDone = time.Unix(0, c.Last)
	}
	s.Rate, s.FileRate = k.meters.rates()
	k.mu.Lock()
	for _, part := range slices.Sorted(maps.Keys(k.trouble)) {
		if s.Error != "" {
			s.Error += "; "
		}
		s.Error += k.trouble[part]
	}
	reasons, stalled := k.reasons, k.stalled
	w := k.watcher
	k.mu.Unlock()
	if w != nil {
		s.Incomplete.Files, s.Incomplete.Bytes = w.Incomplete()
		s.Found.Files += s.Incomplete.Files
		s.Found.Bytes += s.Incomplete.Bytes
	}
	if left := s.Found.Files - s.Incomplete.Files - s.Safe.Files; left > 0 && s.FileRate > 0 {
		s.ETA = time.Duration(float64(left) / s.FileRate * float64(time.Second))
	}
	if s.Rate > 0 { // few large files: the bytes tell more
		bytes := time.Duration(float64(s.Found.Bytes-s.Incomplete.Bytes-s.Verified.Bytes) / s.Rate * float64(time.Second))
		s.ETA = max(s.ETA, bytes)
	}
	s.Oldest = k.oldest(reasons)
	stuck, _, _ := k.ledger.next(troubled, nil, 100)
	for _, r := range stuck {
		s.Stuck = append(s.Stuck, r.lagging())
	}
	s.StuckAll += stalled
	for _, r := range reasons {
		if r.stalled && len(s.Stuck) < 100 && !slices.ContainsFunc(stuck, func(x *Record) bool { return x.Path == r.Path }) {
			s.Stuck = append(s.Stuck, r)
		}
	}
	return s
}

// closed says which gate keeps the oldest file waiting, "" for none that is known.
func (s Status) closed() string {
	toSend := s.Oldest.Stage == Found || s.Oldest.Stage == Sealed
	switch {
	case s.State == Paused && s.Paused:
		return "the ingest is paused"
	case s.State == Paused:
		return "no process works on the ingest"
	case s.State == Failed:
		return s.Error
	case s.State == Waiting && toSend:
		return "the schedule lets nothing be sent before its hours, " + s.Schedule
	case s.State == Running && toSend && s.Error != "":
		return s.Error
	case s.State == Running && toSend && s.Bandwidth > 0:
		return fmt.Sprintf("what is sent shares a bandwidth of %d bytes/s", s.Bandwidth)
	}
	return ""
}

// lagging tells of a record.
func (r *Record) lagging() Lagging {
	return Lagging{Path: r.Path, Stage: r.Stage, Bytes: r.Size, Since: r.FoundAt, Attempts: r.Attempts, Reason: r.Error, NextTry: r.NextTry}
}

// oldest is the file that waits for the longest time, as far as the heads of the queues tell.
func (k *link) oldest(reasons []Lagging) *Lagging {
	var out *Lagging
	for _, q := range []byte{toSend, later, sending, pending} {
		rs, _, err := k.ledger.next(q, nil, 1)
		if err != nil {
			continue
		}
		for _, r := range rs {
			l := r.lagging()
			for _, w := range reasons {
				if w.Path == l.Path && l.Reason == "" {
					l.Reason = w.Reason
				}
			}
			if out == nil || l.Since.Before(out.Since) {
				out = &l
			}
		}
	}
	return out
}
