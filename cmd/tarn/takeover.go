package main

import (
	"context"
	"fmt"
	"syscall"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// supervisorOf gives the living supervisor of a lake; ok is false where there is none.
func supervisorOf(cfg *config.Config) (control.Supervisor, bool, error) {
	v, ok, err := control.ReadSupervisor(cfg.Run)
	if err != nil || !ok {
		return v, false, err
	}
	return v, v.Born != 0 && born(v.PID) == v.Born, nil
}

// takeOver ends a supervisor that waits to start a daemon at this very place: somebody asks
// for the mount now, and will see why it fails. Anybody else's is left alone.
func (s *session) takeOver(ctx context.Context, o *mountOptions) error {
	v, ok, err := supervisorOf(o.cfg)
	if err != nil || !ok || v.Mountpoint != o.point || v.State != "waiting" {
		return err
	}
	return endSupervisor(ctx, v)
}

// endSupervisor asks a supervisor to end, and waits until it has.
func endSupervisor(ctx context.Context, v control.Supervisor) error {
	if err := syscall.Kill(v.PID, syscall.SIGTERM); err != nil && err != syscall.ESRCH {
		return fmt.Errorf("end the supervisor (pid %d): %w", v.PID, err)
	}
	return waitGone(ctx, v.PID)
}
