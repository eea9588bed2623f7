package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// careOf is what the lake file says of the care of an RSE.
func careOf(r config.RSE) lake.Care {
	mark := func(m config.Mark) lake.Mark {
		if m.IsPart() {
			return lake.Mark{Part: float64(m)}
		}
		return lake.Mark{Bytes: int64(m)}
	}
	return lake.Care{
		High: mark(r.High), Low: mark(r.Low), Grace: r.Grace.D(), Scratch: r.Scratch, Shared: r.Shared,
		Drain: r.Drain, DrainTo: r.DrainTo,
	}
}

// setRSE writes settings of an RSE beside the lake file, and puts them in force here.
func (o *opened) setRSE(name string, set map[string]string) (file, later string, err error) {
	now, err := o.cfg.SetRSE(name, set)
	if bad := (*config.Error)(nil); errors.As(err, &bad) {
		return "", "", control.Fail(control.ErrUsage, "nothing was written; `tarn help rse set` tells which settings there are", "with this setting there would be %v", bad)
	}
	if err != nil {
		return "", "", err
	}
	for _, r := range now.RSEs {
		if r.Name != name {
			continue
		}
		if err := o.lake.SetRSE(r.Backend(), careOf(r)); err != nil {
			return "", "", err
		}
		for _, was := range o.cfg.RSEs {
			if was.Name == name && was.ReadOnly && !r.ReadOnly {
				later = "it was opened read-only and is written to after the next mount"
			}
		}
	}
	return o.cfg.LocalFile(), later, nil
}

func (s *session) rseUsageCommand() *cli.Command {
	return &cli.Command{
		Name: "usage", Usage: "what they hold, and how full they are", ArgsUsage: "[RSE]",
		Description: `Counts what the catalogue has on record at each RSE, and shows what its storage says of space. Of the copies that
are AVAILABLE, "expiring" are held by rules that all end, "unlocked" by no rule, and "only" are the only ones
of their files. "reaped" is what was deleted there, since the mount, above the mark high or by a drain.`,
		Action: func(c *cli.Context) error {
			if err := want(c, 0, 1); err != nil {
				return err
			}
			l := s.t.list("RSE", ">files", ">bytes", ">not good", ">expiring", ">unlocked", ">only", ">free", ">total", ">reaped", "")
			err := call(c.Context, s, nil, "rse/usage", func([]control.Text) any { return control.RSERequest{Name: c.Args().First()} },
				func(u control.RSEUsage) error {
					var poor int64
					for st, h := range u.States {
						if st != backends.Available {
							poor += h.Files
						}
					}
					reaped, words := "", []string{}
					if u.High != "" {
						words = append(words, "high "+markOf(u.High)+", low "+markOf(u.Low))
					}
					if u.Own.Files > 0 || u.Quota != nil {
						word := "yours " + count(u.Own.Files, "file") + ", " + human(u.Own.Bytes)
						if u.Quota != nil {
							word += " of " + human(*u.Quota)
						}
						words = append(words, word)
					}
					if u.Care != nil {
						if u.Care.Removed > 0 {
							reaped = s.t.size(u.Care.RemovedBytes)
						}
						words = append(words, careWords(*u.Care)...)
					}
					if u.Error != "" {
						words = append(words, u.Error)
					}
					return l.add(u, u.Name, strconv.FormatInt(u.All.Files, 10), s.t.size(u.All.Bytes), strconv.FormatInt(poor, 10), s.t.size(u.Expiring.Bytes),
						s.t.size(u.Unlocked.Bytes), s.t.size(u.Only.Bytes), s.t.size(u.Free), s.t.size(u.Total), reaped, strings.Join(words, "; "))
				}, nil)
			return errors.Join(err, l.end())
		},
	}
}

// markOf is a mark for people.
func markOf(word string) string {
	if n, err := strconv.ParseInt(word, 10, 64); err == nil {
		return human(n)
	}
	return word
}

func (s *session) rseSetCommand() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "change attributes and settings of one", ArgsUsage: "RSE KEY=VALUE...",
		Description: `KEY is read_only, high, low, grace, scratch, shared or drain, as in the lake file, or else the name of
an attribute that rules ask for. It is written into lake.local.yaml beside the lake file, whose other contents
and comments stay, and takes effect at once, also in the daemon. KEY= takes it back.

Examples:
   tarn rse set PIC-DISK country=ES tier=1
   tarn rse set PIC-DISK read_only=true
   tarn rse set PIC-DISK high=90% low=80%`,
		Action: func(c *cli.Context) error {
			if err := want(c, 2, -1); err != nil {
				return err
			}
			set := map[string]string{}
			for _, kv := range c.Args().Slice()[1:] {
				k, v, ok := strings.Cut(kv, "=")
				if !ok || k == "" {
					return usage([]string{"rse", "set"}, "want KEY=VALUE, not %q", kv)
				}
				set[strings.TrimPrefix(k, "attributes.")] = v
			}
			r, err := s.setRSE(c.Context, c.Args().First(), set)
			if err != nil {
				return err
			}
			return s.t.object(r, func() {
				s.t.say("%s: written into %s", r.Name, r.File.Quote())
				if r.Later != "" {
					s.t.note("%s: %s", r.Name, r.Later)
				}
			})
		},
	}
}

