package main

import (
	"errors"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/compare"
	"tarn/cmd/tarn/control"
)

func (s *session) replicasCommand() *cli.Command {
	dark := []cli.Flag{
		&cli.StringFlag{Name: "rse", Usage: "all that lies at the RSEs that match this `EXPRESSION`; with PATH: the copies there"},
		&cli.BoolFlag{Name: "deep", Usage: "compare checksums, not only sizes"},
		&cli.StringFlag{Name: "grace", Value: "1h", Usage: "least `AGE` of a file that is called dark"},
	}
	const which = `With PATH every copy of the files at and below it is asked for. With --rse whole storages are listed,
and what nobody knows is found, too; --rse '*' is all of them. The lake may be in use meanwhile.

   lost         the catalogue says AVAILABLE; the storage has none, or one of another size
   bad          its checksum differs (--deep)
   dark         a file that neither the catalogue, nor what can be undeleted, nor the journal knows, older than --grace
   back         it was declared BAD, and is good
   unread       its checksum was to be compared, and could not be had
   unavailable  the storage does not answer, or has not one of its copies: nothing is said of them
   gone         a file of which no good copy is left

--deep asks the storage for its checksum, or reads; nothing is recalled from tape.
Exit codes: 0 nothing is wrong, or all is repaired; 6 problems; 13 bytes are lost.`
	return &cli.Command{
		Name: "replicas", Category: groupMove, Usage: "the copies of files: where they are, and whether they are there", ArgsUsage: "PATH...",
		Description: "`tarn replicas PATH` is `tarn replicas ls PATH`.\n\nExample:\n   tarn replicas /ctao/dl3/crab\n   tarn replicas check --rse PIC-DISK",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list the copies of each file at and below PATH", ArgsUsage: "PATH...",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					l := s.t.list("RSE", "state", "locality", "verified", "path", "")
					err := call(c.Context, s, c.Args().Slice(), "replicas", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} },
						func(r control.ReplicaEntry) error {
							return l.add(r, r.RSE, r.State, r.Locality, when(r.Verified), r.Path.Quote(), r.Error)
						}, nil)
					return errors.Join(err, l.end())
				},
			},
			{
				Name: "check", Usage: "compare storages with the catalogue", ArgsUsage: "PATH...|--rse EXPRESSION",
				Description: which + "\n\nExamples:\n   tarn replicas check --rse PIC-DISK --deep\n   tarn replicas check /ctao/dl3/crab",
				Flags:       dark,
				Action:      func(c *cli.Context) error { return s.checkReplicas(c, false) },
			},
			{
				Name: "repair", Usage: "the same, and set right what can be", ArgsUsage: "PATH...|--rse EXPRESSION",
				Description: which + `

Lost and bad copies are declared BAD, and rules make others from good ones: now, if the lake is mounted, else at the
next mount. What was declared BAD and is good counts again. Dark files are deleted with --delete-dark only, and never at
an RSE that is shared. A storage that has none of its copies is believed with --force only.

Example:
   tarn replicas repair --rse PIC-DISK`,
				Flags: append(dark[:len(dark):len(dark)],
					&cli.BoolFlag{Name: "delete-dark", Usage: "delete what nobody knows; other lakes and people may have files there"},
					&cli.BoolFlag{Name: "force", Usage: "believe a storage that has not one of its copies"}),
				Action: func(c *cli.Context) error { return s.checkReplicas(c, true) },
			},
		},
	}
}

// checkReplicas is check and repair.
func (s *session) checkReplicas(c *cli.Context, repair bool) error {
	name := []string{"replicas", c.Command.Name}
	if !c.Args().Present() && c.String("rse") == "" {
		return usage(name, "%s wants a PATH, or --rse", c.Command.HelpName)
	}
	grace, err := parseDuration(c.String("grace"))
	if err != nil {
		return usage(name, "--grace: %v", err)
	}
	if c.Args().Present() && c.Bool("delete-dark") {
		return usage(name, "--delete-dark goes with --rse alone: dark files have no PATH")
	}
	l := s.t.list("what", "RSE", "file", "")
	var sum control.CheckReply
	err = call(c.Context, s, c.Args().Slice(), "replicas/check", func(ps []control.Text) any {
		return control.CheckRequest{Paths: ps, RSE: c.String("rse"), Deep: c.Bool("deep"), Repair: repair, DeleteDark: c.Bool("delete-dark"),
			Force: c.Bool("force"), Grace: max(grace, time.Nanosecond)}
	}, func(e control.CheckEntry) error {
		file := e.Path.Quote()
		if e.Path == "" {
			file = e.PFN.Quote()
		}
		word := e.What
		if e.Note {
			word = "(" + word + ")"
		}
		var why []string
		if e.Size > 0 {
			why = append(why, human(e.Size))
		}
		if e.Detail != "" {
			why = append(why, e.Detail)
		}
		return l.add(e, word, e.RSE, file, strings.Join(why, ", "))
	}, &sum)
	if err == nil && s.t.json {
		err = l.add(struct {
			Summary control.CheckReply `json:"summary"`
		}{sum})
	}
	if err := errors.Join(err, l.end()); err != nil {
		return err
	}
	s.t.say("%s good of %d on record; %s, %d repaired, %s", count(sum.Good, "replica"), sum.Replicas, count(sum.Problems, "problem"), sum.Repaired, count(sum.Notes, "note"))
	hint := "`tarn replicas repair` declares lost and bad copies BAD, and rules make others"
	if repair {
		hint = "what is left is listed above"
	}
	switch {
	case sum.Lost > 0:
		return control.Fail(backends.ErrCorrupt, hint, "%s, of which no good copy is left ("+compare.Gone+")", count(sum.Lost, "file"))
	case sum.Problems > 0:
		return control.Fail(control.ErrPartial, hint, "%s left", plural(int(sum.Problems), "problem is", "problems are"))
	}
	return nil
}
