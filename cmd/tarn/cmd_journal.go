package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/cache/journal"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func (s *session) undeleteCommand() *cli.Command {
	return &cli.Command{
		Name: "undelete", Category: groupFiles, Usage: "bring back what was removed or replaced", ArgsUsage: "PATH",
		Description: `Brings back the content that PATH had before it was removed or replaced; what it has now can be
brought back in turn. --list shows what can be, at and below PATH, and until when.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "list", Aliases: []string{"l"}, Usage: "only list"},
			&cli.StringFlag{Name: "handle", Usage: "this one of several (`HANDLE` from --list)"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			if c.Bool("list") {
				l := s.t.list("removed", "until", ">size", "how", "handle", "path")
				err := call(c.Context, s, c.Args().Slice(), "pasts", func(ps []control.Text) any { return control.PastsRequest{Path: ps[0]} },
					func(p control.PastEntry) error {
						how := "removed"
						if p.Replaced {
							how = "replaced"
						}
						return l.add(p, when(p.Removed), when(p.Until), s.t.size(p.Size), how, p.Handle, p.Path.Quote())
					}, nil)
				return errors.Join(err, l.end())
			}
			var p control.PastEntry
			err := call[struct{}](c.Context, s, c.Args().Slice(), "undelete", func(ps []control.Text) any {
				return control.UndeleteRequest{Path: ps[0], Handle: c.String("handle")}
			}, nil, &p)
			if err != nil {
				return err
			}
			return s.t.object(p, func() {
				s.t.say("%s is back: %s, from before %s", p.Path.Quote(), human(p.Size), p.Removed.Local().Format(time.DateTime))
			})
		},
	}
}

func (s *session) uploadsCommand() *cli.Command {
	ids := func(name, usageText, done string, all bool) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usageText, ArgsUsage: "ID...",
			Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "all that failed", Hidden: !all}},
			Action: func(c *cli.Context) error {
				list := c.Args().Slice()
				if all && c.Bool("all") {
					err := call(c.Context, s, nil, "uploads/ls", func([]control.Text) any { return struct{}{} }, func(u control.UploadEntry) error {
						if u.Error != "" {
							list = append(list, u.ID)
						}
						return nil
					}, nil)
					if err != nil {
						return err
					}
					if len(list) == 0 {
						return control.Fail(control.ErrNothing, "", "no upload has failed")
					}
				}
				if len(list) == 0 {
					return want(c, 1, -1)
				}
				return s.bulk(c.Context, nil, "uploads/"+name, func([]control.Text) any { return control.IDsRequest{IDs: list} }, "upload", func(n control.Count) { s.t.say(done, n.Done) })
			},
		}
	}
	return &cli.Command{
		Name: "uploads", Category: groupTape, Usage: "files that are not yet safe elsewhere",
		Description: "States: WRITING, SEALED, UPLOADED, VERIFIED, REGISTERED, ATTACHED, RULED, SAFE; ABANDONED was never closed.",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list them, with what went wrong",
				Action: func(c *cli.Context) error {
					l := s.t.list("id", "state", ">size", ">age", ">tries", "path", "")
					err := call(c.Context, s, nil, "uploads/ls", func([]control.Text) any { return struct{}{} }, func(u control.UploadEntry) error {
						return l.add(u, u.ID, string(u.State), s.t.size(u.Size), s.t.since(u.Since), fmt.Sprint(u.Attempts), u.Path.Quote(), u.Error)
					}, nil)
					err = errors.Join(err, l.end())
					if err == nil {
						err = s.noteOrphans()
					}
					return err
				},
			},
			ids("retry", "try now, and publish what was ABANDONED", "%d to be tried again", true),
			ids("cancel", "give a file up: what was written is deleted", "%d cancelled", false),
		},
	}
}

// noteOrphans says that there are files which are no uploads, and may be somebody's all the same.
func (s *session) noteOrphans() error {
	file, _, err := s.pick()
	if err != nil {
		return err
	}
	cfg, err := s.load(file)
	if err != nil {
		return err
	}
	orphans, err := journal.Orphans(cfg.Journal.Path)
	if errors.Is(err, os.ErrPermission) {
		return nil // they are the concern of whom the journal belongs to
	}
	if err != nil || len(orphans) == 0 {
		return err
	}
	var size int64
	for _, o := range orphans {
		size += o.Size
	}
	s.t.note("Besides, %s (%s) in %s: recovery after a crash could make no upload of them and kept them; each has its reason beside it, and `tarn fsck` lists them.",
		count(int64(len(orphans)), "file"), human(size), filepath.Join(cfg.Journal.Path, "orphans"))
	return nil
}

func (s *session) cacheCommand() *cli.Command {
	return &cli.Command{
		Name: "cache", Category: groupTape, Usage: "look at the hot cache and take care of it",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list what it holds", ArgsUsage: "[PATH...]", Description: "With PATH: of the files at and below it.",
				Action: func(c *cli.Context) error {
					l := s.t.list(">resident", ">size", "", "used", "pinned until", "what")
					err := call(c.Context, s, c.Args().Slice(), "cache/ls", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} },
						func(e control.CacheEntry) error {
							what, whole := e.Path, "part"
							if what == "" {
								what = e.Key
							}
							if e.Whole {
								whole = "whole"
							}
							return l.add(e, s.t.size(e.Resident), s.t.size(e.Size), whole, when(e.Used), when(e.Pinned), what.Quote())
						}, nil)
					return errors.Join(err, l.end())
				},
			},
			{
				Name: "scrub", Usage: "read all of it and compare checksums; damaged contents are dropped",
				Description: `Reads from the disk what the hot cache holds, contents that are being fetched too, and its index files.
Damaged contents are dropped, of those in use the damaged blocks; damaged index files are written
anew, or were dropped with their contents when the cache was opened. Exit code 13 when there were any.`,
				Action: func(c *cli.Context) error {
					var r control.ScrubReply
					err := call[struct{}](c.Context, s, nil, "cache/scrub", func([]control.Text) any { return struct{}{} }, nil, &r)
					if err != nil {
						return err
					}
					err = s.t.object(r, func() {
						s.t.say("%s read, %s; %d damaged", count(int64(r.Files), "content"), human(r.Bytes), len(r.Damaged)+len(r.Index))
						for _, k := range r.Damaged {
							s.t.say("   dropped %s", k.Quote())
						}
						for _, p := range r.Index {
							s.t.say("   index file %s", p.Quote())
						}
					})
					if n := len(r.Damaged) + len(r.Index); err == nil && n > 0 {
						return control.Fail(backends.ErrCorrupt, "what was dropped is fetched again when it is read; is the disk failing?", "%s damaged on the cache's disk", plural(n, "content or index file was", "contents and index files were"))
					}
					return err
				},
			},
			{
				Name: "limit", Usage: "change its limit until the daemon ends", ArgsUsage: "SIZE",
				Description: "To change it for good set cache.limit in the lake file.\n\nExample:\n   tarn cache limit 50G",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, 1); err != nil {
						return err
					}
					n, err := config.ParseSize(c.Args().First())
					if err != nil {
						return usage([]string{"cache", "limit"}, "%v", err)
					}
					client, _, err := s.needDaemon(c.Context)
					if err != nil {
						return err
					}
					err = control.Call[struct{}](c.Context, client, "cache/limit", control.LimitRequest{Bytes: int64(n)}, nil, nil, nil)
					if err := errors.Join(err, client.Close()); err != nil {
						return err
					}
					s.t.say("the hot cache holds at most %v now", n)
					return nil
				},
			},
		},
	}
}
