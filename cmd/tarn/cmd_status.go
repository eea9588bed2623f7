package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/replication"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	"tarn/fs/vfs"
)

func (s *session) statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Category: groupLake, Usage: "what is mounted, and what it is doing", ArgsUsage: "[MOUNTPOINT]",
		Description: "Without MOUNTPOINT and --lake: every mount of tarn on this machine.",
		Action: func(c *cli.Context) error {
			if err := want(c, 0, 1); err != nil {
				return err
			}
			mounts, err := config.SystemMounts()
			if err != nil {
				return err
			}
			switch {
			case c.Args().Present():
				point, err := filepath.Abs(c.Args().First())
				if err != nil {
					return fmt.Errorf("status: %w", err)
				}
				m, _, ok := within(mounts, point)
				if !ok {
					return control.Fail(control.ErrNothing, "`tarn status` lists the mounts", "%s is not in a mount of tarn", control.Text(point).Quote())
				}
				mounts = append([]config.MountOf{m}, lakesBelow(m, mounts)...)
			case s.lakeArg != "":
				file, _, err := s.pick()
				if err != nil {
					return err
				}
				var of []config.MountOf
				for _, m := range mounts {
					if m.Lake == file {
						of = append(of, m)
					}
				}
				mounts = of
			}
			if len(mounts) == 0 {
				s.t.say("no lake is mounted here")
			}
			l := s.t.list()
			for _, m := range mounts {
				if err := s.statusOf(c.Context, l, m); err != nil {
					return err
				}
			}
			return l.end()
		},
	}
}

// MountStatus is one mount in `tarn status --json`.
type mountStatus struct {
	Mountpoint control.Text         `json:"mountpoint"`
	Lake       control.Text         `json:"lake"`
	Alive      bool                 `json:"alive"`
	Error      *control.Error       `json:"error,omitempty"`
	Supervisor *control.Supervisor  `json:"supervisor,omitempty"`
	Status     *control.StatusReply `json:"status,omitempty"`
	Lakes      []control.LakeState  `json:"lakes,omitempty"` // of the root of several
}

// errSilent says what helps where a daemon does not answer.
func (s *session) errSilent(m config.MountOf, supervised bool) error {
	hint := "its supervisor starts it again when it hangs for longer than mount.watchdog"
	if !supervised {
		hint = "nobody supervises it: end it with `kill -9`, and mount again; what was closed is safe in the journal"
	}
	if cfg, err := s.load(m.Lake); err == nil {
		hint += "; its log is " + logPath(cfg)
	}
	return control.Fail(context.DeadlineExceeded, hint, "its daemon does not answer")
}

func (s *session) statusOf(ctx context.Context, l *listing, m config.MountOf) error {
	out := mountStatus{Mountpoint: control.Text(m.Point), Lake: control.Text(m.Lake)}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if v, ok := s.supervisorAt(m); ok {
		out.Supervisor = &v
	}
	if m.Grid {
		return s.gridStatus(l, m, out)
	}
	c, _, err := s.dialMount(ctx, m)
	if err == nil {
		var st control.StatusReply
		err = control.Call[struct{}](ctx, c, "status", struct{}{}, nil, nil, &st)
		if cerr := c.Close(); err == nil {
			err = cerr
		}
		out.Status, out.Alive = &st, err == nil
	}
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			err = s.errSilent(m, out.Supervisor != nil)
		}
		out.Error, out.Status = control.Describe(err), nil
	}
	if s.t.json {
		return l.add(out)
	}
	if err != nil {
		word := out.Error.Message
		if errors.Is(err, control.ErrNoDaemon) {
			word = "its daemon has died; `tarn mount` mounts it again, `tarn umount " + shellWord(m.Point) + "` takes it away"
			if v := out.Supervisor; v != nil {
				word = fmt.Sprintf("its daemon died (%s) and is started again by pid %d; restarts: %d", v.Why, v.PID, v.Restarts)
			}
		} else if out.Error.Hint != "" {
			word += "; " + out.Error.Hint
		}
		return l.add(out, fmt.Sprintf("%s: %s", out.Mountpoint.Quote(), word))
	}
	if err := s.statusLines(l, out.Mountpoint.Quote(), *out.Status); err != nil {
		return err
	}
	switch v := out.Supervisor; {
	case v == nil && out.Status.Daemon.Supervisor != 0:
		return l.add(out, fmt.Sprintf("   supervisor has ended (pid %d): nobody starts the daemon again when it dies", out.Status.Daemon.Supervisor))
	case v == nil:
		return l.add(out, "   supervisor none")
	case v.Restarts > 0:
		return l.add(out, fmt.Sprintf("   supervisor pid %d, %s, the last %s ago: %s", v.PID, count(int64(v.Restarts), "restart"), s.t.since(v.Died), v.Why))
	default:
		return l.add(out, fmt.Sprintf("   supervisor pid %d, no restarts", v.PID))
	}
}

