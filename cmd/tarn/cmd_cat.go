package main

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/cmd/tarn/control"
)

// The commands of `tarn catalogue` that do what DIRAC's file catalogue does; docs/dirac.md has each of its methods.
func (s *session) fileCatalogueCommands() []*cli.Command {
	return append([]*cli.Command{
		s.catFieldCommand(),
		s.catFindCommand(),
		s.catValuesCommand(),
		s.catMetaCommand(),
		s.catMetaSetsCommand(),
		s.catDatasetCommand(),
		s.catAncestorsCommand(),
		s.catDescendantsCommand(),
	}, s.catPathCommands()...)
}

const lfnsHelp = "Each LFN is a lake path; - reads them from stdin, one a line. "

// oneValue shows a result as name and value.
func oneValue(r control.LFNResult) [][]string {
	return [][]string{{r.LFN.Quote(), plain(r.Value)}}
}

// pairs shows a result that is an object as a line for each of its members.
func pairs(r control.LFNResult) (rows [][]string) {
	var m map[string]json.RawMessage
	if json.Unmarshal(r.Value, &m) != nil || m == nil {
		return oneValue(r)
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		rows = append(rows, []string{r.LFN.Quote(), control.Text(k).Quote(), plain(m[k])})
	}
	return rows
}

// plain shows a JSON value: texts as they are, all else as JSON.
func plain(v json.RawMessage) string {
	var t control.Text
	if len(v) > 0 && (v[0] == '"' || strings.HasPrefix(string(v), `{"base64":`)) && json.Unmarshal(v, &t) == nil {
		return t.Quote()
	}
	return strings.TrimSpace(string(v))
}

// catPathCommand is a command that asks one question about each path.
func (s *session) catPathCommand(name, about, usageText, more string, row func(control.LFNResult) [][]string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usageText, ArgsUsage: "LFN...", Description: lfnsHelp + more,
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			return s.askBulk(c.Context, c.Args().Slice(), "catalogue/paths", func(ps []control.Text) any {
				return control.PathsAbout{LFNs: ps, About: about}
			}, s.t.bulk(row), "path")
		},
	}
}

// catPathCommands are those about files and directories.
func (s *session) catPathCommands() []*cli.Command {
	return []*cli.Command{
		s.catPathCommand("exists", "exists", "whether files or directories are there", "Exit code 0 also when they are not.", oneValue),
		s.catPathCommand("isfile", "isfile", "whether they are files", "What is not there is no file.", oneValue),
		s.catPathCommand("isdir", "isdir", "whether they are directories", "What is not there is no directory.", oneValue),
		s.catPathCommand("islink", "islink", "whether they are symbolic links", "", oneValue),
		s.catPathCommand("readlink", "readlink", "what symbolic links point at", "", oneValue),
		s.catPathCommand("filesize", "size", "sizes of files in bytes", "", oneValue),
		s.catPathCommand("stat", "stat", "attributes and checksums in DIRAC's words", "CreationDate is the time of the content (mtime), ModificationDate that of the record (ctime).", pairs),
		s.catPathCommand("replicas", "replicas", "places of files, by SE", "Copies that are BAD or being deleted are left out.", pairs),
		s.catLsCommand(),
		s.catDuCommand(),
		{
			Name: "mkdir", Usage: "make directories", ArgsUsage: "LFN...",
			Description: lfnsHelp + "Directories above them are made as well; those that are there are success.",
			Action:      s.simpleBulk("catalogue/mkdir", "directory", func(c *cli.Context, ps []control.Text) any { return control.LFNsRequest{LFNs: ps} }),
		},
		{
			Name: "rm", Usage: "remove files", ArgsUsage: "LFN...",
			Description: lfnsHelp + `The names go at once, the copies at all SEs after the grace period;
until then tarn undelete brings a file back. Files that are not there are success.`,
			Action: s.simpleBulk("catalogue/rm", "file", func(c *cli.Context, ps []control.Text) any { return control.LFNsRequest{LFNs: ps} }),
		},
		{
			Name: "rmdir", Usage: "remove empty directories", ArgsUsage: "LFN...",
			Description: lfnsHelp + "Those that are not there are success.",
			Action:      s.simpleBulk("catalogue/rmdir", "directory", func(c *cli.Context, ps []control.Text) any { return control.LFNsRequest{LFNs: ps} }),
		},
		s.catChmodCommand(),
		s.catChownCommand(),
		s.catAccessCommand(),
		s.catStatusCommand(),
		s.catNamesCommand("guid", "which files have these GUIDs", "GUID...", `The metadata guid or GUID of all files is gone through once, however many GUIDs are asked for.`,
			func(c *cli.Context, ps []control.Text) any { return control.GUIDRequest{GUIDs: plainTexts(ps)} }),
		s.catNamesCommand("pfn", "which files have copies at these PFNs", "PFN...", `A PFN is SE:PATH, or a URL or path that ends with the path of the copy below the prefix of its SE.
All replicas are gone through once, however many PFNs are asked for.`,
			func(c *cli.Context, ps []control.Text) any { return control.PFNRequest{PFNs: plainTexts(ps)} }),
		s.catDumpCommand(),
		s.catCountersCommand(),
	}
}

