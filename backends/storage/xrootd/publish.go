//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"time"

	"tarn/backends"
)

// renames is how often others may put something in the way of a rename, one after the other.
const renames = 32

// kept ends the names of files that had the name of an upload before. Nobody but who put them there removes them.
const kept = ".old"

// publish moves the file to its place. What is there is put aside a moment before: XRootD would give the old file, as long
// as anybody has it open, to whoever opens the new one; and other servers do not replace. It comes back when that fails.
func (u *upload) publish(ctx context.Context, at info) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := backends.Outlive(ctx, cleanupTime) // a server whose client has gone still moves it
	err := u.move(ctx, at)
	cancel()
	if err != nil {
		err = u.undo(at, err)
	} else {
		u.discard()
	}
	if err != nil {
		return err
	}
	u.tmp = ""
	if u.fresh {
		short, cancel := context.WithTimeout(context.Background(), cleanupTime)
		defer cancel()
		if err := u.s.refresh(short, u.s.remote(u.path)); err != nil {
			u.s.o.Log.Debug("refresh", "at", u.s.at(u.path), "err", err) // whoever opens it asks again
		}
	}
	return nil
}

// move puts aside what is there, and the file in its place.
func (u *upload) move(ctx context.Context, at info) error {
	s, to := u.s, u.s.remote(u.path)
	if u.over {
		if err := u.aside(ctx); err != nil {
			return err
		}
	}
	made := false
	for range renames {
		_, err := s.ask(ctx, s.o.Timeout, fsMv, u.tmp, to)
		if err == nil || ctx.Err() != nil {
			return err
		}
		switch {
		case errors.Is(err, backends.ErrExist):
			if err := u.aside(ctx); err != nil {
				return err
			}
		case u.landed(ctx, at): // the answer was lost on its way
			return nil
		case errors.Is(err, backends.ErrNotExist) && !made: // somebody removed the empty parent
			made = true
			s.forget(path.Dir(u.path))
			if err := s.makeFolder(ctx, path.Dir(u.path)); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return fmt.Errorf("others write there all the time: %w, %w", backends.ErrBusy, backends.ErrTemporary)
}

// landed tells whether the file is in its place, and no longer where it was written: another of this size may be as old.
func (u *upload) landed(ctx context.Context, at info) bool {
	there, err := u.s.lookRemote(ctx, u.s.remote(u.path))
	if err != nil || !there.same(at) {
		return false
	}
	_, err = u.s.lookRemote(ctx, u.tmp)
	return absent(err)
}

// aside keeps what is at the path, if anything.
func (u *upload) aside(ctx context.Context) error {
	s, to := u.s, u.s.remote(u.path)
	there, err := s.lookRemote(ctx, to)
	switch {
	case absent(err):
		return nil
	case err != nil:
		return err
	case there.flags&isDir != 0:
		return backends.ErrIsDir
	}
	u.discard() // of somebody who was there before that
	old := s.remote(uploads + "/" + rand.Text() + kept)
	_, err = s.ask(ctx, s.o.Timeout, fsMv, to, old)
	if errors.Is(err, backends.ErrNotExist) {
		if _, lerr := s.lookRemote(ctx, to); absent(lerr) {
			return nil
		}
	}
	if err == nil || unanswered(err) {
		u.old = old
	}
	return err
}

// unanswered tells that a request may have been done, or may yet be.
func unanswered(err error) bool {
	var f *failure
	return !errors.As(err, &f) || f.code != errResponse
}

// discard removes what was put aside.
func (u *upload) discard() {
	if u.old == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	var err error
	for pause := 100 * time.Millisecond; ctx.Err() == nil; pause *= 2 { // the connection may just have been lost
		if _, err = u.s.ask(ctx, cleanupTime, fsRm, u.old, ""); err == nil || !unanswered(err) {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	if err != nil && !errors.Is(err, backends.ErrNotExist) {
		u.s.o.Log.Warn("a file that was replaced stays on the server", "at", u.s.at(u.path), "file", u.old, "err", err)
	}
	u.old = ""
}

// undo brings back what was put aside, after why. It gives nil when the file turns out to be in its place all the same.
func (u *upload) undo(at info, why error) error {
	s, to := u.s, u.s.remote(u.path)
	if u.old == "" && !unanswered(why) {
		return why
	}
	d := cleanupTime
	if u.old != "" {
		d = s.patience(at.size)
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if u.old == "" {
		// Either the file can be removed, or it was moved.
		_, err := s.ask(ctx, d, fsRm, u.tmp, "")
		if absent(err) && u.landed(ctx, at) {
			return nil
		}
		return why
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		_, err := s.lookRemote(ctx, to)
		switch {
		case err == nil && u.landed(ctx, at):
			u.discard()
			return nil
		case err == nil: // it never went, is back, or is somebody else's
			u.discard()
			return why
		case absent(err):
			_, err = s.ask(ctx, s.o.Timeout, fsMv, u.old, to)
			if err == nil {
				u.old = ""
				return why
			}
			if errors.Is(err, backends.ErrNotExist) { // somebody removed the empty parent
				s.forget(path.Dir(u.path))
				s.makeFolder(ctx, path.Dir(u.path))
			}
		}
		select {
		case <-time.After(pause):
			continue
		case <-s.ctx.Done():
		case <-ctx.Done():
		}
		s.o.Log.Error("a file that was to be replaced could not be put back: it is at old, what was to replace it at new, for a day",
			"at", s.at(u.path), "old", u.old, "new", u.tmp, "err", err)
		u.tmp, u.old = "", ""
		return why
	}
}
