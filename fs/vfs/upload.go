package vfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/backends/tune"
	"tarn/cache/journal"
)

// uploader carries sealed contents through SEALED, UPLOADED, VERIFIED, REGISTERED,
// ATTACHED, RULED to SAFE. Each step is noted durably in the journal and can be done
// again, so that a crash anywhere is taken up where it was.
type uploader struct {
	v   *FS
	max int

	mu      sync.Mutex // guards the rest
	queue   queue
	pace    pace
	running map[uint64]*unsent // by inode: contents of one file go in order
	hurry   int                // drains under way: nothing waits for its delay
	wake    chan struct{}
	next    time.Time       // when the loop wakes by itself
	idle    []chan struct{} // closed when nothing is queued or running
}

func newUploader(v *FS, most int) *uploader {
	return &uploader{v: v, max: most, queue: newQueue(), pace: pace{tune: tune.New(most, max(most, smallAtMost))}, running: map[uint64]*unsent{}, wake: make(chan struct{}, 1)}
}

func (up *uploader) start() { up.v.goDo(up.loop) }

func (up *uploader) kick() {
	select {
	case up.wake <- struct{}{}:
	default:
	}
}

// add queues u to be uploaded after delay.
func (up *uploader) add(u *unsent, delay time.Duration) {
	up.mu.Lock()
	if up.hurry > 0 && delay > 0 && delay <= up.v.opt.Delay {
		delay = 0
	}
	due := time.Now().Add(delay) // waiting is on the monotonic clock, not the lake's
	up.queue.add(u, due)
	early := due.Before(up.next)
	up.mu.Unlock()
	if early {
		up.kick()
	}
}

// forget takes u out of the queue.
func (up *uploader) forget(u *unsent) {
	up.mu.Lock()
	up.queue.remove(u)
	up.settledLocked()
	up.mu.Unlock()
}

func (up *uploader) settledLocked() {
	if len(up.queue.when) == 0 && len(up.running) == 0 {
		for _, c := range up.idle {
			close(c)
		}
		up.idle = nil
	}
}

func (up *uploader) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := up.launch(ctx)
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-up.wake:
		case <-timer.C:
		}
	}
}

// launch starts what is due and tells when the next one will be.
func (up *uploader) launch(ctx context.Context) time.Duration {
	up.mu.Lock()
	defer up.mu.Unlock()
	now := time.Now()
	next := time.Hour
	if at, some := up.queue.ripen(now); some {
		next = min(next, at.Sub(now))
	}
	claim := func(u *unsent) bool {
		if up.running[u.inode] != nil {
			return false // the end of that wakes the loop
		}
		up.running[u.inode] = u
		return true
	}
	begin := func(l *line, limit int) bool {
		some, full := up.queue.take(l, limit, now, claim)
		for _, u := range some {
			up.v.goDo(func(context.Context) { up.run(ctx, u, l) })
		}
		return full
	}
	begin(&up.queue.large, up.max)
	up.pace.told(now, begin(&up.queue.small, up.pace.tune.Limit()), up.v.stats.sent.Load())
	up.next = now.Add(next)
	return next
}

// run is one upload of a line.
func (up *uploader) run(ctx context.Context, u *unsent, l *line) {
	again, wait := up.one(ctx, u)
	up.mu.Lock()
	delete(up.running, u.inode)
	l.running--
	up.pace.ended++
	if _, queued := up.queue.when[u]; again && !queued && !u.gone() {
		up.queue.add(u, time.Now().Add(wait))
	}
	up.settledLocked()
	up.mu.Unlock()
	up.kick()
}

// freeze makes u's bytes final for an upload; false: it is not to be uploaded now.
func (u *unsent) freeze(stop context.CancelFunc) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.dropped || u.ended || u.dirty || u.sealing != nil || u.pending > 0 || u.path == "" || u.state == journal.Abandoned {
		return false
	}
	u.frozen, u.busy = true, stop
	return true
}

