package journal

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// runningHash follows writes that come in order, beside the writer: what is small is
// hashed as it comes, the rest by a goroutine that reads it back from the page cache, so
// that a writer waits for no checksum and no copy is queued. The blocks of a fast writer are
// hashed while they are written; see writeHashed. n bytes from the start of
// the file came in order; whatever happens below n makes it dirty, and Seal reads the
// file again. What a follower reads while that happens may be anything.
type runningHash struct {
	mu     sync.Mutex // guards the rest
	h      *digest    // the follower's while there is one
	n      int64      // came in order
	done   int64      // of n, went through h
	ragged bool       // bytes beyond n were written: Seal reads on from done
	dirty  bool       // bytes below n have changed: Seal reads everything
	run    *follower  // nil: none runs

	// The pace: fast once a window of j.late bytes came within j.lateTime.
	fast  bool
	mark  int64 // where the window began
	since time.Time
}

// follower is a goroutine that hashes what was written. It ends when it has caught up, so
// that an idle entry has none.
type follower struct {
	once  sync.Once
	halt  chan struct{} // closed, by once: end soon
	ended chan struct{}
}

const (
	// behind is how much is left to a follower. A file below it never has one.
	behind = 256 << 10
	// hashTurn is how much a follower hashes before it lets another one.
	hashTurn = 16 << 20
)

// writeHashed writes, and has the bytes hashed. Those of a writer who is fast, and in order,
// are hashed while they are written: they are in the processor's cache then, and to read
// them back would cost as much again. The caller has the data file acquired.
func (e *Entry) writeHashed(f File, p []byte, off int64) (int, error) {
	r := &e.hash
	r.mu.Lock()
	if r.fast && r.run != nil && len(p) >= sideBySide && r.n-r.done <= hashTurn { // take over
		r.mu.Unlock()
		r.stop()
		r.mu.Lock()
	}
	if len(p) < sideBySide || off != r.n || !r.takesOver(f) {
		r.mu.Unlock()
		n, err := f.WriteAt(p, off)
		e.hashWritten(f, p[:n], off)
		return n, err
	}
	// Held until the bytes are written, so that another write that overlaps them is told later.
	defer r.mu.Unlock()
	var beside sync.WaitGroup
	beside.Go(func() { r.h.Write(p) })
	n, err := f.WriteAt(p, off)
	beside.Wait()
	if r.n += int64(n); n < len(p) {
		r.dirty = true // more was hashed
	}
	r.done = r.n
	return n, err
}

// takesOver brings the checksum of a fast writer to n, so that the next block can be hashed
// as it is written; false when that cannot be. The caller holds mu.
func (r *runningHash) takesOver(f File) bool {
	if !r.fast || r.h == nil || r.run != nil || r.ragged || r.dirty || r.n-r.done > hashTurn {
		return false
	}
	r.h.giveUp()
	if err := hashRange(r.h, f, r.done, r.n); err != nil {
		r.dirty = true
		return false
	}
	r.done = r.n
	return true
}

// hashWritten is told of every write after it is done. Of two writes that overlap and
// race, the one told last finds n beyond its start, or the other one ragged, so that
// bytes of which the order on the disk is unknown are always read again. The caller has
// the data file acquired.
func (e *Entry) hashWritten(f File, p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	r := &e.hash
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case off < r.n:
		r.dirty = true
		return
	case off > r.n || r.ragged || r.dirty || r.h == nil:
		r.ragged = true
		return
	}
	r.n += int64(len(p))
	r.pace(e.j)
	switch {
	case r.run != nil:
	case r.done == off && (r.n <= behind || r.fast && len(p) < sideBySide):
		if r.fast {
			r.h.giveUp() // the rest of a block that the kernel cut: quick
		}
		r.h.Write(p)
		r.done = r.n
	case r.n-r.done >= behind:
		if _, err := e.j.files.acquire(&e.data, false); err != nil {
			return // Seal reads it
		}
		r.run = &follower{halt: make(chan struct{}), ended: make(chan struct{})}
		go e.follow(f, r.run)
	}
}