func plainTexts(ts []control.Text) []string {
	out := make([]string, len(ts))
	for i, t := range ts {
		out[i] = string(t)
	}
	return out
}

// simpleBulk is the action of a command that does one thing with each name.
func (s *session) simpleBulk(op, what string, req func(*cli.Context, []control.Text) any) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := want(c, 1, -1); err != nil {
			return err
		}
		b := s.t.bulk(nil)
		err := s.askBulk(c.Context, c.Args().Slice(), op, func(ps []control.Text) any { return req(c, ps) }, b, what)
		if err == nil {
			s.t.say("%s", count(b.done, what))
		}
		return err
	}
}

func (s *session) catLsCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "what is in directories", ArgsUsage: "LFN...",
		Description: lfnsHelp + `With --json each directory is {"Files": {...}, "SubDirs": {...}, "Links": {...}}.

Examples:
   tarn catalogue ls --json /ctao/dl3               # getDirectoryContents
   tarn catalogue ls -R --replicas --json /ctao/dl3 # where each file below it is`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "and all below (getDirectoryDump)"},
			&cli.BoolFlag{Name: "replicas", Usage: "places of the files instead of their attributes (getDirectoryReplicas)"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			replicas := c.Bool("replicas")
			b := s.t.bulk(func(r control.LFNResult) [][]string {
				if r.Kind == "" {
					return nil
				}
				if replicas && r.Kind == "file" {
					return pairs(control.LFNResult{LFN: r.Path, Value: r.Value})
				}
				var m control.CatMetadata
				if err := json.Unmarshal(r.Value, &m); err != nil {
					return nil
				}
				return [][]string{{r.Path.Quote(), strings.ToLower(m.Type), fmt.Sprint(m.Size), strings.ToLower(m.ChecksumType), m.Checksum}}
			})
			b.nested = true
			return s.askBulk(c.Context, c.Args().Slice(), "catalogue/contents", func(ps []control.Text) any {
				return control.ContentsRequest{LFNs: ps, Recursive: c.Bool("recursive"), Replicas: replicas}
			}, b, "directory")
		},
	}
}

func (s *session) catDuCommand() *cli.Command {
	return &cli.Command{
		Name: "du", Usage: "how much is in directories", ArgsUsage: "LFN...",
		Description: lfnsHelp + "With -l also how much of it each SE has (PhysicalSize).",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "what each SE has, too"}},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			return s.askBulk(c.Context, c.Args().Slice(), "catalogue/size", func(ps []control.Text) any {
				return control.SizeRequest{LFNs: ps, Long: c.Bool("long")}
			}, s.t.bulk(pairs), "directory")
		},
	}
}

