package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// session is one run of a command: which lake, with which settings.
type session struct {
	t        *terminal
	lakeArg  string // --lake
	settings []config.Setting
}

// addSetting takes one --set KEY=VALUE.
func (s *session) addSetting(kv string) error {
	k, v, ok := strings.Cut(kv, "=")
	if !ok || k == "" {
		return usage(nil, "--set wants KEY=VALUE, as cache.limit=20G, not %q", kv)
	}
	s.settings = append(s.settings, config.Setting{From: "--set", Key: k, Value: v})
	return nil
}

// pick finds the lake file that a command is about, and turns paths in a mount into
// lake paths. --lake decides; then paths inside mounts, which must all be of one lake;
// then TARN_LAKE; then the mount that the working directory is in; then the only lake
// that is mounted on this machine.
func (s *session) pick(paths ...string) (file string, lakePaths []string, err error) {
	mounts, err := config.SystemMounts()
	if err != nil {
		return "", nil, err
	}
	folders := config.Folders(os.Getenv)
	if s.lakeArg != "" {
		if file, err = config.Find(s.lakeArg, folders); err != nil {
			return "", nil, err
		}
	}
	cwd, cwdErr := os.Getwd()
	for _, p := range paths {
		abs := p
		if !filepath.IsAbs(p) {
			if cwdErr != nil {
				return "", nil, fmt.Errorf("find out the working directory: %w", cwdErr)
			}
			abs = filepath.Join(cwd, p)
		}
		m, rel, ok := within(mounts, abs)
		switch {
		case ok && m.Grid && s.lakeArg == "":
			return "", nil, errRoot(m, rel)
		case ok && (file == "" || m.Lake == file):
			file = m.Lake
			lakePaths = append(lakePaths, rel)
		case ok && s.lakeArg == "":
			return "", nil, usage(nil, "%s is in the mount of another lake, %s, than the paths before it", p, m.Lake)
		case !filepath.IsAbs(p):
			return "", nil, control.Fail(control.ErrUsage, "lake paths are written absolute, /SCOPE/..., outside of a mount", "%s is a relative path, and this folder is not in a mount", control.Text(p).Quote())
		default:
			lakePaths = append(lakePaths, p)
		}
	}
	if file != "" {
		return file, lakePaths, nil
	}
	if env := os.Getenv("TARN_LAKE"); env != "" {
		file, err = config.Find(env, folders)
		return file, lakePaths, err
	}
	if cwdErr == nil {
		if m, rel, ok := within(mounts, cwd); ok && m.Grid {
			return "", nil, errRoot(m, rel)
		} else if ok {
			return m.Lake, lakePaths, nil
		}
	}
	if lakes := mountedLakes(mounts); len(lakes) == 1 {
		return lakes[0], lakePaths, nil
	}
	return "", nil, control.Fail(config.ErrNoLake, "", "no lake is named: there is no --lake and no TARN_LAKE, no path in a mount, and not just one mount")
}

func mountedLakes(mounts []config.MountOf) (out []string) {
	for _, m := range mounts {
		if !m.Grid && !slices.Contains(out, m.Lake) {
			out = append(out, m.Lake)
		}
	}
	return out
}

// load reads the lake file, the environment's and the flags' settings over it.
func (s *session) load(file string) (*config.Config, error) {
	return config.Load(file, append(config.Environment(os.Environ()), s.settings...)...)
}

// loadResolved is load for who wants to hear of hosts that do not exist, too.
func (s *session) loadResolved(ctx context.Context, file string) (*config.Config, error) {
	return config.LoadResolved(ctx, net.DefaultResolver.LookupHost, file, append(config.Environment(os.Environ()), s.settings...)...)
}

// lockWait is how long a command waits for another one that has the lake open.
const lockWait = 10 * time.Second

// connect opens the way to the lake that the paths are in, and gives them as lake
// paths: to the daemon when there is one, else within this process.
func (s *session) connect(ctx context.Context, paths ...string) (*control.Client, []string, error) {
	file, lakePaths, err := s.pick(paths...)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := s.load(file)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.connectTo(ctx, cfg)
	return c, lakePaths, err
}

func (s *session) connectTo(ctx context.Context, cfg *config.Config) (*control.Client, error) {
	give := s.t.now().Add(lockWait)
	said := false
	for {
		c, _, err := control.Dial(ctx, cfg.Run)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, control.ErrNoDaemon) {
			return nil, err
		}
		o, err := openLake(cfg, openOptions{Log: s.logger(), Now: s.t.now})
		if err == nil {
			svc := o.service()
			client := control.InProcess(svc)
			client.OnClose(func() error { return errors.Join(svc.Close(), o.Close()) })
			return client, nil
		}
		if !errors.Is(err, backends.ErrBusy) || s.t.now().After(give) {
			return nil, err
		}
		// Another command has it, or a daemon that does not answer yet.
		if !said && s.t.now().After(give.Add(-lockWait+time.Second)) {
			s.t.note("waiting for another process that has the lake open")
			said = true
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// needDaemon is connect for what only a daemon can answer.
func (s *session) needDaemon(ctx context.Context) (*control.Client, control.Daemon, error) {
	file, _, err := s.pick()
	if err != nil {
		return nil, control.Daemon{}, err
	}
	cfg, err := s.load(file)
	if err != nil {
		return nil, control.Daemon{}, err
	}
	return control.Dial(ctx, cfg.Run)
}

// close ends a client and keeps the first error.
func closeClient(c *control.Client, err *error) {
	if cerr := c.Close(); *err == nil {
		*err = cerr
	}
}

// texts makes the wire's paths of strings.
func texts(paths []string) []control.Text {
	out := make([]control.Text, len(paths))
	for i, p := range paths {
		out[i] = control.Text(p)
	}
	return out
}
