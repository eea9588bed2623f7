package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	"tarn/fs/vfs"
)

// listFlags let a command take its paths from a file.
var listFlags = []cli.Flag{
	&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "also the paths in `FILE`, one a line; - is stdin"},
	&cli.BoolFlag{Name: "from0", Usage: "paths in FILE end with NUL, as from find -print0"},
}

// pathArgs gives the paths of the command line and of --file.
func (s *session) pathArgs(c *cli.Context) ([]string, error) {
	paths := c.Args().Slice()
	if name := c.String("file"); name != "" {
		r := s.t.in
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return nil, fmt.Errorf("read list of paths: %w", err)
			}
			defer f.Close()
			r = f
		}
		end := byte('\n')
		if c.Bool("from0") {
			end = 0
		}
		br := bufio.NewReader(r)
		for {
			line, err := br.ReadString(end)
			if line = strings.TrimSuffix(line, string(end)); line != "" {
				paths = append(paths, line)
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("read list of paths: %w", err)
			}
		}
	}
	if len(paths) == 0 {
		return nil, usage(words(c.Command), "%s wants at least one path", c.Command.HelpName)
	}
	return paths, nil
}

func (s *session) stageCommand() *cli.Command {
	return &cli.Command{
		Name: "stage", Aliases: []string{"bringonline", "prestage", "warmup"}, Category: groupTape, Usage: "bring files from tape into the hot cache", ArgsUsage: "PATH...",
		Description: `Recalls everything at and below the PATHs that is only on tape, with one bulk request in tape order.
It returns when the request is accepted (exit code 11), or with --wait when the files are there (0).
Without a daemon it always waits. --dry-run tells what it would cost, and moves nothing.

Examples:
   tarn stage --dry-run /ctao/dl3/crab
   tarn stage --wait --pin 7d /ctao/dl3/crab
   tarn find 'obs_id=5029747' | tarn stage --wait -f -`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "wait", Aliases: []string{"w"}, Usage: "until all are online"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "only tell files, bytes, tapes, mounts and time"},
			&cli.StringFlag{Name: "pin", Usage: "keep them in the hot cache for `TIME` (7d)"},
			&cli.StringFlag{Name: "window", Usage: "at most `SIZE` on their way at a time (default: half the hot cache)"},
			&cli.StringFlag{Name: "timeout", Usage: "with --wait: at most `TIME`; the recall goes on then (exit code 10)"},
		}, listFlags...),
		Action: func(c *cli.Context) error {
			paths, err := s.pathArgs(c)
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return s.plan(c.Context, paths)
			}
			req := control.StageRequest{Wait: c.Bool("wait")}
			if req.Pin, err = lifetime(c, "pin"); err != nil {
				return err
			}
			if w := c.String("window"); w != "" {
				n, err := config.ParseSize(w)
				if err != nil {
					return usage([]string{"stage"}, "--window: %v", err)
				}
				req.Window = int64(n)
			}
			wait, err := lifetime(c, "timeout")
			if err != nil {
				return err
			}
			return s.stage(c.Context, paths, req, wait)
		},
	}
}

func (s *session) plan(ctx context.Context, paths []string) error {
	var p vfs.StagePlan
	err := call[struct{}](ctx, s, paths, "plan", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} }, nil, &p)
	if err != nil {
		return err
	}
	return s.t.object(p, func() {
		fmt.Fprintf(s.t.out, "%s, %s: %d online already (%d in the hot cache, %d on disk)\n", count(int64(p.Files), "file"), human(p.Bytes), p.Online, p.Cached, p.Disk)
		if p.Recall == 0 {
			fmt.Fprintln(s.t.out, "nothing has to be recalled")
			return
		}
		fmt.Fprintf(s.t.out, "to recall: %s, %s, from %s with %s, in about %s\n", count(int64(p.Recall), "file"), human(p.Moved), count(int64(p.Tapes), "tape"), count(int64(p.Mounts), "mount"), span(p.Time))
		if !p.Fits {
			fmt.Fprintln(s.t.out, "that is more than the hot cache holds: the first files go before the last arrive; stage parts, or raise cache.limit")
		}
	})
}

