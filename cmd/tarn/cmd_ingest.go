package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends/ingest"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func (s *session) ingestCommand() *cli.Command {
	return &cli.Command{
		Name: "ingest", Category: groupMove, Usage: "take in the files of a folder as they are written, and delete them there when that is safe",
		Description: `An ingest watches a folder of this machine. A file that is complete is stored at the RSE of the first rule
and verified there while nothing else is done to it, registered below a lake path, and copied to where the other rules
want it. Its source is deleted when every rule is fulfilled by copies that were verified, and only if that
was asked for. The daemon of a mount works on it, or ` + "`tarn ingest run`" + ` where none is mounted. What
was noted survives a crash: nothing is sent twice, nothing is forgotten.

Where the catalogue is a Rucio server's, a file is sent to one RSE of the rules that can be written to from here, and the rules are put
on the dataset of its folder: the other copies are Rucio's, which is asked whether they are there before a source is deleted.`,
		Subcommands: []*cli.Command{
			s.ingestAddCommand(), s.ingestListCommand(), s.ingestShowCommand(), s.ingestReportCommand(), s.ingestRunCommand(),
			{
				Name: "pause", Usage: "stop for a while", ArgsUsage: "NAME",
				Description: "What is under way is broken off; it begins again with `tarn ingest resume NAME`.",
				Action:      s.ingestSwitch("ingest/pause"),
			},
			{Name: "resume", Usage: "go on after a pause, or with another folder", ArgsUsage: "NAME", Description: "An ingest that is not paused and has failed, since its folder is another one than that which its records are of (another disk at the mount\npoint, a folder that was made anew), takes that one.", Action: s.ingestSwitch("ingest/resume")},
			s.ingestRetryCommand(), s.ingestRemoveCommand(), s.ingestAuditCommand(),
		},
	}
}

// ruleHelp explains rules in words.
const ruleHelp = `A rule in words: copies=N rse=EXPRESSION [from=EXPRESSION] [lifetime=30d] [activity=WORD] [priority=1..5]
[weight=ATTRIBUTE] [grouping=ALL|DATASET|NONE] [comment='...'], where an EXPRESSION is an RSE expression as Rucio has them;
with from= the copies are made from those at RSEs that match it, so that a long link is used once.`

// ingestFlags are those of a definition.
func ingestFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "rule", Usage: "copies that are wanted, in `WORDS`; the first rule's are made first. May be repeated"},
		&cli.StringSliceFlag{Name: "pattern", Usage: "only files whose names match the `GLOB`. May be repeated"},
		&cli.StringFlag{Name: "complete", Usage: "when a file is complete: `closed`, trigger:SUFFIX or age:TIME", Value: "closed"},
		&cli.StringFlag{Name: "delete-source", Usage: "`WHEN`: never, after-rules, or keep-newest:SIZE", Value: "never"},
		&cli.StringFlag{Name: "order", Usage: "`oldest` or priority", Value: "oldest"},
		&cli.StringSliceFlag{Name: "priority", Usage: "with --order priority: names that match the `GLOB` go first, in the order of these flags"},
		&cli.StringFlag{Name: "bandwidth", Usage: "at most so many bytes a second, as `800MB/s`"},
		&cli.StringFlag{Name: "schedule", Usage: "only at these `HOURS`, local time, as 20:00-06:00,12:00-13:00"},
		&cli.StringFlag{Name: "rescan", Usage: "look at the whole folder every `TIME`, whatever was noticed", Value: "1m"},
		&cli.StringFlag{Name: "metadata", Usage: "read metadata by the rules of this `NAME` in the lake file"},
	}
}

// definition reads the flags of a definition. Everything that is wrong with them is in the one error.
func definition(c *cli.Context) (req control.IngestAddRequest, err error) {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	d := &req.Definition
	for _, w := range c.StringSlice("rule") {
		r, err := parseRule(w)
		if err != nil {
			fault("--rule: %v", err)
			continue
		}
		life := time.Duration(0)
		if r.lifetime != "" {
			life, _ = parseDuration(r.lifetime) // parseRule has read it
		}
		d.Rules, req.Lifetimes = append(d.Rules, r.Rule), append(req.Lifetimes, life)
	}
	if len(c.StringSlice("rule")) == 0 {
		fault("no --rule 'copies=1 rse=EXPRESSION', which says where the copies go")
	}
	d.Pattern, d.Priority = c.StringSlice("pattern"), c.StringSlice("priority")
	d.Complete, d.Delete, d.Order, d.Schedule, d.Metadata = c.String("complete"), c.String("delete-source"), c.String("order"), c.String("schedule"), c.String("metadata")
	if v := c.String("bandwidth"); v != "" {
		r, err := config.ParseRate(v)
		if err != nil || r <= 0 {
			fault("--bandwidth: want a rate as 800MB/s, not %q", v)
		}
		d.Bandwidth = int64(r)
	}
	if d.Rescan, err = parseDuration(c.String("rescan")); err != nil {
		fault("--rescan: %v", err)
	}
	if len(faults) > 0 {
		return req, usage(words(c.Command), "%s", strings.Join(faults, "\n"))
	}
	return req, nil
}

