package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func (s *session) umountCommand() *cli.Command {
	return &cli.Command{
		Name: "umount", Aliases: []string{"unmount"}, Category: groupLake, Usage: "take a mount away", ArgsUsage: "MOUNTPOINT",
		Description: `Waits until everything that was written is safe elsewhere, and unmounts. With --now it does not wait:
when something is unsent it says what, and unmounts with --force only; that stays in the journal, and
the next mount sends it. A mount whose daemon has died is taken away, too. Of several lakes in one mount
all go, or none; MOUNTPOINT/NAME takes one away.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "now", Usage: "do not wait for unsent files: refuse when there are some"},
			&cli.BoolFlag{Name: "force", Usage: "with --now: leave unsent files in the journal"},
			&cli.StringFlag{Name: "timeout", Usage: "wait no longer than `TIME` (10m); then nothing is unmounted"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			point, err := filepath.Abs(c.Args().First())
			if err != nil {
				return fmt.Errorf("unmount: %w", err)
			}
			wait, err := lifetime(c, "timeout")
			if err != nil {
				return err
			}
			return s.umount(c.Context, point, c.Bool("now"), c.Bool("force"), wait)
		},
	}
}

func (s *session) umount(ctx context.Context, point string, now, force bool, wait time.Duration) error {
	mounts, err := config.SystemMounts()
	if err != nil {
		return err
	}
	m, rel, ok := within(mounts, point)
	if !ok || rel != "/" {
		hint := "`tarn status` lists the mounts"
		if ok {
			hint = "it lies in the mount " + m.Point
		}
		return control.Fail(control.ErrNothing, hint, "%s is not a mount of tarn", control.Text(point).Quote())
	}
	if m.Grid {
		return s.umountGrid(ctx, m, now, force, wait)
	}
	l, err := s.readyToLeave(ctx, m, now, force, wait)
	if err != nil {
		return err
	}
	return s.leave(ctx, l)
}

// leaving is a mount that is about to be taken away.
type leaving struct {
	m          config.MountOf
	pid        int // of the daemon; 0: it has died
	sup        control.Supervisor
	supervised bool
	left       control.DrainReply // in the journal
}

// readyToLeave waits until everything is safe elsewhere, or refuses; nothing is unmounted yet.
func (s *session) readyToLeave(ctx context.Context, m config.MountOf, now, force bool, wait time.Duration) (*leaving, error) {
	l := &leaving{m: m}
	l.sup, l.supervised = s.supervisorAt(m)
	client, pid, err := s.dialMount(ctx, m)
	if errors.Is(err, control.ErrNoDaemon) {
		s.t.note("the daemon of %s has died; what it had not sent is in the journal, and the next mount sends it", m.Point)
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	l.pid = pid
	l.left, err = s.settle(ctx, client, now, wait)
	if err == nil && l.left.Files > 0 && force {
		err = control.Call[struct{}](ctx, client, "leave", struct{}{}, nil, nil, nil)
	}
	if cerr := client.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	if l.left.Files > 0 && !force {
		return nil, control.Fail(backends.ErrTemporary, "`tarn uploads ls` lists them; without --now umount waits, with --now --force they stay in the journal",
			"%s not safe elsewhere yet (%s)", plural(l.left.Files, "file is", "files are"), human(l.left.Bytes))
	}
	return l, nil
}

// leave takes a mount away, and waits for the end of its processes.
func (s *session) leave(ctx context.Context, l *leaving) error {
	if l.pid == 0 {
		if l.supervised {
			if err := endSupervisor(ctx, l.sup); err != nil {
				return err
			}
			mounts, err := config.SystemMounts()
			if err != nil {
				return err
			}
			if mountsAt(mounts, l.m.Point) == 0 {
				return nil // it took the mount away
			}
		}
		return detach(ctx, l.m.Point, true)
	}
	if err := detach(ctx, l.m.Point, false); err != nil {
		return err
	}
	if err := waitGone(ctx, l.pid); err != nil {
		return err
	}
	if l.supervised {
		if err := waitGone(ctx, l.sup.PID); err != nil {
			return err
		}
	}
	if l.left.Files > 0 {
		s.t.say("%s unmounted; %s in the journal for the next mount", l.m.Point, plural(l.left.Files, "file stays", "files stay"))
	} else {
		s.t.say("%s unmounted; everything is safe", l.m.Point)
	}
	return nil
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// dialMount connects to the daemon of one mount.
func (s *session) dialMount(ctx context.Context, m config.MountOf) (*control.Client, int, error) {
	cfg, err := config.Load(m.Lake, config.Environment(os.Environ())...)
	if err != nil {
		return nil, 0, err
	}
	c, d, err := control.Dial(ctx, cfg.Run)
	if err == nil && d.Mountpoint != m.Point {
		return nil, 0, errors.Join(control.ErrNoDaemon, c.Close()) // it serves another mount of this lake
	}
	return c, d.PID, err
}

// supervisorAt gives the living supervisor of a mount.
func (s *session) supervisorAt(m config.MountOf) (control.Supervisor, bool) {
	cfg, err := rootOf(m)
	if err != nil {
		return control.Supervisor{}, false // dialMount says it
	}
	v, ok, err := supervisorOf(cfg)
	return v, err == nil && ok && v.Mountpoint == m.Point
}

// settle waits for unsent files, or with now only counts them.
func (s *session) settle(ctx context.Context, c *control.Client, now bool, wait time.Duration) (control.DrainReply, error) {
	var left control.DrainReply
	if now {
		var st control.StatusReply
		err := control.Call[struct{}](ctx, c, "status", struct{}{}, nil, nil, &st)
		return control.DrainReply{Files: st.FS.Unsent, Bytes: st.FS.UnsentBytes}, err
	}
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	m := s.t.meter()
	defer m.end()
	err := control.Call[struct{}](ctx, c, "drain", struct{}{}, nil, m.show, &left)
	return left, err
}