// pace notes how fast the writes come; the caller holds mu.
func (r *runningHash) pace(j *Journal) {
	if r.fast || r.n-r.mark < j.late {
		return
	}
	now := time.Now()
	r.fast = !r.since.IsZero() && now.Sub(r.since) < j.lateTime
	r.mark, r.since = r.n, now
}

// follow hashes until all that came in order is hashed.
func (e *Entry) follow(f File, run *follower) {
	defer e.j.files.release(&e.data)
	defer close(run.ended)
	r := &e.hash
	for {
		select {
		case e.j.hashing <- struct{}{}:
			if e.alive() != nil {
				r.changed(-1) // nobody wants its checksum
			}
			more := r.turn(f, run)
			<-e.j.hashing
			if more {
				continue
			}
			return
		case <-run.halt:
		case <-e.j.quit: // what it computes is for a Seal
		}
		r.mu.Lock()
		r.run = nil
		r.mu.Unlock()
		return
	}
}

// turn is one turn of a follower; false when it was the last.
func (r *runningHash) turn(f File, run *follower) bool {
	for range hashTurn / behind {
		r.mu.Lock()
		h, from, to := r.h, r.done, min(r.n, r.done+behind)
		end := from >= to || r.dirty
		select {
		case <-run.halt:
			end = true
		default:
		}
		if !end && r.fast {
			h.giveUp()
		}
		if end { // in one step with the look at n: the next write brings another
			r.run = nil
			r.mu.Unlock()
			return false
		}
		r.mu.Unlock()
		err := hashRange(h, f, from, to)
		r.mu.Lock()
		if r.done = to; err != nil {
			r.dirty = true // Seal tries again, and tells
		}
		r.mu.Unlock()
	}
	return true
}

// stop ends the follower. The next write may bring a new one.
func (r *runningHash) stop() {
	r.mu.Lock()
	run := r.run
	r.mu.Unlock()
	if run != nil {
		run.once.Do(func() { close(run.halt) })
		<-run.ended
	}
}

// changed is told of every other change of the bytes from off; no write races with it.
func (r *runningHash) changed(off int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off < r.n {
		r.dirty = true
	}
}

// reset begins again with an empty file; no write races with it.
func (r *runningHash) reset(h *digest) {
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h, r.n, r.done, r.ragged, r.dirty = h, 0, 0, false, false
	r.fast, r.mark, r.since = false, 0, time.Time{}
}

// finishHash brings the running checksum to the end of the file, reading what was not
// hashed as it was written; late: the slow ones would take too long. The caller holds
// gate alone.
func (e *Entry) finishHash(f File, size int64) (sums map[string]string, late bool, err error) {
	r := &e.hash
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock() // nobody waits for it
	if r.h == nil || r.dirty || r.n > size {
		r.h, r.done, r.dirty, r.fast = e.j.newDigest(), 0, false, false
	}
	if r.fast || size-r.done > e.j.late {
		r.h.giveUp()
	}
	if err := hashRange(r.h, f, r.done, size); err != nil {
		r.h, r.n, r.done = nil, 0, 0
		return nil, false, err
	}
	r.n, r.done, r.ragged = size, size, false
	return r.h.sums(), r.h.late, nil
}

// hashBuffers are small enough for a core's own cache.
var hashBuffers = sync.Pool{New: func() any { b := make([]byte, behind); return &b }}

func hashRange(h io.Writer, f File, from, to int64) error {
	if from >= to {
		return nil
	}
	buf := hashBuffers.Get().(*[]byte)
	defer hashBuffers.Put(buf)
	for from < to {
		p := (*buf)[:min(int64(len(*buf)), to-from)]
		n, err := f.ReadAt(p, from)
		h.Write(p[:n])
		from += int64(n)
		if n < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %d of %d for its checksum: %w", from, to, err)
		}
	}
	return nil
}
