package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	tarnfs "tarn/fs"
)

// readyEnv names the descriptor on which a daemon tells its parent how the mount went.
const readyEnv = "TARN_READY_FD"

// logEnv is where a daemon's stderr goes, for what it says of its log.
const logEnv = "TARN_LOG_PATH"

// readyLine is that answer.
type readyLine struct {
	PID   int            `json:"pid"`
	Error *control.Error `json:"error,omitempty"`
}

// logPath is where a daemon logs.
func logPath(c *config.Config) string {
	if c.Log.File != "" {
		return c.Log.File
	}
	return filepath.Join(c.Run, "tarn.log")
}

// serve mounts, and serves until it is unmounted or ctx ends.
func (s *session) serve(ctx context.Context, o mountOptions) (err error) {
	tell := readyTo(os.Getenv(readyEnv))
	life := openLifeLine()
	defer func() {
		if told, terr := tell(err); terr != nil && told && life != nil {
			err = errTold{code: control.Describe(terr).Code} // the supervisor says it
		}
	}()

	syscall.Umask(0o077) // for the files of the catalogue; modes of files in the mount come from the caller alone
	raiseFiles()
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE) // the end of a terminal, or of who reads the log, is not the end of a mount
	var log *slog.Logger
	switch {
	case o.cfg.Log.File != "" && os.Getenv(readyEnv) == "": // else the parent has opened it
		f, err := openLog(o.cfg.Log.File)
		if err != nil {
			return err
		}
		defer f.Close()
		log = daemonLog(o.cfg.Log, f, s.t.verbose)
	default:
		log = daemonLog(o.cfg.Log, s.t.err, s.t.verbose)
	}
	lk, err := s.openServed(ctx, o.cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lk.Close()) }()
	defer lk.refreshOnHangUp()()
	o.later = false
	if err := cmp.Or(checkMount(ctx, &o), lk.notWatched(o.point)); err != nil {
		return err
	}
	srv, err := tarnfs.Mount(o.fsOptions(lk, log))
	if err != nil {
		return errRefusedMount(err)
	}
	conn, _, err := config.ConnectionOf(o.point)
	if err != nil {
		return errors.Join(err, srv.Unmount())
	}
	var leave atomic.Bool
	d := control.Daemon{PID: os.Getpid(), Supervisor: life.supervisorPID(), Lake: o.cfg.File(), Mountpoint: o.point, Started: s.t.now(), Version: versionString(), IOURing: srv.IOURing()}
	svc := lk.service()
	svc.Daemon, svc.Leave = d, func() { leave.Store(true) }
	ln, closeSocket, err := control.Listen(o.cfg.Run, d)
	if err != nil {
		return errors.Join(err, srv.Unmount())
	}
	api := control.Serve(svc, ln)
	log.Info("mounted", "lake", o.cfg.File(), "mountpoint", o.point, "pid", d.PID, "version", d.Version, "passthrough", srv.Passthrough(), "io_uring", srv.IOURing())
	_, err = tell(nil)
	notifySystemd("READY=1")
	go life.beat(o.cfg.Mount.Watchdog.D(), lk.fs.Responds, log)

	gone := make(chan struct{})
	go func() {
		srv.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		if there, _, err := conn.Mounted(); err == nil && there {
			// Somebody aborted the connection; this is no wish to end.
			log.Error("the kernel has ended the connection of the mount", "mountpoint", o.point)
			end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			return errors.Join(control.Fail(control.ErrFatal, "", "the connection of the mount was aborted"), api.Close(end), svc.Close(), closeSocket())
		}
		life.bye()
		log.Info("unmounted", "mountpoint", o.point)
	case <-ctx.Done():
		life.bye()
		log.Info("asked to end", "why", context.Cause(ctx))
		err = errors.Join(err, unmountOrDetach(context.WithoutCancel(ctx), srv, o.point, gone, log))
	}
	notifySystemd("STOPPING=1")
	if !leave.Load() {
		drainAtEnd(lk, o.cfg.Journal.Drain.D(), log)
	}
	end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return errors.Join(err, api.Close(end), svc.Close(), closeSocket())
}

// errRefusedMount says what may help where the kernel or fusermount3 does not mount.
func errRefusedMount(err error) error {
	hint := "what fusermount3 said stands above"
	if f := os.Getenv(logEnv); f != "" {
		hint = "what fusermount3 said is in " + f
	}
	return control.Fail(control.ErrFatal, hint+"; in a container it needs --device /dev/fuse --cap-add SYS_ADMIN, and with AppArmor --security-opt apparmor=unconfined",
		"%s: the kernel or fusermount3 refuses the mount", strings.TrimSpace(err.Error()))
}