func (s *session) ingestAddCommand() *cli.Command {
	return &cli.Command{
		Name: "add", Usage: "watch a folder", ArgsUsage: "NAME",
		Description: ruleHelp + `

Example:
   tarn ingest add lapalma --watch /data/dl0 --to /ctao/dl0 --pattern '*.fits.fz' --delete-source after-rules \
      --rule 'copies=1 rse=PIC-DISK' --rule 'copies=1 rse=PIC-TAPE from=PIC-DISK' --rule 'copies=1 rse=CNAF-DISK from=PIC-DISK'`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "watch", Usage: "the folder `DIR` on this machine"},
			&cli.StringFlag{Name: "to", Usage: "the `LAKEPATH` that its contents go into"},
			&cli.BoolFlag{Name: "paused", Usage: "do not begin yet"},
		}, ingestFlags()...),
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			req, wrong := definition(c)
			complete := true
			for _, f := range []string{"watch", "to"} {
				if c.String(f) == "" {
					complete = false
					wrong = errors.Join(wrong, usage([]string{"ingest", "add"}, "ingest add wants --%s", f))
				}
			}
			// What the lake finds wrong with it is told together with what is wrong with the flags.
			if req.Check = wrong != nil; req.Check && (!complete || len(req.Rules) == 0) {
				return wrong
			}
			req.Name, req.Paused = c.Args().First(), c.Bool("paused")
			var err error
			if req.Dir, err = filepath.Abs(c.String("watch")); err != nil {
				return fmt.Errorf("ingest add: %w", err)
			}
			var st ingest.Status
			if err = call[struct{}](c.Context, s, []string{c.String("to")}, "ingest/add", func(ps []control.Text) any {
				req.Target = string(ps[0])
				return req
			}, nil, &st); err != nil || wrong != nil {
				return errors.Join(wrong, err)
			}
			return s.t.object(st, func() {
				s.t.say("%s is watched, its files go to %s; `tarn ingest show %s --follow` tells how far they are", control.Text(st.Dir).Quote(), control.Text(st.Target).Quote(), st.Name)
				s.noteStopped(st)
			})
		},
	}
}

func (s *session) ingestSwitch(op string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := want(c, 1, 1); err != nil {
			return err
		}
		var st ingest.Status
		err := call[struct{}](c.Context, s, nil, op, func([]control.Text) any { return control.IngestRequest{Name: c.Args().First()} }, nil, &st)
		if err != nil {
			return err
		}
		return s.t.object(st, func() {
			s.t.say("%s is %s", st.Name, strings.ToLower(ingestState(st)))
			s.noteStopped(st)
		})
	}
}

func (s *session) ingestRetryCommand() *cli.Command {
	return &cli.Command{
		Name: "retry", Usage: "try files that failed again now", ArgsUsage: "NAME [PATH...]",
		Description: "PATHs are relative to the folder; none: all that failed.",
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			var n control.Count
			err := call[struct{}](c.Context, s, nil, "ingest/retry", func([]control.Text) any {
				return control.IngestRetryRequest{Name: c.Args().First(), Paths: texts(c.Args().Tail())}
			}, nil, &n)
			if err != nil {
				return err
			}
			return s.t.object(n, func() { s.t.say("%s tried again", count(n.Done, "file")) })
		},
	}
}

func (s *session) ingestRemoveCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Usage: "end an ingest", ArgsUsage: "NAME",
		Description: "The files in the lake, its rules there, and what was not sent stay where they are. Its ledger, with the proofs of all\ndeletions, is put aside in the folder of the ingests.",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "also while files are not safe"}},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			name := c.Args().First()
			err := call[struct{}](c.Context, s, nil, "ingest/rm", func([]control.Text) any { return control.IngestRemoveRequest{Name: name, Force: c.Bool("force")} }, nil, nil)
			if err == nil {
				s.t.say("%s has ended", name)
			}
			return err
		},
	}
}

func (s *session) ingestAuditCommand() *cli.Command {
	return &cli.Command{
		Name: "audit", Usage: "prove every deletion of a source again", ArgsUsage: "NAME",
		Description: `Each deleted source left a record with its checksums and where its copies were. The catalogue is asked
whether the file is there with this content, and whether every rule is fulfilled by verified copies now; with --deep the storages
are asked for the checksums of all copies (that can be read from here, where others make them). Prints what is not right, with -v all. Exit code 13 when something is not.`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "deep", Usage: "ask the storages for checksums"}},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			l := s.t.list("result", "deleted", ">bytes", "path", "")
			var n control.Count
			err := call(c.Context, s, nil, "ingest/audit", func([]control.Text) any {
				return control.IngestAuditRequest{Name: c.Args().First(), Deep: c.Bool("deep")}
			}, func(a control.IngestAudited) error {
				if a.OK && s.t.verbose == 0 && !s.t.json {
					return nil
				}
				word := "proved"
				if !a.OK {
					word = "NOT PROVED"
				}
				return l.add(a, word, when(a.DeletedAt), s.t.size(a.Size), a.Path.Quote(), strings.Join(a.Faults, "; "))
			}, &n)
			if err := errors.Join(err, l.end()); err != nil {
				return err
			}
			s.t.say("%s proved, %d not; %s", count(n.Done, "deletion"), n.Failed, human(n.Bytes))
			if n.Failed > 0 {
				return control.Fail(control.ErrNotProved, "`tarn replicas PATH` and `tarn verify PATH` tell what is left of them", "%s of sources cannot be proved any more", count(n.Failed, "deletion"))
			}
			return nil
		},
	}
}
