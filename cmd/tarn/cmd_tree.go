package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/cmd/tarn/control"
	"tarn/fs/vfs"
)

// call asks one operation about the paths of the command line and closes the way again.
func call[Item any](ctx context.Context, s *session, paths []string, op string, req func(paths []control.Text) any, item func(Item) error, done any) (err error) {
	c, lakePaths, err := s.connect(ctx, paths...)
	if err != nil {
		return err
	}
	defer closeClient(c, &err)
	m := s.t.meter()
	defer m.end()
	return control.Call(ctx, c, op, req(texts(lakePaths)), item, m.show, done)
}

func (s *session) lsCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Category: groupFiles, Usage: "list a directory of the lake", ArgsUsage: "[PATH...]",
		Description: `Lists what stands in each PATH (default: the root, or the working directory in a mount), in byte
order. Nothing is recalled. With -l: mode, owner, locality, size, time, name; a file that is not
yet safe elsewhere has its state behind its name.

Examples:
   tarn ls /ctao/dl3
   tarn ls -lR /ctao --json | jq -r 'select(.locality=="NEARLINE").path'`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "mode, owner, locality, size and time too"},
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "and what is below, to the end"},
			&cli.BoolFlag{Name: "directory", Aliases: []string{"d"}, Usage: "the directory itself"},
		},
		Action: func(c *cli.Context) error {
			paths := c.Args().Slice()
			if len(paths) == 0 {
				paths = []string{s.here()}
			}
			long := c.Bool("long")
			l := s.t.list()
			if long {
				l = s.t.list("", ">", ">", "", ">", "", "")
			}
			for i, p := range paths {
				if len(paths) > 1 && !s.t.json {
					if err := l.end(); err != nil {
						return err
					}
					if i > 0 {
						fmt.Fprintln(s.t.out)
					}
					fmt.Fprintf(s.t.out, "%s:\n", control.Text(p).Quote())
				}
				err := call(c.Context, s, []string{p}, "ls", func(ps []control.Text) any {
					return control.ListRequest{Path: ps[0], Recursive: c.Bool("recursive"), Self: c.Bool("directory"), Locality: long}
				}, func(e control.Entry) error { return l.add(e, s.lsRow(e, long, c.Bool("recursive"))...) }, nil)
				if err := errors.Join(err, l.end()); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// here is the path that a command means when none is given.
func (s *session) here() string {
	if _, ps, err := s.pick("."); err == nil && len(ps) == 1 {
		return "."
	}
	return "/"
}

func (s *session) lsRow(e control.Entry, long, full bool) []string {
	name := control.Text(path.Base(string(e.Path))).Quote()
	if full {
		name = e.Path.Quote()
	}
	switch {
	case e.IsDir() && e.Path != "/":
		name += "/"
	case e.Type == "symlink":
		name += " -> " + e.Target.Quote()
	}
	if e.State != "" && e.State != "SAFE" {
		name += "  (" + e.State + ")"
	}
	if !long {
		return []string{name}
	}
	size := s.t.size(e.Size)
	if e.IsDir() {
		size = "-"
	}
	loc := e.Locality
	if loc == "" {
		loc = "-"
	}
	return []string{modeString(e), strconv.Itoa(int(e.UID)), strconv.Itoa(int(e.GID)), loc, size, when(e.MTime), name}
}

func modeString(e control.Entry) string {
	m := fs.FileMode(e.Mode & 0o777)
	switch {
	case e.IsDir():
		m |= fs.ModeDir
	case e.Type == "symlink":
		m |= fs.ModeSymlink
	}
	return strings.ToLower(m.String())
}

func (s *session) statCommand() *cli.Command {
	return &cli.Command{
		Name: "stat", Category: groupFiles, Usage: "all that is known of a file or directory", ArgsUsage: "PATH...",
		Description: `Shows attributes, checksums, locality, state, replicas, rules and metadata.
A big file that was written fast shows no checksums until its upload begins: they are computed then.

Example:
   tarn stat /ctao/dl3/crab/run.fits --json | jq .replicas`,
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			l := s.t.list()
			first := true
			return call(c.Context, s, c.Args().Slice(), "stat", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} },
				func(e control.Entry) error {
					if s.t.json {
						return errors.Join(l.add(e), l.end())
					}
					if !first {
						fmt.Fprintln(s.t.out)
					}
					first = false
					return s.printStat(e)
				}, nil)
		},
	}
}