func (s *session) stage(ctx context.Context, paths []string, req control.StageRequest, wait time.Duration) error {
	var r control.StageReply
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, wait, control.Fail(context.DeadlineExceeded, "the same command goes on with what is there by then", "not all were staged within %s", span(wait)))
		defer cancel()
	}
	err := call[struct{}](ctx, s, paths, "stage", func(ps []control.Text) any { req.Paths = ps; return req }, nil, &r)
	if err != nil {
		return err
	}
	p := r.Result
	err = s.t.object(r, func() {
		switch {
		case r.Job != "":
			fmt.Fprintln(s.t.out, r.Job)
			s.t.note("%s, %s, to be recalled in about %s; `tarn recalls ls` shows how far it is", count(int64(r.Plan.Recall), "file"), human(r.Plan.Moved), span(r.Plan.Time))
		case p.Files == 0 && r.Plan.Files > 0 || p.Done+p.Failed == 0:
			s.t.say("all of %s online already", count(int64(r.Plan.Files), "file"))
		default:
			s.t.say("%s staged, %s, in %s; %d were online already", count(int64(p.Done), "file"), human(p.DoneBytes), span(r.Took), p.Online)
		}
	})
	for _, e := range p.Errors {
		s.t.note("not staged: %s", e)
	}
	switch {
	case err != nil:
		return err
	case p.Failed > 0:
		return errPartial(int64(p.Failed), "file")
	case r.Job != "":
		return accepted{}
	}
	return nil
}

// accepted ends a command with exit code 11 and no message: what was to be said is said.
type accepted struct{}

func (accepted) Error() string { return control.ErrStaging.Error() }
func (accepted) Unwrap() error { return control.ErrStaging }

func (s *session) pinCommand() *cli.Command {
	return &cli.Command{
		Name: "pin", Category: groupTape, Usage: "keep files in the hot cache for a time", ArgsUsage: "PATH...",
		Description: "Brings the files into the hot cache, from wherever they are, and keeps them there. Pins outlive restarts.\n\nExample:\n   tarn pin --for 30d /ctao/dl3/crab",
		Flags:       append([]cli.Flag{&cli.StringFlag{Name: "for", Value: "7d", Usage: "`TIME` from now"}}, listFlags...),
		Action: func(c *cli.Context) error {
			paths, err := s.pathArgs(c)
			if err != nil {
				return err
			}
			d, err := lifetime(c, "for")
			if err != nil {
				return err
			}
			if d <= 0 {
				return usage([]string{"pin"}, "--for wants a time above 0")
			}
			return s.stage(c.Context, paths, control.StageRequest{Wait: true, Pin: d}, 0)
		},
	}
}

// bulk runs an operation that counts and sends a Failure for each that failed.
func (s *session) bulk(ctx context.Context, paths []string, op string, req func([]control.Text) any, what string, done func(control.Count)) error {
	var n control.Count
	l := s.t.list()
	err := call(ctx, s, paths, op, req, func(f control.Failure) error {
		if s.t.json {
			return l.add(f)
		}
		fmt.Fprintf(s.t.err, "%s: %s\n", f.Path.Quote(), f.Error.Message)
		return nil
	}, &n)
	if err := errors.Join(err, l.end()); err != nil {
		return err
	}
	if err := s.t.object(n, func() { done(n) }); err != nil {
		return err
	}
	if n.Failed > 0 {
		return errPartial(n.Failed, what)
	}
	return nil
}

func (s *session) evictCommand() *cli.Command {
	return &cli.Command{
		Name: "evict", Aliases: []string{"release"}, Category: groupTape, Usage: "drop local copies from the hot cache", ArgsUsage: "PATH...",
		Description: `Drops the files from the hot cache and from the disk buffers of tape storages. Their first and last
bytes stay in the hot cache. What is unsent, open or pinned stays, too (exit code 6).`,
		Flags: listFlags,
		Action: func(c *cli.Context) error {
			paths, err := s.pathArgs(c)
			if err != nil {
				return err
			}
			return s.bulk(c.Context, paths, "evict", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} }, "file", func(n control.Count) {
				s.t.say("%s evicted, %s freed; %d held nothing", count(n.Done, "file"), human(n.Bytes), n.Skipped)
			})
		},
	}
}

