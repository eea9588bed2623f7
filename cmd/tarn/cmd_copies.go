package main

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/naming"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func parseDuration(s string) (time.Duration, error) {
	d, err := config.ParseDuration(s)
	return d.D(), err
}

func (s *session) verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Category: groupMove, Usage: "read every copy again and compare checksums", ArgsUsage: "PATH...",
		Description: `Reads every copy of each file at and below PATH, recalling those on tape, and compares it with
the catalogue's checksum. A copy that is no good is declared bad, and made anew where a rule wants
it. Prints the copies that are not good; -v prints all. Exit code 13 when one was corrupt or missing,
6 when one could not be read.

Example:
   tarn verify /ctao/dl3/crab`,
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			l := s.t.list("RSE", "result", ">bytes", "path", "")
			var n control.Count
			bad := int64(0)
			err := call(c.Context, s, c.Args().Slice(), "verify", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} },
				func(v control.VerifyEntry) error {
					word := "good"
					switch {
					case v.Bad:
						word = "BAD"
						bad++
					case !v.OK:
						word = "unread"
					case s.t.verbose == 0 && !s.t.json:
						return nil
					}
					return l.add(v, v.RSE, word, s.t.size(v.Bytes), v.Path.Quote(), v.Error)
				}, &n)
			if err := errors.Join(err, l.end()); err != nil {
				return err
			}
			s.t.say("%s good, %d not; %s read", count(n.Done, "replica"), n.Failed, human(n.Bytes))
			switch {
			case bad > 0:
				return control.Fail(backends.ErrCorrupt, "they are declared BAD and not read any more; rules make new copies", "%s corrupt or missing", count(bad, "replica"))
			case n.Failed > 0:
				return errPartial(n.Failed, "replica")
			}
			return nil
		},
	}
}

func (s *session) rseCommand() *cli.Command {
	return &cli.Command{
		Name: "rse", Category: groupMove, Usage: "the storages of the lake",
		Subcommands: []*cli.Command{s.rseTestCommand(), s.rseUsageCommand(), s.rseSetCommand(), s.rseDrainCommand(), {
			Name: "ls", Usage: "list them, with attributes, naming and space",
			Action: func(c *cli.Context) error {
				if err := want(c, 0, 0); err != nil {
					return err
				}
				l := s.t.list("RSE", "kind", ">free", ">total", ">read", "attributes", "")
				err := call(c.Context, s, nil, "rse/ls", func([]control.Text) any { return struct{}{} },
					func(r control.RSEEntry) error {
						var attrs []string
						for k, v := range r.Attributes {
							attrs = append(attrs, k+"="+v)
						}
						sort.Strings(attrs)
						if r.Naming != naming.Unique {
							attrs = append(attrs, "(naming "+r.Naming+")")
						}
						if r.Drain {
							attrs = append(attrs, "(drained)")
						}
						if r.ReadOnly {
							attrs = append(attrs, "(read-only)")
						}
						trouble, speed := r.Error, ""
						if r.Speed.Rate > 0 {
							speed = s.t.size(int64(r.Speed.Rate)) + "/s"
						}
						for _, e := range r.Endpoints {
							if e.State != backends.EndpointClosed && !strings.Contains(trouble, e.Endpoint) {
								trouble = strings.TrimPrefix(trouble+"; "+s.endpointWord(e), "; ")
							}
						}
						return l.add(r, r.Name, strings.ToLower(string(r.Kind)), s.t.size(r.Free), s.t.size(r.Total), speed, strings.Join(attrs, " "), trouble)
					}, nil)
				return errors.Join(err, l.end())
			},
		}},
	}
}

func (s *session) ruleCommand() *cli.Command {
	return &cli.Command{
		Name: "rule", Category: groupMove, Usage: "how many copies shall be where",
		Description: "A rule asks for copies of a file, or of all files below a directory, on the RSEs that match an\nexpression: names, key=value, and & | \\ ( ) *, as in Rucio.",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list rules", ArgsUsage: "[PATH]",
				Description: "With PATH: the rules on it and on the directories above it.\n\nExample:\n   tarn rule ls --state STUCK",
				Flags:       []cli.Flag{&cli.StringSliceFlag{Name: "state", Usage: "only those that are `STATE`: OK, REPLICATING, STUCK"}},
				Action: func(c *cli.Context) error {
					if err := want(c, 0, 1); err != nil {
						return err
					}
					var states []backends.RuleState
					for _, x := range c.StringSlice("state") {
						st := backends.RuleState(strings.ToUpper(x))
						if st != backends.RuleOK && st != backends.RuleReplicating && st != backends.RuleStuck {
							return usage([]string{"rule", "ls"}, "--state: want OK, REPLICATING or STUCK, not %q", x)
						}
						states = append(states, st)
					}
					l := s.t.list("id", "state", ">copies", "expression", "expires", "on", "")
					err := call(c.Context, s, c.Args().Slice(), "rule/ls", func(ps []control.Text) any {
						req := control.RulesRequest{States: states}
						if len(ps) == 1 {
							req.Path = ps[0]
						}
						return req
					}, func(r control.RuleEntry) error {
						on := r.Path.Quote()
						if on == "" {
							on = control.Text(r.DID.String()).Quote()
						}
						return l.add(r, string(r.ID), string(r.State), strconv.Itoa(r.Copies), r.Expression, when(r.Expires), on, r.Error)
					}, nil)
					return errors.Join(err, l.end())
				},
			},
			{
				Name: "add", Usage: "ask for copies", ArgsUsage: "PATH EXPRESSION",
				Description: "The copies are made by the daemon, while the lake is mounted.\n\nExample:\n   tarn rule add /ctao/dl3 'country=IT&rse_type=DISK' --copies 1 --lifetime 30d",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "copies", Aliases: []string{"n"}, Value: 1, Usage: "`N` copies"},
					&cli.StringFlag{Name: "lifetime", Usage: "for this `TIME` (30d, 12h); default: for ever"},
					&cli.StringFlag{Name: "comment", Usage: "`WORDS` to remember it by"},
				},
				Action: func(c *cli.Context) error {
					if err := want(c, 2, 2); err != nil {
						return err
					}
					life, err := lifetime(c, "lifetime")
					if err != nil {
						return err
					}
					var added control.RuleAdded
					err = call[struct{}](c.Context, s, c.Args().Slice()[:1], "rule/add", func(ps []control.Text) any {
						return control.RuleAddRequest{Path: ps[0], Copies: c.Int("copies"), Expression: c.Args().Get(1), Lifetime: life, Comment: c.String("comment")}
					}, nil, &added)
					if err != nil {
						return err
					}
					return s.t.object(added, func() { fmt.Fprintln(s.t.out, added.ID) })
				},
			},
			{
				Name: "rm", Usage: "remove rules", ArgsUsage: "ID...",
				Description: "What no rule wants any more stays until somebody removes the file.",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					var n control.Count
					err := call[struct{}](c.Context, s, nil, "rule/rm", func([]control.Text) any { return control.IDsRequest{IDs: c.Args().Slice()} }, nil, &n)
					if err != nil {
						return err
					}
					return s.t.object(n, func() { s.t.say("%s removed", count(n.Done, "rule")) })
				},
			},
		},
	}
}
