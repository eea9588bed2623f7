package main

import (
	"context"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// lakesOf gives what the supervisor of several lakes wrote down, and whether it lives.
func lakesOf(m config.MountOf) (l control.Lakes, alive bool, err error) {
	cfg, err := rootOf(m)
	if err != nil {
		return l, false, err
	}
	l, err = control.ReadLakes(cfg.Run)
	return l, err == nil && l.Born != 0 && born(l.PID) == l.Born, err
}

// gridStatus tells of the root of several lakes; each lake that is mounted is told of by itself.
func (s *session) gridStatus(l *listing, m config.MountOf, out mountStatus) error {
	lakes, alive, err := lakesOf(m)
	out.Lakes = lakes.Lakes
	if err == nil {
		switch dead, hangs := lookAt(m.Point); {
		case hangs:
			err = control.Fail(backends.ErrTemporary, "", "the process that serves the root does not answer")
		case dead:
			err = control.Fail(control.ErrNoDaemon, "", "the process that serves the root has died")
		}
	}
	out.Alive = err == nil
	out.Error = control.Describe(err)
	if s.t.json {
		return l.add(out)
	}
	point := out.Mountpoint.Quote()
	switch {
	case errors.Is(err, control.ErrNoDaemon) && alive:
		err = l.add(out, fmt.Sprintf("%s: the process that serves the root has died, and is started again by pid %d", point, lakes.PID))
	case errors.Is(err, control.ErrNoDaemon):
		err = l.add(out, fmt.Sprintf("%s: the process that serves the root has died; `tarn mount` mounts it again, `tarn umount %s` takes it away", point, shellWord(m.Point)))
	case err != nil:
		err = l.add(out, fmt.Sprintf("%s: %s", point, out.Error.Message))
	default:
		err = l.add(out, fmt.Sprintf("%s: %s of %s, pid %d", point, count(int64(len(lakes.Lakes)), "lake"), out.Lake.Quote(), lakes.Root))
	}
	if err != nil {
		return err
	}
	for _, x := range lakes.Lakes {
		if err := l.add(out, fmt.Sprintf("   lake       %s: %s", x.Name, s.lakeWord(x))); err != nil {
			return err
		}
	}
	switch v := out.Supervisor; {
	case !alive || v == nil:
		return l.add(out, "   supervisor has ended: nobody mounts again what dies")
	case v.Restarts > 0:
		return l.add(out, fmt.Sprintf("   supervisor pid %d, %s of the root, the last %s ago: %s", v.PID, count(int64(v.Restarts), "restart"), s.t.since(v.Died), v.Why))
	default:
		return l.add(out, fmt.Sprintf("   supervisor pid %d, no restarts", v.PID))
	}
}

// lakeWord tells how one of several lakes is.
func (s *session) lakeWord(x control.LakeState) string {
	switch x.State {
	case control.LakeWaiting:
		word := "not mounted: " + x.Why
		if wait := x.Next.Sub(s.t.now()); wait > 0 {
			word += ", tried again in " + span(wait)
		}
		return word
	case control.LakeUnmounted:
		return x.Why
	}
	if x.Why != "" {
		return "not mounted: " + x.Why + ", tried again for " + s.t.since(x.Since)
	}
	return x.State + " for " + s.t.since(x.Since)
}

// sayLakes tells who has mounted several lakes what is there, and what is not yet.
func (s *session) sayLakes(o mountOptions, logFile string) {
	l, err := control.ReadLakes(o.cfg.Run)
	if err != nil {
		s.t.note("what became of the lakes is not known: %v", err)
	}
	mounted := 0
	for _, x := range l.Lakes {
		if x.State == control.LakeMounted {
			mounted++
			continue
		}
		again := ", which is tried again"
		if x.State == control.LakeUnmounted {
			again = ""
		}
		s.t.note("the mount goes on without lake %s%s: %s", x.Name, again, s.lakeWord(x))
	}
	s.t.say("%d of %s are mounted at %s (pid %d, log %s)", mounted, count(int64(len(o.grid.lakes)), "lake"), o.point, l.PID, logFile)
}

// checkGrid is `tarn config check` of a file that lists lakes.
func (s *session) checkGrid(ctx context.Context, file string) error {
	g, err := s.openGrid(file, func(s *session, file string) (*config.Config, error) { return s.loadResolved(ctx, file) })
	if err != nil {
		return err
	}
	for _, l := range g.lakes {
		s.t.say("   %s: %s, %s, %s", l.name, l.cfg.File(), count(int64(len(l.cfg.RSEs)), "RSE"), count(int64(len(l.cfg.Scopes)), "scope"))
	}
	s.t.say("%s: %s, no fault", file, count(int64(len(g.lakes)), "lake"))
	return nil
}

// showGrid is `tarn config show` of one.
func (s *session) showGrid(file string) error {
	g, err := config.LoadGrid(file)
	if err != nil {
		return err
	}
	enc := yaml.NewEncoder(s.t.out)
	enc.SetIndent(2)
	return errors.Join(enc.Encode(g), enc.Close())
}
