package main

import (
	"errors"
	"sort"
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
