package main

import (
	"context"
	"slices"
	"syscall"
	"time"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// bringBack is a second mount of several lakes where they are mounted: the lakes that are missing there are tried now, those that somebody
// unmounted, too. It waits for the attempts, but not for long, and tells what is there. false: nothing is missing, or it is another mount.
func (s *session) bringBack(ctx context.Context, o mountOptions) (here bool, err error) {
	if o.grid == nil {
		return false, nil
	}
	v, ok, err := supervisorOf(o.cfg)
	if err != nil || !ok || v.Mountpoint != o.point {
		return false, err
	}
	lakes, err := control.ReadLakes(o.cfg.Run)
	if err != nil || lakes.Root == 0 || born(lakes.PID) != lakes.Born {
		return false, nil // the mount tells what it is
	}
	began := s.t.now()
	missing, err := missingLakes(lakes, time.Time{})
	if err != nil || len(missing) == 0 {
		return false, err
	}
	if err := syscall.Kill(lakes.PID, syscall.SIGUSR1); err != nil {
		return false, nil // it has ended meanwhile
	}
	for end := began.Add(firstTry); s.t.now().Before(end); {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return true, context.Cause(ctx)
		}
		if lakes, err = control.ReadLakes(o.cfg.Run); err != nil {
			return true, err
		}
		if missing, err = missingLakes(lakes, began); err != nil {
			return true, err
		}
		if len(missing) == 0 {
			break
		}
	}
	for _, l := range o.grid.lakes {
		if !slices.ContainsFunc(lakes.Lakes, func(x control.LakeState) bool { return x.Name == l.name && x.Lake == l.cfg.File() }) {
			s.t.note("lake %s is new in %s: it comes when the whole is unmounted and mounted again", l.name, o.cfg.File())
		}
	}
	s.sayLakes(o, logPath(o.cfg))
	return true, nil
}

// missingLakes are those that are not mounted, nor have been tried since.
func missingLakes(l control.Lakes, since time.Time) (names []string, err error) {
	mounts, err := config.SystemMounts()
	if err != nil {
		return nil, err
	}
	for _, x := range l.Lakes {
		there := x.State == control.LakeMounted && mountsAt(mounts, x.Point) > 0
		tried := x.State == control.LakeWaiting && !since.IsZero() && x.Since.After(since)
		if !there && !tried {
			names = append(names, x.Name)
		}
	}
	return names, nil
}