// stillOpen tells whether somebody may go on writing u: a process that forks closes its
// copies of the descriptors, which seals the file each time, and half a file is not to
// be published. A close that waits for the upload cannot wait for that, nor can a drain.
func (up *uploader) stillOpen(u *unsent) bool {
	up.mu.Lock()
	hurry := up.hurry > 0
	up.mu.Unlock()
	if hurry || up.v.opt.Close.waits() || u.registered() {
		return false
	}
	n := up.v.Known(u.inode)
	if n == nil {
		return false
	}
	defer n.Forget(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, since := range n.open {
		if n.work == u && !since.After(u.written) {
			u.held = true
			return true // it was open when the content last changed: it may be its writer
		}
	}
	return false
}

// one carries u as far as it goes now; again: it shall be tried once more after wait.
func (up *uploader) one(ctx context.Context, u *unsent) (again bool, wait time.Duration) {
	if up.stillOpen(u) {
		return true, max(up.v.opt.Delay, 250*time.Millisecond)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if !u.freeze(stop) {
		return false, 0
	}
	up.supersede(u)
	err := up.advance(ctx, u)
	u.mu.Lock()
	u.busy = nil
	dropped := u.dropped
	u.mu.Unlock()
	switch {
	case dropped:
		up.discard(u)
		return false, 0
	case err == nil:
		return false, 0
	case errors.Is(err, errNotYet):
		return true, 250 * time.Millisecond
	case ctx.Err() != nil:
		return false, 0 // the mount ends; the journal has it
	}
	attempts := 0
	rerr := u.entry.Update(func(r *journal.Record) {
		r.Error = err.Error()
		r.Attempts++
		attempts = r.Attempts
		r.NextTry = up.v.now().Add(backoff(attempts))
	})
	if rerr != nil {
		up.v.log.Error("note a failed upload", "id", u.id, "err", rerr)
	}
	u.mu.Lock()
	u.why = err.Error()
	u.changedLocked()
	p := u.path
	u.mu.Unlock()
	up.v.stats.uploadErrors.Add(1)
	up.v.log.Warn("upload failed", "path", p, "id", u.id, "attempt", attempts, "err", err)
	if errors.Is(err, errRotten) {
		return false, 0
	}
	return true, backoff(attempts)
}

// errNotYet: nothing failed, but the tape copy is still only in the disk buffer, or the
// file is just being renamed.
var errNotYet = errors.New("not yet")

// errRotten: the local bytes are not those that were sealed; they are kept, and never uploaded.
var errRotten = errors.New("the local copy changed on disk after it was written; it is kept aside and not uploaded")

// backoff is 1 s, doubling to a minute, with a quarter of jitter.
func backoff(attempts int) time.Duration {
	d := time.Second << min(max(attempts-1, 0), 6)
	d = min(d, time.Minute)
	return d - d/8 + rand.N(d/4)
}

// reach notes that u has reached a state.
func (u *unsent) reach(s journal.State, more func(*journal.Record)) error {
	if err := u.note(true, func(r *journal.Record) {
		r.State, r.Error = s, ""
		if more != nil {
			more(r)
		}
	}); err != nil {
		return err
	}
	u.mu.Lock()
	u.state, u.why = s, ""
	u.changedLocked()
	u.mu.Unlock()
	return nil
}

func (up *uploader) advance(ctx context.Context, u *unsent) error {
	v := up.v
	for {
		r := u.entry.Record()
		var err error
		switch r.State {
		case journal.Writing: // found after a crash, synced: sealed by the look at it
			if err = u.proved(); err == nil && u.entry.State() == journal.Writing {
				err = errNotYet // a write came in between; its close queues it again
			}
		case journal.Sealed:
			err = up.first(ctx, u, r)
		case journal.Uploaded:
			err = u.reach(journal.Verified, nil) // Store verifies before it returns
		case journal.Verified:
			err = up.register(ctx, u, r)
		case journal.Registered:
			err = u.reach(journal.Attached, nil) // in layout lfn the name attaches; register did the rest
		case journal.Attached:
			if err = up.rule(ctx, u); err == nil {
				err = u.reach(journal.Ruled, nil)
			}
		case journal.Ruled:
			if err = up.further(ctx, u, r); err == nil {
				err = u.reach(journal.Safe, nil)
			}
		case journal.Safe:
			v.settle(u)
			return nil
		default:
			return fmt.Errorf("journal entry %s in state %s: %w", u.id, r.State, backends.ErrDamaged)
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// proved compares the local bytes with what was sealed, once in u's life, computes the
// checksums that the seal did not wait for, and seals what a crash left synced.
func (u *unsent) proved() error {
	u.mu.Lock()
	done := u.known
	u.mu.Unlock()
	if done && !u.isRotten() {
		return nil
	}
	if err := u.entry.Verify(); errors.Is(err, journal.ErrDamaged) {
		return fmt.Errorf("%w: %w", errRotten, err)
	} else if err != nil {
		return local(err)
	}
	r := u.entry.Record()
	u.mu.Lock()
	u.known = true
	u.state, u.sums, u.sealed = r.State, sumsOf(r), r.Size
	u.mu.Unlock()
	return nil
}

// replica is copy c as the catalogue knows it.
func (up *uploader) replica(c journal.Copy) backends.Replica {
	return backends.Replica{RSE: c.RSE, PFN: c.PFN, State: backends.Available, Verified: up.v.now()}
}

// register gives the content its place in the catalogue, under the lock of its
// directory, so that no rename or unlink comes between.
func (up *uploader) register(ctx context.Context, u *unsent, r journal.Record) error {
	v := up.v
	parent, err := v.Resolve(ctx, path.Dir(u.where()))
	if err != nil {
		return fmt.Errorf("register %s: its directory: %w", u.where(), err)
	}
	defer parent.Forget(1)
	v.tree.RLock()
	defer v.tree.RUnlock()
	parent.dir.Lock()
	defer parent.dir.Unlock()
	u.mu.Lock()
	p, dropped := u.path, u.dropped
	u.mu.Unlock()
	if dropped {
		return context.Canceled
	}
	if path.Dir(p) != parent.Path() {
		return fmt.Errorf("register %s: it is being renamed: %w", p, errNotYet)
	}
	did, err := v.lake.ChildDID(parent.Info(), path.Base(p))
	if err != nil {
		return err
	}
	r.Meta = u.entry.Record().Meta // it may have changed since, but not any more
	sums := checksum.FromMap(r.Sums)
	u.mu.Lock()
	in := backends.Info{
		DID: did, Type: backends.File, Size: r.Size, Checksums: sums, Generation: backends.GenerationOf(did, r.Size, sums),
		Mode: u.mode, UID: u.uid, GID: u.gid, MTime: u.mtime, CTime: u.ctime, Born: u.born, Inode: u.inode,
	}
	u.mu.Unlock()
	var reps []backends.Replica
	for _, c := range r.Copies {
		if rse, ok := v.lake.RSE(c.RSE); ok && rse.Astray(did, c.PFN) {
			return up.again(ctx, u, r.Copies)
		}
		if c.State == journal.Verified {
			reps = append(reps, up.replica(c))
		}
	}
	if err := v.lake.Catalogue().Add(ctx, in, r.Meta, reps...); err != nil {
		return fmt.Errorf("register %s: %w", p, err)
	}
	if err := v.attach(ctx, parent.Info(), did); err != nil {
		return fmt.Errorf("attach %s: %w", p, err)
	}
	if err := v.refresh(ctx, in); err != nil {
		return fmt.Errorf("register %s: %w", p, err)
	}
	copies, other, err := v.align(ctx, did, r.Copies)
	if err != nil {
		return fmt.Errorf("register %s: %w", p, err)
	}
	if n := v.Known(u.inode); n != nil { // before u leaves the attributes to it
		n.mu.Lock()
		n.info = in
		n.mu.Unlock()
		n.Forget(1)
	}
	if err := u.reach(journal.Registered, func(r *journal.Record) { r.Copies = slices.Clone(copies) }); err != nil {
		return err
	}
	for _, c := range other {
		up.removeCopy(ctx, c)
	}
	v.mu.Lock()
	v.nameLocked(u, "")
	v.mu.Unlock()
	parent.names.Add(1)
	up.outdate(u)
	v.stats.registered.Add(1)
	return nil
}

// again forgets the copies of a file that was renamed after they were stored, where their paths follow from the name: it is
// to be stored under the new one.
func (up *uploader) again(ctx context.Context, u *unsent, copies []journal.Copy) error {
	for _, c := range copies {
		up.removeCopy(ctx, c)
	}
	if err := u.reach(journal.Sealed, func(r *journal.Record) { r.Copies = nil }); err != nil {
		return err
	}
	up.v.lake.LetGo(lake.Holder(u.id))
	return nil
}

// refresh gives the file the attributes of in. Where it had this very content already,
// it kept those of the older one.
func (v *FS) refresh(ctx context.Context, in backends.Info) error {
	ns := v.lake.Namespace()
	if ns == nil || !v.lake.Catalogue().Traits().Attributes {
		return nil
	}
	has, err := v.lake.Catalogue().Stat(ctx, in.DID)
	if err != nil || has.Mode == in.Mode && has.UID == in.UID && has.GID == in.GID && has.MTime.Equal(in.MTime) {
		return err
	}
	return ns.Update(ctx, in.DID, backends.Change{Mode: &in.Mode, UID: &in.UID, GID: &in.GID, MTime: &in.MTime})
}

// rule adds the write rules to the file.
func (up *uploader) rule(ctx context.Context, u *unsent) error {
	rules := up.v.lake.Rules()
	if rules == nil {
		return nil
	}
	err := up.v.inPlace(ctx, u, func(in backends.Info) error {
		for _, r := range up.v.lake.WriteRules() {
			r.DID = in.DID
			if _, err := rules.AddRule(ctx, r); err != nil {
				return fmt.Errorf("add rule %q for %s: %w", r.Expression, in.DID, err)
			}
		}
		return nil
	})
	if isGone(err) {
		return nil // removed or replaced meanwhile
	}
	return err
}