func (s *session) catStatusCommand() *cli.Command {
	const se = "of the replica at this `SE`"
	return &cli.Command{
		Name: "status", Usage: "status of replicas: AprioriGood, Problematic",
		Subcommands: []*cli.Command{
			{
				Name: "get", Usage: "what is thought of replicas", ArgsUsage: "LFN...",
				Description: lfnsHelp + "Copies that are being made or deleted have Rucio's words, COPYING and BEING_DELETED.",
				Flags:       []cli.Flag{&cli.StringFlag{Name: "se", Usage: se + "; without it, of all"}},
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					return s.askBulk(c.Context, c.Args().Slice(), "catalogue/status", func(ps []control.Text) any {
						return control.StatusRequest{LFNs: ps, SE: c.String("se")}
					}, s.t.bulk(pairs), "file")
				},
			},
			{
				Name: "set", Usage: "declare replicas good or problematic", ArgsUsage: "STATUS LFN...",
				Description: lfnsHelp + `A Problematic replica is not read any more, and rules make another.

Example:
   tarn catalogue status set Problematic --se PIC-DISK --reason 'user reports garbage' /ctao/dl0/run7.fits`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "se", Usage: se},
					&cli.StringFlag{Name: "reason", Usage: "why, for those who look at it later"},
				},
				Action: func(c *cli.Context) error {
					if err := want(c, 2, -1); err != nil {
						return err
					}
					if c.String("se") == "" {
						return usage([]string{"catalogue", "status", "set"}, "--se is missing: at which SE is the replica?")
					}
					b := s.t.bulk(nil)
					err := s.askBulk(c.Context, c.Args().Tail(), "catalogue/status/set", func(ps []control.Text) any {
						return control.SetStatusRequest{LFNs: ps, SE: c.String("se"), Status: c.Args().First(), Reason: c.String("reason")}
					}, b, "file")
					if err == nil {
						s.t.say("%s set", count(b.done, "replica"))
					}
					return err
				},
			},
		},
	}
}

// catNamesCommand asks about names that are no paths, all in one request.
func (s *session) catNamesCommand(name, usageText, args, more string, req func(*cli.Context, []control.Text) any) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usageText, ArgsUsage: args, Description: "- reads them from stdin, one a line. " + more,
		Action: func(c *cli.Context) (err error) {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			var names []control.Text
			for _, a := range c.Args().Slice() {
				if a != "-" {
					names = append(names, control.Text(a))
				} else if err := linesOf(s.t.in, func(some []control.Text) error { names = append(names, some...); return nil }); err != nil {
					return err
				}
			}
			client, _, err := s.connect(c.Context)
			if err != nil {
				return err
			}
			defer closeClient(client, &err)
			b := s.t.bulk(oneValue)
			if err := control.Call(c.Context, client, "catalogue/"+name, req(c, names), b.add, nil, nil); err != nil {
				return err
			}
			return b.end(strings.ToUpper(name))
		},
	}
}

func (s *session) catDumpCommand() *cli.Command {
	return &cli.Command{
		Name: "sedump", Usage: "all that is on record of an SE", ArgsUsage: "SE",
		Description: "Example:\n   tarn catalogue sedump PIC-TAPE --json | jq -r '[.lfn, .checksum, .size] | @tsv'",
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			l := s.t.list("", "", ">", "", "")
			err := call(c.Context, s, nil, "catalogue/dump", func([]control.Text) any { return control.DumpRequest{SE: c.Args().First()} },
				func(e control.DumpEntry) error {
					return l.add(e, e.LFN.Quote(), e.PFN.Quote(), fmt.Sprint(e.Size), strings.ToLower(e.ChecksumType)+":"+e.Checksum, e.Status)
				}, nil)
			return joinEnd(err, l)
		},
	}
}

func (s *session) catCountersCommand() *cli.Command {
	return &cli.Command{
		Name: "counters", Usage: "how much is in the catalogue",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "directories and replicas too, which takes a walk over the lake"}},
		Action: func(c *cli.Context) error {
			var n json.RawMessage
			err := call[struct{}](c.Context, s, nil, "catalogue/counters", func([]control.Text) any { return control.CountersRequest{All: c.Bool("all")} }, nil, &n)
			if err != nil {
				return err
			}
			return s.t.object(n, func() {
				l := s.t.list("", "")
				for _, row := range pairs(control.LFNResult{Value: n}) {
					_ = l.add(nil, row[1], row[2]) // end tells
				}
				err = l.end()
			})
		},
	}
}
