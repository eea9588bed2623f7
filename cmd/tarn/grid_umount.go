package main

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"time"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// umountGrid takes several lakes away, and then their root: all of them, or none. What is unsent in any, or open, is told
// before the first one goes.
func (s *session) umountGrid(ctx context.Context, root config.MountOf, now, force bool, wait time.Duration) error {
	lakes, alive, err := lakesOf(root)
	if err != nil {
		s.t.note("what is on record of the lakes cannot be read: %v", err) // a mount can be taken away without its file
	}
	sup, supervised := s.supervisorAt(root)
	if dead, hangs := lookAt(root.Point); dead && supervised && sup.State != "serving" {
		if err := endSupervisor(ctx, sup); err != nil { // it would mount again what is taken away
			return err
		}
	} else if hangs {
		return control.Fail(backends.ErrTemporary, "", "who serves %s does not answer; try again", control.Text(root.Point).Quote())
	}
	var end time.Time
	if wait > 0 {
		end = s.t.now().Add(wait)
	}
	for try := 0; ; try++ {
		err := s.umountLakes(ctx, root, now, force, end)
		if err == nil {
			err = s.umountRoot(ctx, root)
		}
		if err == nil {
			break
		}
		// A lake that was away may have come between.
		if mounts, merr := config.SystemMounts(); errors.Is(err, backends.ErrBusy) && merr == nil && len(lakesBelow(root, mounts)) > 0 && len(usersOf(root.Point)) == 0 && try < 3 {
			continue
		}
		if alive {
			_ = syscall.Kill(lakes.PID, syscall.SIGUSR1) // it mounts again what was taken away already
		}
		return err
	}
	for _, pid := range []int{lakes.Root, sup.PID} {
		if pid == sup.PID && !supervised || pid == lakes.Root && !alive {
			continue
		}
		if err := waitGone(ctx, pid); err != nil {
			return err
		}
	}
	s.t.say("%s unmounted", root.Point)
	return nil
}

// umountLakes takes the lakes away.
func (s *session) umountLakes(ctx context.Context, root config.MountOf, now, force bool, end time.Time) error {
	mounts, err := config.SystemMounts()
	if err != nil {
		return err
	}
	var all []*leaving
	for _, m := range lakesBelow(root, mounts) {
		wait := time.Duration(0)
		if !end.IsZero() {
			wait = max(end.Sub(s.t.now()), time.Millisecond)
		}
		l, err := s.readyToLeave(ctx, m, now, force, wait)
		if err != nil {
			return lakeError(m, err)
		}
		all = append(all, l)
	}
	for _, m := range append(lakesBelow(root, mounts), root) {
		if len(usersOf(m.Point)) > 0 {
			return errInUse(m.Point)
		}
	}
	for _, l := range all {
		if err := s.leave(ctx, l); err != nil {
			return lakeError(l.m, err)
		}
	}
	return nil
}

// lakeError says which lake it is that does not go.
func lakeError(m config.MountOf, err error) error {
	d := control.Describe(err)
	return control.Fail(err, d.Hint, "lake %s: %s", filepath.Base(m.Point), d.Message)
}

// umountRoot takes the root away, which is dead perhaps, and any dead one below it.
func (s *session) umountRoot(ctx context.Context, root config.MountOf) error {
	mounts, err := config.SystemMounts()
	if err != nil {
		return err
	}
	if mountsAt(mounts, root.Point) == 0 {
		return nil // its supervisor took it away
	}
	return detach(ctx, root.Point, deadMount(root.Point))
}