func (s *session) statusLines(l *listing, point string, st control.StatusReply) error {
	f := st.FS
	lines := []string{
		fmt.Sprintf("%s: lake %s, pid %d, up %s", point, st.Name, st.Daemon.PID, s.t.since(st.Daemon.Started)),
		fmt.Sprintf("   catalogue  %s, %s", count(st.Files, "file"), human(st.Bytes)),
		fmt.Sprintf("   hot cache  %s of %s in %s, %s pinned", human(f.Cache.Used), human(f.Cache.Limit), count(int64(f.Cache.Files), "file"), human(f.Cache.Pinned)),
		fmt.Sprintf("   unsent     %s, %s", count(int64(f.Unsent), "file"), human(f.UnsentBytes)),
		fmt.Sprintf("   recalls    %s waited for, %d ahead, %d opens refused", count(f.RecallWaits, "recall"), f.RecallsAhead, f.Refused),
	}
	for _, e := range st.Endpoints {
		if e.State != backends.EndpointClosed {
			lines = append(lines, "   endpoint   "+s.endpointWord(e))
		}
	}
	for _, c := range st.Care {
		if words := careWords(c); len(words) > 0 {
			lines = append(lines, "   storage    "+c.RSE+": "+strings.Join(words, "; "))
		}
	}
	if st.Daemon.IOURing {
		lines = append(lines, "   requests   over io_uring")
	}
	if st.Jobs > 0 {
		lines = append(lines, fmt.Sprintf("   staging    %s under way", count(int64(st.Jobs), "job")))
	}
	for _, i := range st.Ingests {
		line := fmt.Sprintf("   ingest     %s: %s, %d of %s safe, %d deleted", i.Name, strings.ToLower(i.State), i.Safe.Files, count(i.Found.Files, "file"), i.Deleted.Files)
		if i.StuckAll > 0 {
			line += fmt.Sprintf(", %d stuck; `tarn ingest show %s` tells why", i.StuckAll, i.Name)
		}
		lines = append(lines, line)
	}
	if f.UploadErrors > 0 {
		lines = append(lines, fmt.Sprintf("   %s of uploads; `tarn uploads ls` tells why", count(f.UploadErrors, "failure")))
	}
	for _, line := range lines {
		if err := l.add(st, line); err != nil {
			return err
		}
	}
	return nil
}

// endpointWord tells why a server is left alone.
func (s *session) endpointWord(e backends.EndpointState) string {
	word := "is left alone for"
	if e.State == backends.EndpointHalfOpen {
		word = "was left alone, and is to be tried since"
	}
	return fmt.Sprintf("%s %s %s: %s", e.Endpoint, word, s.t.since(e.Since), e.Error)
}

// recallsText is what .tarn/recalls shows.
func recallsText(v *vfs.FS, now time.Time) []byte {
	var b strings.Builder
	for _, r := range v.Lake().Recalls() {
		fmt.Fprintf(&b, "%s %s %s waiters=%d since=%s %s\n", r.ID, r.Phase, control.Text(r.DID.Name).Quote(), r.Waiters, span(now.Sub(r.Since)), r.Error)
	}
	for _, h := range v.Held() {
		fmt.Fprintf(&b, "held pid=%d uid=%d comm=%s times=%d: %s\n", h.PID, h.UID, h.Comm, h.Count, h.Why)
	}
	return []byte(b.String())
}

// careWords tells what was done for an RSE and what is left to do.
func careWords(c replication.CareStatus) (words []string) {
	if c.Drain {
		words = append(words, "drained: "+count(c.Left, "replica")+" left")
	}
	if c.Removed > 0 {
		words = append(words, count(c.Removed, "replica")+" ("+human(c.RemovedBytes)+") deleted")
	}
	if c.Over > 0 {
		words = append(words, human(c.Over)+" above its low mark")
	}
	if c.Why != "" {
		words = append(words, c.Why)
	}
	return words
}
