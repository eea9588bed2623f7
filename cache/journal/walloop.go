package journal

import (
	"errors"
	"time"
)

func newWAL(j *Journal, o Options, syncAll func() error) *wal {
	w := &wal{
		j: j, size: o.logSize, few: checkpointFew,
		most:   min(max(o.DirtyFiles/3, segmentLeast), segmentMost),
		max:    o.logSegments,
		manual: o.manualLog, every: o.SyncEvery,
		now: make(chan struct{}, 1), later: make(chan struct{}, 1),
		syncSoon: make(chan struct{}, 1), wanting: make(chan struct{}, 1),
		written: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	w.group = &groupSync{do: w.syncSegments}
	w.all = &groupSync{do: syncAll}
	return w
}

// kick asks the background for something; it waits for nothing.
func (w *wal) kick(c chan struct{}) {
	if w.manual {
		return
	}
	w.loop.Do(func() {
		w.running.Go(w.runCheckpoints)
		w.running.Go(w.runSyncs)
		w.running.Go(w.runSpills)
	})
	select {
	case c <- struct{}{}:
	default:
	}
}

// runCheckpoints makes the log when it is wanted, and a checkpoint when a segment is full or
// some time after one was begun.
func (w *wal) runCheckpoints() {
	var timer <-chan time.Time
	var again time.Time // not before, although asked for
	for {
		select {
		case <-w.quit:
			return
		case <-w.wanting:
			w.widen()
			continue
		case <-w.later:
			if timer == nil {
				timer = time.After(checkpointAfter)
			}
			continue
		case <-w.now:
			if wait := time.Until(again); wait > 0 {
				timer = time.After(wait)
				continue
			}
		case <-timer:
		}
		timer = nil
		if err := w.checkpoint(); err != nil {
			w.j.log.Warn("journal: checkpoint of the log", "err", err)
			timer = time.After(checkpointAfter)
			again = time.Now().Add(time.Second) // the disk may be full
		} else if w.used() {
			timer = time.After(checkpointAfter)
		}
	}
}

// widen makes the log, or one more segment of it. What fails is not tried again.
func (w *wal) widen() {
	w.mu.Lock()
	have := len(w.segmentsLocked())
	usable, most := w.broken == nil, w.max
	w.mu.Unlock()
	switch {
	case !usable:
	case have == 0:
		if err := w.make(); err != nil {
			w.j.log.Info("journal: works without a log", "err", err)
		}
	case have < most:
		if err := w.grow(); err != nil {
			w.j.log.Info("journal: the log does not grow", "segments", have, "err", err)
			w.mu.Lock()
			w.max = have
			w.mu.Unlock()
		}
	}
}

func (w *wal) used() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cur != nil && !w.pinned && (w.cur.off > segStart || len(w.olds) > 0)
}

// runSyncs syncs what SealLazy took.
func (w *wal) runSyncs() {
	var timer <-chan time.Time
	for {
		select {
		case <-w.quit:
			return
		case <-w.syncSoon:
			if timer == nil {
				timer = time.After(w.every)
			}
		case <-timer:
			timer = nil
			_ = w.sync() // its failure is logged, and the entries' files become durable otherwise
		}
	}
}

// runSpills gives files to what is in memory for too long.
func (w *wal) runSpills() {
	var timer <-chan time.Time
	for {
		select {
		case <-w.quit:
			return
		case <-w.written:
			if timer == nil {
				timer = time.After(residentFor)
			}
		case <-timer:
			timer = nil
			if w.j.spillOld(residentFor) {
				timer = time.After(residentFor / 4)
			}
		}
	}
}

// wanted tells whether there is a log. When enough small files were sealed without, one is
// made.
func (w *wal) wanted() bool {
	if w.ready() {
		return true
	}
	if w.failed() == nil && w.sealed.Add(1) == logAfter {
		w.kick(w.wanting)
	}
	return false
}

// ready tells whether there is a log that can be used.
func (w *wal) ready() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cur != nil && w.broken == nil
}

// stop ends the background and waits for it.
func (w *wal) stop() {
	w.loop.Do(func() {}) // none begins any more
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
	w.running.Wait()
}

// close closes the files of the log.
func (w *wal) close() error {
	w.stop()
	var errs []error
	segs := w.segments()
	w.mu.Lock()
	segs = append(segs, w.dead...)
	w.cur, w.olds, w.free, w.dead = nil, nil, nil, nil
	w.mu.Unlock()
	for _, s := range segs {
		errs = append(errs, s.file.Close())
	}
	return errors.Join(errs...)
}
