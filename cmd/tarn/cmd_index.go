package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"tarn/cmd/tarn/control"
)

// noIndexFlag is what every command has that an index may answer.
func noIndexFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-index", Usage: "ask the catalogue itself, also where there is an index"}
}

// noteFrom tells where an answer is from.
func (s *session) noteFrom(r control.FindReply) {
	if n := r.Note(); n != "" {
		s.t.note("%s", n)
	}
}

func (s *session) indexCommand() *cli.Command {
	return &cli.Command{
		Name: "index", Category: groupFiles, Usage: "make queries of metadata fast", ArgsUsage: "[PATH...]",
		Description: "`tarn index PATH` is `tarn index make PATH`." + `

From what is indexed tarn find answers in milliseconds where a walk takes minutes, as of the time when it was made: what others
change in the catalogue is seen when it is made again. What is changed through this lake is in it at once. Queries about SE or Status
are the catalogue's. index.max_age (1d) bounds how old it may be to answer, and with index.every a daemon makes it anew by itself.

Examples:
   tarn index
   tarn index /ctao/dl3
   tarn index ls`,
		Action: s.indexMake,
		Subcommands: []*cli.Command{
			{
				Name: "make", Usage: "index the metadata of all at and below PATH, or do so anew", ArgsUsage: "[PATH...]",
				Description: "Without PATH: of the whole lake. What was indexed before answers until the new one is whole.",
				Action:      s.indexMake,
			},
			{
				Name: "ls", Usage: "what is indexed, and as of when",
				Action: s.indexList,
			},
			{
				Name: "rm", Usage: "forget what is indexed at and below PATH", ArgsUsage: "[PATH...]",
				Description: "Without PATH: all.",
				Action: func(c *cli.Context) error {
					var n control.Count
					err := call[struct{}](c.Context, s, orRoot(c), "index/rm", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} }, nil, &n)
					if err != nil {
						return err
					}
					return s.t.object(n, func() { s.t.note("%s forgotten", plural(int(n.Done), "index", "indexes")) })
				},
			},
		},
	}
}

// orRoot gives the paths of a command that is about the whole lake when there are none.
func orRoot(c *cli.Context) []string {
	if c.NArg() == 0 {
		return []string{"/"}
	}
	return c.Args().Slice()
}

func (s *session) indexMake(c *cli.Context) error {
	l := s.t.list()
	err := call(c.Context, s, orRoot(c), "index/make", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} }, func(e control.IndexEntry) error {
		if s.t.json {
			return l.add(e)
		}
		s.t.note("%s: %s indexed in %.1f s", e.Path.Quote(), count(e.DIDs, "DID"), e.Took)
		return nil
	}, nil)
	return errors.Join(err, l.end())
}

func (s *session) indexList(c *cli.Context) error {
	l := s.t.list("path", ">DIDs", "as of", "")
	var size control.IndexSize
	n := 0
	err := call(c.Context, s, nil, "index/ls", func([]control.Text) any { return struct{}{} }, func(e control.IndexEntry) error {
		n++
		stale := ""
		if e.Stale != "" {
			stale = "answers no more: " + e.Stale
		}
		return l.add(e, e.Path.Quote(), fmt.Sprint(e.DIDs), when(e.AsOf), stale)
	}, &size)
	if err := errors.Join(err, l.end()); err != nil {
		return err
	}
	if n == 0 {
		s.t.note("nothing is indexed; `tarn index` does it")
		return nil
	}
	s.t.note("%s on disk", human(size.Bytes))
	return nil
}
