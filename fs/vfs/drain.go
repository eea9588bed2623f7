package vfs

import (
	"context"
	"fmt"
	"time"

	"tarn/backends"
	"tarn/cache/journal"
)

// await waits until u has reached a state; a failed attempt is its error.
func (up *uploader) await(ctx context.Context, u *unsent, s journal.State) error {
	for {
		u.mu.Lock()
		if u.dropped || rank(u.state) >= rank(s) {
			u.mu.Unlock()
			return nil
		}
		if u.why != "" {
			why := u.why
			u.mu.Unlock()
			return fmt.Errorf("wait for %s: %s: %w", s, why, backends.ErrTemporary)
		}
		c := make(chan struct{})
		u.waiters = append(u.waiters, c)
		u.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		case <-up.v.ctx.Done():
			return fmt.Errorf("wait for %s: the mount %w; the file is in the journal", s, backends.ErrClosed)
		}
	}
}

func rank(s journal.State) int {
	for i, x := range []journal.State{journal.Sealed, journal.Uploaded, journal.Verified, journal.Registered, journal.Attached, journal.Ruled, journal.Safe} {
		if x == s {
			return i
		}
	}
	return -1
}

// Drain uploads what waits without its delay and returns when nothing is left to do,
// or ctx ends; progress is told how many contents are left, about once a second.
func (v *FS) Drain(ctx context.Context, progress func(left int)) error {
	up := v.up
	idle := make(chan struct{})
	up.mu.Lock()
	up.hurry++
	for u := range up.queue.when {
		up.queue.add(u, time.Now())
	}
	up.idle = append(up.idle, idle)
	up.settledLocked()
	up.mu.Unlock()
	up.kick()
	defer func() {
		up.mu.Lock()
		up.hurry--
		up.mu.Unlock()
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-idle:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-v.ctx.Done():
			return backends.ErrClosed
		case <-tick.C:
			if progress != nil {
				up.mu.Lock()
				left := len(up.queue.when) + len(up.running)
				up.mu.Unlock()
				progress(left)
			}
		}
	}
}