func (s *session) unpinCommand() *cli.Command {
	return &cli.Command{
		Name: "unpin", Category: groupTape, Usage: "end pins", ArgsUsage: "PATH...", Flags: listFlags,
		Action: func(c *cli.Context) error {
			paths, err := s.pathArgs(c)
			if err != nil {
				return err
			}
			return s.bulk(c.Context, paths, "unpin", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} }, "file", func(n control.Count) {
				s.t.say("%s ended; %s had none", count(n.Done, "pin"), count(n.Skipped, "file"))
			})
		},
	}
}

func (s *session) explainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Category: groupTape, Usage: "what a read of a file would do, and why", ArgsUsage: "PATH...",
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			l := s.t.list()
			err := call(c.Context, s, c.Args().Slice(), "explain", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} },
				func(e control.ExplainEntry) error {
					if s.t.json {
						return l.add(e.Explanation)
					}
					_, err := fmt.Fprint(s.t.out, string(e.Text))
					return err
				}, nil)
			return errors.Join(err, l.end())
		},
	}
}

func (s *session) recallsCommand() *cli.Command {
	ids := func(name, usageText, args, done string) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usageText, ArgsUsage: args,
			Action: func(c *cli.Context) error {
				if err := want(c, 1, -1); err != nil {
					return err
				}
				return s.bulk(c.Context, nil, "recalls/"+name, func([]control.Text) any { return control.IDsRequest{IDs: c.Args().Slice()} }, "recall", func(n control.Count) {
					s.t.say(done, n.Done)
				})
			},
		}
	}
	return &cli.Command{
		Name: "recalls", Category: groupTape, Usage: "what is being recalled, what failed, and who is held back",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list recalls, stage jobs and processes that the policy refused",
				Action: func(c *cli.Context) error {
					l := s.t.list("id", "state", ">size", ">waiters", ">age", "what", "")
					err := call(c.Context, s, nil, "recalls/ls", func([]control.Text) any { return struct{}{} }, func(r control.RecallEntry) error { return l.add(r, s.recallRow(r)...) }, nil)
					return errors.Join(err, l.end())
				},
			},
			ids("retry", "try failed recalls again", "ID...", "%d to be tried again"),
			ids("cancel", "end recalls or stage jobs, for all that wait", "ID...", "%d cancelled"),
			ids("allow", "let a process that is held back recall", "PID...", "%d may recall now"),
		},
	}
}

func (s *session) recallRow(r control.RecallEntry) []string {
	switch {
	case r.Recall != nil:
		x := r.Recall
		state := string(x.Phase)
		if x.Position > 0 {
			state += fmt.Sprintf(" (position %d)", x.Position)
		}
		why := x.Error
		if x.ETA > 0 {
			why = "about " + span(x.ETA) + " " + why
		}
		return []string{x.ID, state, s.t.size(x.Bytes), fmt.Sprint(x.Waiters), s.t.since(x.Since), r.Path.Quote(), why}
	case r.Job != nil:
		x := r.Job
		state := "running"
		if !x.Ended.IsZero() {
			state = "ended"
		}
		names := make([]string, len(x.Paths))
		for i, p := range x.Paths {
			names[i] = p.Quote()
		}
		return []string{x.ID, state, s.t.size(x.State.DoneBytes), "", s.t.since(x.Started), strings.Join(names, " "),
			strings.TrimSpace(fmt.Sprintf("%d of %d files online, %d failed %s", x.State.Done+x.State.Online, x.State.Files, x.State.Failed, x.Error))}
	case r.Held != nil:
		x := r.Held
		return []string{fmt.Sprintf("pid %d", x.PID), "refused", "", fmt.Sprint(x.Count), s.t.since(x.Since), x.Comm, x.Why}
	}
	return []string{r.Kind}
}