// limitMemory lets the garbage collector work harder before the process takes more than
// it may, and less before that: most of what a daemon makes is short-lived, and its heap is
// small. What is mapped, and stacks of threads, are not in the sum.
func limitMemory(n int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(n / 8 * 7)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// manyProcs lets on few cores more goroutines run than there are: most of a daemon's are in
// system calls, those that wait for the kernel's next request among them, and Go's scheduler
// notices late that who is in one does not need his turn. On two cores an open of a cached
// file took a quarter less time, and four writers of small files made a fifth more.
func manyProcs() {
	const least = 4
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < least {
		runtime.GOMAXPROCS(least)
	}
}

// openServed opens the lake for a daemon. A command that has it open will soon have ended
// and is waited for; another daemon will not.
func (s *session) openServed(ctx context.Context, cfg *config.Config, log *slog.Logger) (*opened, error) {
	limitMemory(int64(cfg.Memory))
	manyProcs()
	give := s.t.now().Add(lockWait)
	for {
		lk, err := openLake(cfg, openOptions{Replicate: true, Ingest: true, Reindex: true, Log: log, Now: s.t.now})
		if !errors.Is(err, backends.ErrBusy) || s.t.now().After(give) {
			return lk, err
		}
		if c, _, derr := control.Dial(ctx, cfg.Run); derr == nil {
			return nil, errors.Join(err, c.Close())
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (o *mountOptions) fsOptions(lk *opened, log *slog.Logger) tarnfs.Options {
	m := o.cfg.Mount
	f := tarnfs.Options{
		VFS: lk.fs, Mountpoint: o.point, Source: o.cfg.File(), ReadOnly: m.ReadOnly, AllowOther: m.AllowOther,
		NoXattr: !m.XAttr, NoPassthrough: !o.passthrough, IOURing: tarnfs.IOURing(m.IOURing), AttrTimeout: orShort(m.AttrTimeout), EntryTimeout: orShort(m.EntryTimeout),
		NegativeTimeout: orShort(m.EntryTimeout), Extra: o.kernel, UID: m.UID, GID: m.GID, Debug: o.debug, Log: log,
		Config: func() []byte {
			b, err := yaml.Marshal(o.cfg)
			if err != nil {
				return []byte(err.Error() + "\n")
			}
			return b
		},
		Recalls: func() []byte { return recallsText(lk.fs, lk.now()) },
		Ingests: func() any {
			if lk.ingests == nil || len(lk.ingests.List()) == 0 {
				return nil
			}
			return lk.ingests.List()
		},
	}
	if o.cfg.IsRucio() { // nobody tells of what others change there
		for _, d := range []*time.Duration{&f.AttrTimeout, &f.EntryTimeout, &f.NegativeTimeout} {
			*d = min(*d, rucioKernel)
		}
	}
	if m.Umask != nil {
		f.Umask = uint32(*m.Umask)
	}
	return f
}

// rucioKernel is how long the kernel keeps what it was shown of a Rucio server's lake; what this process keeps (catalogue.ttl) answers it.
const rucioKernel = time.Second

// orShort turns "keep nothing" into what package fs takes for it.
func orShort(d config.Duration) time.Duration { return max(d.D(), time.Nanosecond) }

// unmountOrDetach ends the mount; while files are open in it, it is detached, so that
// they can still be read until the process ends.
func unmountOrDetach(ctx context.Context, srv interface{ Unmount() error }, point string, gone <-chan struct{}, log *slog.Logger) error {
	if err := srv.Unmount(); err == nil {
		<-gone
		return nil
	}
	log.Warn("files are open in the mount; it is detached", "mountpoint", point)
	return detach(ctx, point, true)
}

// drainAtEnd sends what is unsent, for a bounded time; the rest stays in the journal.
func drainAtEnd(lk *opened, limit time.Duration, log *slog.Logger) {
	if lk.fs.Stats().Unsent == 0 || limit <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := lk.fs.Drain(ctx, nil)
	st := lk.fs.Stats()
	log.Info("ending", "unsent_files", st.Unsent, "unsent_bytes", st.UnsentBytes, "err", err)
}

// readyPipe is the descriptor for the answer to the parent; nil where none waits for one.
func readyPipe(fd string) *os.File {
	n, err := strconv.Atoi(fd)
	if err != nil {
		return nil
	}
	syscall.CloseOnExec(n)
	return os.NewFile(uintptr(n), "ready")
}

// readyTo gives a function that tells the parent how the mount went, once, and whether it
// did that now; it returns its argument.
func readyTo(fd string) func(error) (bool, error) {
	f := readyPipe(fd)
	var once sync.Once
	return func(err error) (told bool, _ error) {
		if f != nil {
			once.Do(func() {
				// The parent may have gone; the mount is there for others all the same.
				_ = json.NewEncoder(f).Encode(readyLine{PID: os.Getpid(), Error: control.Describe(err)})
				_ = f.Close()
				told = true
			})
		}
		return told, err
	}
}

// raiseFiles takes as many descriptors as the system allows: each open file needs some.
func raiseFiles() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &l) // what there is has to do
	}
}

// notifySystemd tells a service manager of Type=notify (sd_notify(3)).
func notifySystemd(state string) {
	addr := os.Getenv("NOTIFY_SOCKET")
	if addr == "" {
		return
	}
	if addr[0] == '@' {
		addr = "\x00" + addr[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state)) // nobody can be told of its failure
}