func (s *session) setRSE(ctx context.Context, name string, set map[string]string) (r control.RSESetReply, err error) {
	err = call[struct{}](ctx, s, nil, "rse/set", func([]control.Text) any { return control.RSESetRequest{Name: name, Set: set} }, nil, &r)
	return r, err
}

func (s *session) rseDrainCommand() *cli.Command {
	return &cli.Command{
		Name: "drain", Usage: "empty one: copies are made elsewhere first", ArgsUsage: "[RSE]",
		Description: `No new copies go to the RSE. What rules want is copied to other RSEs that they match, or that --to
matches; files without rules, to RSEs of the same kind. Each copy is deleted when every rule is fulfilled
without it by verified copies, and never the last one. It goes on over restarts until the RSE is empty and
further, until --stop. The work is done while the lake is mounted. With an RSE that is drained, or none,
the state is shown; with --wait until nothing is left.

Examples:
   tarn rse drain PIC-DISK --to CNAF-DISK --wait
   tarn rse drain PIC-DISK --stop`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "copies may go to RSEs that match this `EXPRESSION`, too"},
			&cli.BoolFlag{Name: "stop", Usage: "end it; copies that were made stay"},
			&cli.BoolFlag{Name: "status", Usage: "only show how far it is"},
			&cli.BoolFlag{Name: "wait", Usage: "wait until nothing is left"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 0, 1); err != nil {
				return err
			}
			name := c.Args().First()
			switch {
			case name == "" && (c.Bool("stop") || c.Bool("wait") || c.String("to") != ""):
				return usage([]string{"rse", "drain"}, "name an RSE")
			case c.Bool("stop"):
				r, err := s.setRSE(c.Context, name, map[string]string{"drain": "", "drain_to": ""})
				if err == nil && r.Drain { // the lake file says so
					_, err = s.setRSE(c.Context, name, map[string]string{"drain": "false"})
				}
				if err == nil {
					s.t.say("%s is not drained any more", name)
				}
				return err
			case name != "" && !c.Bool("status"):
				set := map[string]string{"drain": "true"}
				if c.IsSet("to") {
					set["drain_to"] = c.String("to")
				}
				if _, err := s.setRSE(c.Context, name, set); err != nil {
					return err
				}
			}
			if !c.Bool("wait") {
				_, err := s.drainStatus(c.Context, name, true)
				return err
			}
			return s.awaitDrain(c.Context, name)
		},
	}
}

// drainStatus shows how far drains are.
func (s *session) drainStatus(ctx context.Context, name string, show bool) (last control.RSEDrain, err error) {
	l := s.t.list("RSE", "state", ">left", ">bytes left", ">removed", "")
	err = call(ctx, s, nil, "rse/drain", func([]control.Text) any { return control.RSERequest{Name: name} }, func(d control.RSEDrain) error {
		last = d
		if !show {
			return nil
		}
		state := "not drained"
		switch {
		case d.Drain && d.Left.Files == 0:
			state = "empty"
		case d.Drain && !d.Daemon:
			state = "waits for a mount"
		case d.Drain:
			state = "draining"
		}
		removed, why := "", ""
		if d.Past.Files > 0 {
			why = fmt.Sprintf("%d removed or replaced until their grace period ends", d.Past.Files)
		}
		if d.Care != nil && d.Care.Why != "" {
			why = d.Care.Why
		}
		if d.Care != nil {
			removed = strconv.FormatInt(d.Care.Removed, 10)
		}
		return l.add(d, d.Name, state, strconv.FormatInt(d.Left.Files, 10), s.t.size(d.Left.Bytes), removed, why)
	}, nil)
	if !show {
		return last, err
	}
	return last, errors.Join(err, l.end())
}

// awaitDrain waits until an RSE is empty. Without a daemon it never would be.
func (s *session) awaitDrain(ctx context.Context, name string) error {
	m := s.t.meter()
	defer m.end()
	first := int64(-1)
	for {
		began := time.Now()
		d, err := s.drainStatus(ctx, name, false)
		if err != nil {
			return err
		}
		switch {
		case d.Left.Files == 0:
			s.t.say("%s is empty", name)
			if d.Past.Files > 0 {
				s.t.note("%s, %s, of what was removed or replaced lie there until their grace period ends", count(d.Past.Files, "copy"), human(d.Past.Bytes))
			}
			return nil
		case !d.Daemon:
			return control.Fail(control.ErrNoDaemon, "", "%s has %s left, and nobody makes copies while the lake is not mounted", name, count(d.Left.Files, "replica"))
		case !d.Drain:
			return control.Fail(backends.ErrCancelled, "", "the drain of %s was stopped, with %s left", name, count(d.Left.Files, "replica"))
		}
		first = max(first, d.Left.Files)
		p := control.Progress{What: "drained", Files: first - d.Left.Files, TotalFiles: first}
		if d.Care != nil && d.Waiting == 0 {
			p.Note = d.Care.Why
		}
		m.show(p)
		select {
		case <-time.After(max(time.Second, 10*time.Since(began))): // it counts all there are
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
