package laketest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"tarn/backends"
)

// Tape is a tape system in memory over a Storage: a recall of a file takes a fixed time.
type Tape struct {
	Storage *Storage
	Delay   time.Duration // from Stage until the file is online

	mu       sync.Mutex
	state    map[string]backends.Locality // of files not only ONLINE in the buffer
	broken   map[string]string            // recalls of the path fail with the text
	requests map[backends.RecallID]*request
	pins     map[string]int
	fail     func(op string) error
	calls    map[string]int
	asked    [][]string // the paths of each Stage
	seq      int
}

type request struct {
	paths []string
	begun time.Time
	phase map[string]backends.RecallPhase
}

var _ backends.Tape = (*Tape)(nil)

// NewTape gives an empty tape system.
func NewTape(delay time.Duration) *Tape {
	t := &Tape{Storage: NewStorage(), Delay: delay, state: map[string]backends.Locality{}, broken: map[string]string{},
		requests: map[backends.RecallID]*request{}, pins: map[string]int{}, calls: map[string]int{}}
	t.Storage.Tape = t
	return t
}

// Put stores a file on tape at once, evicted from the buffer.
func (t *Tape) Put(path string, data []byte) {
	t.Storage.Put(path, data)
	t.Set(path, backends.Nearline)
}

// Set sets the locality of a path.
func (t *Tape) Set(path string, l backends.Locality) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state[path] = l
}

// Break makes recalls of the path fail with the text; "" mends it.
func (t *Tape) Break(path, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken[path] = why
}

// Fail makes every method ask f first.
func (t *Tape) Fail(f func(op string) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail = f
}

// Forget drops all requests, as a restarted server would.
func (t *Tape) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.requests)
	clear(t.pins)
}

// Calls tells how often the method of that name, in lower case, was called.
func (t *Tape) Calls(op string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls[op]
}

// Asked gives the paths of each Stage so far.
func (t *Tape) Asked() [][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.asked)
}

// Pins tells how many requests keep the path online or are bringing it.
func (t *Tape) Pins(path string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pins[path]
}

func (t *Tape) written(path string) { t.Set(path, backends.Online) }

func (t *Tape) online(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moveLocked()
	return t.state[path].IsOnline()
}

func (t *Tape) begin(ctx context.Context, op string) error {
	t.mu.Lock()
	t.calls[op]++
	f := t.fail
	t.mu.Unlock()
	err := ctx.Err()
	if err == nil && f != nil {
		err = f(op)
	}
	if err != nil {
		return &backends.OpError{Op: op, At: "tape", Err: err}
	}
	return nil
}

// moveLocked brings the requests to the present.
func (t *Tape) moveLocked() {
	for _, r := range t.requests {
		if time.Since(r.begun) < t.Delay {
			continue
		}
		for _, p := range r.paths {
			if r.phase[p].Ended() {
				continue
			}
			switch {
			case t.broken[p] != "", t.state[p] == backends.Lost, t.state[p] == "":
				r.phase[p] = backends.RecallFailed
				t.pins[p]--
			default:
				r.phase[p] = backends.RecallCompleted
				if t.state[p] == backends.Nearline {
					t.state[p] = backends.OnlineAndNearline
				}
			}
		}
	}
}

// Locality is backends.Tape's.
func (t *Tape) Locality(ctx context.Context, paths ...string) ([]backends.Locality, error) {
	if err := t.begin(ctx, "locality"); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moveLocked()
	var out []backends.Locality
	for _, p := range paths {
		l := t.state[p]
		if l == "" {
			l = backends.NoLocality
		}
		out = append(out, l)
	}
	return out, nil
}

// Stage is backends.Tape's.
func (t *Tape) Stage(ctx context.Context, paths ...string) (backends.RecallID, error) {
	if err := t.begin(ctx, "stage"); err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	id := backends.RecallID(fmt.Sprintf("req%d", t.seq))
	r := &request{paths: slices.Clone(paths), begun: time.Now(), phase: map[string]backends.RecallPhase{}}
	for _, p := range paths {
		t.pins[p]++
		r.phase[p] = backends.RecallSubmitted
		if t.state[p].IsOnline() {
			r.phase[p] = backends.RecallCompleted
		}
	}
	t.requests[id] = r
	t.asked = append(t.asked, slices.Clone(paths))
	return id, nil
}

// Poll is backends.Tape's.
func (t *Tape) Poll(ctx context.Context, id backends.RecallID) ([]backends.RecallState, error) {
	if err := t.begin(ctx, "poll"); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moveLocked()
	r := t.requests[id]
	if r == nil {
		return nil, fmt.Errorf("poll %s: %w", id, backends.ErrNotExist)
	}
	var out []backends.RecallState
	for i, p := range r.paths {
		s := backends.RecallState{Path: p, Phase: r.phase[p]}
		switch s.Phase {
		case backends.RecallFailed:
			s.Error = t.broken[p]
		case backends.RecallSubmitted:
			s.Position, s.ETA = i+1, t.Delay-time.Since(r.begun)
		}
		out = append(out, s)
	}
	return out, nil
}

func (t *Tape) end(ctx context.Context, op string, id backends.RecallID, paths []string) error {
	if err := t.begin(ctx, op); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moveLocked()
	r := t.requests[id]
	if r == nil {
		return fmt.Errorf("%s %s: %w", op, id, backends.ErrNotExist)
	}
	if len(paths) == 0 {
		paths = r.paths
	}
	for _, p := range paths {
		switch r.phase[p] {
		case backends.RecallFailed, backends.RecallCancelled:
		default:
			t.pins[p]--
			r.phase[p] = backends.RecallCancelled
			if t.pins[p] == 0 && t.state[p] == backends.OnlineAndNearline {
				t.state[p] = backends.Nearline
			}
		}
	}
	return nil
}

// Cancel is backends.Tape's.
func (t *Tape) Cancel(ctx context.Context, id backends.RecallID, paths ...string) error {
	return t.end(ctx, "cancel", id, paths)
}

// Release is backends.Tape's; a file that nobody keeps is evicted at once.
func (t *Tape) Release(ctx context.Context, id backends.RecallID, paths ...string) error {
	return t.end(ctx, "release", id, paths)
}

// Plan is backends.Tape's, for one tape and one mount.
func (t *Tape) Plan(ctx context.Context, paths ...string) (backends.RecallPlan, error) {
	if err := t.begin(ctx, "plan"); err != nil {
		return backends.RecallPlan{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := backends.RecallPlan{Files: len(paths), Tapes: 1, Mounts: 1, Time: t.Delay}
	for _, x := range paths {
		if t.state[x].IsOnline() {
			p.Online++
		} else {
			p.Bytes += int64(len(t.Storage.Get(x)))
		}
	}
	return p, nil
}

// Evict drops every file that nobody keeps from the buffer.
func (t *Tape) Evict() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range maps.Clone(t.state) {
		if t.pins[p] == 0 && t.state[p].IsOnline() {
			t.state[p] = backends.Nearline
		}
	}
}