func (s *session) printStat(e control.Entry) error {
	l := s.t.list()
	l.width = []int{0}
	row := func(k, v string) error {
		if v == "" {
			return nil
		}
		return l.add(nil, k, v)
	}
	errs := []error{
		row("path", e.Path.Quote()), row("DID", e.DID.Quote()), row("type", e.Type), row("target", e.Target.Quote()), row("layout", string(e.Layout)),
	}
	if !e.IsDir() {
		size := fmt.Sprintf("%d bytes", e.Size)
		if e.Size >= 1024 {
			size += " (" + human(e.Size) + ")"
		}
		errs = append(errs, row("size", size))
	}
	errs = append(errs,
		row("mode", fmt.Sprintf("%s %#04o, uid %d, gid %d", modeString(e), e.Mode, e.UID, e.GID)),
		row("modified", when(e.MTime)), row("inode", fmt.Sprint(e.Inode)), row("locality", e.Locality), row("state", e.State),
		row("adler32", e.Checksums.Adler32), row("md5", e.Checksums.MD5), row("sha256", e.Checksums.SHA256),
	)
	for _, r := range e.Replicas {
		v := fmt.Sprintf("%s %s %s", r.RSE, r.State, r.Locality)
		if !r.Verified.IsZero() {
			v += ", verified " + when(r.Verified)
		}
		if r.Error != "" {
			v += ": " + r.Error
		}
		errs = append(errs, row("replica", v))
	}
	for _, r := range e.Rules {
		errs = append(errs, row("rule", ruleWords(r)))
	}
	keys := make([]string, 0, len(e.Meta))
	for k := range e.Meta {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		errs = append(errs, row("meta", control.Text(k).Quote()+" = "+control.Text(vfs.MetaText(e.Meta[k])).Quote()))
	}
	return errors.Join(append(errs, l.end())...)
}

func ruleWords(r backends.RuleStatus) string {
	v := fmt.Sprintf("%s %s %s on %s", r.ID, r.State, copies(r.Copies), r.Expression)
	if !r.Expires.IsZero() {
		v += " until " + when(r.Expires)
	}
	if r.Error != "" {
		v += ": " + r.Error
	}
	return v
}

func copies(n int) string {
	if n == 1 {
		return "1 copy"
	}
	return fmt.Sprintf("%d copies", n)
}

func (s *session) findCommand() *cli.Command {
	return &cli.Command{
		Name: "find", Category: groupFiles, Usage: "find files by their metadata", ArgsUsage: "[PATH] QUERY",
		Description: `Prints the paths at or below PATH (default: the whole lake) that match QUERY: terms
KEY OP VALUE side by side or joined by and, or, not and parentheses. OP is one of
= != > >= < <= in like; a list is a,b; times are ISO. Keys are metadata, also of the directories
above, and name scope did type size mtime checksum adler32 md5 sha256.
What DIRAC's users write is understood: wildcards * and ? behind =, the words Any and Missing, a key
given twice, the keys SE Path FileName User Group Size GUID Status CreationDate ..., and dictionaries
in JSON. Keys that are declared (tarn catalogue field) are compared by their type.
In a mount the same is a directory: .tarn/find/QUERY/
What is indexed (tarn index) answers without a walk, as of the time that is told on stderr.

Examples:
   tarn find 'obs_id=5029747 and level=DL3'
   tarn find /ctao 'telescope in LST-1,LST-2 mtime>2026-01-01 not size<1000000'
   tarn find '{"particle": {"in": ["gamma", "electron"]}, "configuration_id": {">=": 13}}'`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "as ls -l"},
			&cli.BoolFlag{Name: "print0", Aliases: []string{"0"}, Usage: "paths as they are, each ended by a NUL"},
			noIndexFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			root, terms := s.here(), c.Args().Slice()
			if strings.HasPrefix(terms[0], "/") || terms[0] == "." || strings.HasPrefix(terms[0], "./") {
				root, terms = terms[0], terms[1:]
			}
			if len(terms) == 0 {
				return usage([]string{"find"}, "a query is missing behind %s", root)
			}
			long := c.Bool("long")
			l := s.t.list()
			if long {
				l = s.t.list("", ">", ">", "", ">", "", "")
			}
			var from control.FindReply
			err := call(c.Context, s, []string{root}, "find", func(ps []control.Text) any {
				return control.FindRequest{Path: ps[0], Query: strings.Join(terms, " "), Locality: long, NoIndex: c.Bool("no-index")}
			}, func(e control.Entry) error {
				if c.Bool("print0") && !s.t.json {
					_, err := l.w.WriteString(string(e.Path) + "\x00")
					return err
				}
				return l.add(e, s.lsRow(e, long, true)...)
			}, &from)
			err = errors.Join(err, l.end())
			s.noteFrom(from)
			return err
		},
	}
}

func (s *session) duCommand() *cli.Command {
	return &cli.Command{
		Name: "du", Category: groupFiles, Usage: "how much stands at and below a path", ArgsUsage: "[PATH...]",
		Description: `Sums up sizes from the catalogue; nothing is recalled. With -l also how much is only on tape.

Examples:
   tarn du /ctao
   tarn du --depth 1 -l /ctao`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "depth", Aliases: []string{"D"}, Usage: "directories down to `N` levels below too"},
			&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "bytes that are only on tape too"},
		},
		Action: func(c *cli.Context) error {
			paths := c.Args().Slice()
			if len(paths) == 0 {
				paths = []string{s.here()}
			}
			long := c.Bool("long")
			columns := []string{">size", ">files", ">directories", "path"}
			if long {
				columns = []string{">size", ">nearline", ">files", ">directories", "path"}
			}
			l := s.t.list(columns...)
			err := call(c.Context, s, paths, "du", func(ps []control.Text) any {
				return control.UsageRequest{Paths: ps, Depth: c.Int("depth"), Locality: long}
			}, func(u control.UsageEntry) error {
				row := []string{s.t.size(u.Bytes)}
				if long {
					row = append(row, s.t.size(u.Nearline))
				}
				return l.add(u, append(row, fmt.Sprint(u.Files), fmt.Sprint(u.Directories), u.Path.Quote())...)
			}, nil)
			return errors.Join(err, l.end())
		},
	}
}

