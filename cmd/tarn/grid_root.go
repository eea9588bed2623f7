package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	"tarn/fs/rootdir"
)

// serveRoot mounts the root of several lakes, and serves it until it is unmounted or ctx ends. This process never looks
// into the mount: who serves one and waits for it waits for ever.
func (s *session) serveRoot(ctx context.Context, o mountOptions) (err error) {
	tell := readyTo(os.Getenv(readyEnv))
	life := openLifeLine()
	defer func() {
		if told, terr := tell(err); terr != nil && told && life != nil {
			err = errTold{code: control.Describe(terr).Code} // the supervisor says it
		}
	}()
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	log := daemonLog(o.cfg.Log, s.t.err, s.t.verbose)
	o.later = false
	if err := checkMount(ctx, &o); err != nil {
		return err
	}
	srv, err := rootdir.Mount(rootdir.Options{
		Mountpoint: o.point, Source: o.cfg.File(), Names: o.grid.names(), Links: o.grid.links(), AllowOther: o.cfg.Mount.AllowOther, Extra: o.kernel, Debug: o.debug, Log: log,
	})
	if err != nil {
		return errRefusedMount(err)
	}
	conn, _, err := config.ConnectionOf(o.point)
	if err != nil {
		return errors.Join(err, srv.Unmount())
	}
	log.Info("the root is mounted", "lakes", o.cfg.File(), "mountpoint", o.point, "pid", os.Getpid())
	if _, err := tell(nil); err != nil {
		return err
	}
	go life.beat(o.cfg.Mount.Watchdog.D(), func() {}, log)

	gone := make(chan struct{})
	go func() {
		srv.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		if there, _, err := conn.Mounted(); err == nil && there {
			log.Error("the kernel has ended the connection of the mount", "mountpoint", o.point)
			return control.Fail(control.ErrFatal, "", "the connection of the mount was aborted")
		}
		life.bye()
		log.Info("unmounted", "mountpoint", o.point)
		return nil
	case <-ctx.Done():
		life.bye()
		log.Info("asked to end", "why", context.Cause(ctx))
		return unmountOrDetach(context.WithoutCancel(ctx), srv, o.point, gone, log)
	}
}