func (s *session) metaCommand() *cli.Command {
	return &cli.Command{
		Name: "meta", Category: groupFiles, Usage: "get or set metadata",
		Description: `Metadata of a directory holds for all below it, unless they have their own. In a mount it
is in the extended attributes user.KEY.`,
		Subcommands: []*cli.Command{
			{
				Name: "get", Usage: "print the metadata of a path", ArgsUsage: "PATH [KEY...]",
				Description: "Example:\n   tarn meta get /ctao/dl3/crab obs_id",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					keys := c.Args().Tail()
					l := s.t.list("", "")
					err := call(c.Context, s, c.Args().Slice()[:1], "meta/get", func(ps []control.Text) any { return control.PathsRequest{Paths: ps} },
						func(e control.MetaEntry) error { return s.printMeta(l, e, keys) }, nil)
					return errors.Join(err, l.end())
				},
			},
			{
				Name: "set", Usage: "set or delete metadata", ArgsUsage: "PATH... KEY=VALUE...",
				Description: `A VALUE that is a number or true or false is stored as such, all else as text; --text
keeps everything text, --json-value takes VALUE as JSON.

Examples:
   tarn meta set /ctao/dl3/crab level=DL3 obs_id=5029747
   tarn meta set /ctao/dl3/crab --delete note`,
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "delete", Aliases: []string{"d"}, Usage: "delete `KEY`"},
					&cli.BoolFlag{Name: "text", Usage: "values are text, also those that look like numbers"},
					&cli.BoolFlag{Name: "json-value", Usage: "values are JSON"},
				},
				Action: func(c *cli.Context) error {
					paths, meta, err := metaArgs(c, false)
					if err != nil {
						return err
					}
					var n control.Count
					err = call[struct{}](c.Context, s, paths, "meta/set", func(ps []control.Text) any { return control.MetaSetRequest{Paths: ps, Meta: meta} }, nil, &n)
					if err == nil {
						err = s.t.object(n, func() { s.t.say("metadata of %s set", count(n.Done, "path")) })
					}
					return err
				},
			},
		},
	}
}

// metaArgs splits PATH... KEY=VALUE..., of which none may be there with pathsOnly; a path that holds "=" begins with "/" or "./".
func metaArgs(c *cli.Context, pathsOnly bool) (paths []string, meta backends.Meta, err error) {
	meta = backends.Meta{}
	for _, a := range c.Args().Slice() {
		k, v, ok := strings.Cut(a, "=")
		if !ok || strings.HasPrefix(a, "/") || strings.HasPrefix(a, "./") {
			paths = append(paths, a)
			continue
		}
		if k == "" {
			return nil, nil, usage([]string{"meta", "set"}, "%q has no key before the =", a)
		}
		switch {
		case c.Bool("text"):
			meta[k] = v
		case c.Bool("json-value"):
			var x any
			if err := json.Unmarshal([]byte(v), &x); err != nil {
				return nil, nil, usage([]string{"meta", "set"}, "the value of %s is not JSON: %v", k, err)
			}
			meta[k] = x
		default:
			meta[k] = vfs.MetaValue(v)
		}
	}
	for _, k := range c.StringSlice("delete") {
		meta[k] = nil
	}
	if len(paths) == 0 || len(meta) == 0 && !pathsOnly {
		return nil, nil, usage([]string{"meta", "set"}, "want at least one PATH and one KEY=VALUE")
	}
	return paths, meta, nil
}

func (s *session) printMeta(l *listing, e control.MetaEntry, keys []string) error {
	if len(keys) == 0 {
		for k := range e.Meta {
			keys = append(keys, k)
		}
		sort.Strings(keys)
	} else {
		some := backends.Meta{}
		for _, k := range keys {
			v, ok := e.Meta[k]
			if !ok {
				return control.Fail(backends.ErrNotExist, "`tarn meta get PATH` shows all keys", "%s has no metadata %q of its own", e.Path.Quote(), k)
			}
			some[k] = v
		}
		e.Meta = some
		if len(keys) == 1 && !s.t.json {
			return l.add(e, control.Text(vfs.MetaText(some[keys[0]])).Quote())
		}
	}
	if s.t.json {
		return l.add(e)
	}
	for _, k := range keys {
		if err := l.add(e, control.Text(k).Quote(), control.Text(vfs.MetaText(e.Meta[k])).Quote()); err != nil {
			return err
		}
	}
	return nil
}

// lifetime reads a duration flag in the notation of the lake file.
func lifetime(c *cli.Context, name string) (time.Duration, error) {
	v := c.String(name)
	if v == "" {
		return 0, nil
	}
	d, err := parseDuration(v)
	if err != nil {
		return 0, usage(words(c.Command), "--%s: %v", name, err)
	}
	return d, nil
}
