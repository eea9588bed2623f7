package main

import (
	"errors"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/backends/filecat"
	"tarn/backends/query"
	"tarn/cmd/tarn/control"
)

// joinEnd ends a listing, also after an error.
func joinEnd(err error, l *listing) error { return errors.Join(err, l.end()) }

const queryHelp = `QUERY is that of tarn find: KEY=VALUE... with = != > >= < <=, lists a,b, wildcards * and ?, Any and
Missing, the keys SE Path Name Size User Group CheckSum GUID Status CreationDate ModificationDate beside
those of metadata; or DIRAC's dictionary in JSON. Metadata of directories holds for all below.`

// rootAndQuery splits [PATH] QUERY.
func (s *session) rootAndQuery(args []string) (root, q string) {
	root = s.here()
	if len(args) > 0 && (strings.HasPrefix(args[0], "/") || args[0] == "." || strings.HasPrefix(args[0], "./")) {
		root, args = args[0], args[1:]
	}
	return root, strings.Join(args, " ")
}

func (s *session) catFindCommand() *cli.Command {
	return &cli.Command{
		Name: "find", Usage: "find files by metadata, as DIRAC does", ArgsUsage: "[PATH] QUERY",
		Description: queryHelp + `
Finds files that are registered; with -d directories. Without --json a line for each, with --json a
list, or with --metadata or --replicas an object by LFN.

Examples:
   tarn catalogue find MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0
   tarn catalogue find --json /ctao '{"particle": {"in": ["gamma", "electron"]}, "configuration_id": {">=": 13}}'
   tarn catalogue find --replicas data_level=0 SE=PIC-TAPE`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "directories", Aliases: []string{"d"}, Usage: "directories, no files (findDirectoriesByMetadata)"},
			&cli.BoolFlag{Name: "metadata", Aliases: []string{"m"}, Usage: "with all metadata (findFilesByMetadataDetailed)"},
			&cli.BoolFlag{Name: "replicas", Usage: "with their places (getReplicasByMetadata)"},
			noIndexFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			root, q := s.rootAndQuery(c.Args().Slice())
			if q == "" {
				return usage([]string{"catalogue", "find"}, "a query is missing behind %s", root)
			}
			req := control.CatFindRequest{Query: q, Kind: filecat.File, NoIndex: c.Bool("no-index")}
			if c.Bool("directories") {
				req.Kind = filecat.Directory
			}
			switch {
			case c.Bool("metadata") && c.Bool("replicas"):
				return usage([]string{"catalogue", "find"}, "--metadata and --replicas are two questions")
			case c.Bool("metadata"):
				req.With = "meta"
			case c.Bool("replicas"):
				req.With = "replicas"
			}
			return s.catFind(c, root, req)
		},
	}
}

// catFind writes what is found as it comes.
func (s *session) catFind(c *cli.Context, root string, req control.CatFindRequest) error {
	l := s.t.list("", "", "")
	n := 0
	var done control.CatFindReply
	begin, end := "[", "]"
	if req.With != "" {
		begin, end = "{", "}"
	}
	err := call(c.Context, s, []string{root}, "catalogue/find", func(ps []control.Text) any { req.Path = ps[0]; return req }, func(r control.LFNResult) error {
		n++
		if !s.t.json {
			if req.With == "" {
				return l.add(nil, r.LFN.Quote())
			}
			rows := pairs(r)
			if len(rows) == 0 {
				rows = [][]string{{r.LFN.Quote()}}
			}
			for _, row := range rows {
				if err := l.add(nil, row...); err != nil {
					return err
				}
			}
			return nil
		}
		if n == 1 {
			l.w.WriteString(begin)
		} else {
			l.w.WriteString(", ")
		}
		l.w.WriteString(key(r.LFN))
		if req.With != "" {
			l.w.WriteString(": " + string(r.Value))
		}
		return nil
	}, &done)
	if s.t.json && err == nil {
		if n == 0 {
			l.w.WriteString(begin)
		}
		l.w.WriteString(end + "\n")
	}
	err = joinEnd(err, l)
	s.noteFrom(done.FindReply)
	return err
}

func (s *session) catValuesCommand() *cli.Command {
	return &cli.Command{
		Name: "values", Usage: "which values of metadata remain", ArgsUsage: "[PATH] [QUERY]",
		Description: queryHelp + `
Prints for each declared field the values that it has among what matches (getCompatibleMetadata).

Example:
   tarn catalogue values MCCampaign=PROD5b particle=gamma-diffuse`,
		Action: func(c *cli.Context) error {
			root, q := s.rootAndQuery(c.Args().Slice())
			if q == "" {
				q = query.All().String()
			}
			var r control.ValuesReply
			err := call[struct{}](c.Context, s, []string{root}, "catalogue/values", func(ps []control.Text) any { return control.CatFindRequest{Path: ps[0], Query: q} }, nil, &r)
			if err != nil {
				return err
			}
			for _, k := range r.More {
				s.t.note("%s has more values than are shown", k)
			}
			if s.t.json {
				return s.t.object(r.Values, nil)
			}
			l := s.t.list("", "", "")
			keys := make([]string, 0, len(r.Values))
			for k := range r.Values {
				keys = append(keys, k)
			}
			sort.Strings(keys)
			for _, k := range keys {
				words := make([]string, len(r.Values[k]))
				for i, v := range r.Values[k] {
					words[i] = plain(v)
				}
				if err := l.add(nil, control.Text(k).Quote(), strings.Join(words, ", ")); err != nil {
					return err
				}
			}
			return l.end()
		},
	}
}

func (s *session) catFieldCommand() *cli.Command {
	flags := func(verb string) []cli.Flag {
		return []cli.Flag{
			&cli.BoolFlag{Name: "directories", Aliases: []string{"d"}, Usage: verb + " of directories, inherited by what is below"},
			&cli.BoolFlag{Name: "files", Aliases: []string{"f"}, Usage: verb + " of files"},
		}
	}
	return &cli.Command{
		Name: "field", Usage: "declared metadata fields",
		Description: `The values of a declared field are checked when they are set, by whatever way, and compared by its
type. Other names can be set all the same: they are compared as what they look like.`,
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list them",
				Description: `With --json {"FileMetaFields": {NAME: TYPE}, "DirectoryMetaFields": {NAME: TYPE}}.`,
				Flags:       flags("only those"),
				Action: func(c *cli.Context) error {
					files, dirs := map[string]query.Type{}, map[string]query.Type{}
					l := s.t.list("name", "type", "of")
					both := c.Bool("files") == c.Bool("directories")
					err := call(c.Context, s, nil, "catalogue/field/ls", func([]control.Text) any { return struct{}{} }, func(f filecat.Field) error {
						switch {
						case f.For == filecat.File && (both || c.Bool("files")):
							files[f.Name] = f.Type
						case f.For == filecat.Directory && (both || c.Bool("directories")):
							dirs[f.Name] = f.Type
						default:
							return nil
						}
						if s.t.json {
							return nil
						}
						return l.add(nil, control.Text(f.Name).Quote(), string(f.Type), string(f.For))
					}, nil)
					if err == nil && s.t.json {
						err = s.t.object(map[string]any{"FileMetaFields": files, "DirectoryMetaFields": dirs}, nil)
					}
					return joinEnd(err, l)
				},
			},
			{
				Name: "add", Usage: "declare one", ArgsUsage: "NAME int|float|string|date",
				Description: `Values that are set already are not looked at. A field of directories cannot be set on a directory
that inherits it from one above: that is a metadata conflict.

Example:
   tarn catalogue field add -d thetaP float`,
				Flags: flags("a field"),
				Action: func(c *cli.Context) error {
					if err := want(c, 2, 2); err != nil {
						return err
					}
					kind := filecat.File
					switch {
					case c.Bool("files") == c.Bool("directories"):
						return usage([]string{"catalogue", "field", "add"}, "want -f for a field of files, or -d for one of directories")
					case c.Bool("directories"):
						kind = filecat.Directory
					}
					name, typ := c.Args().Get(0), c.Args().Get(1)
					return s.changeFields(c, "add", control.FieldRequest{Names: []string{name}, Type: typ, For: kind}, "declared")
				},
			},
			{
				Name: "rm", Usage: "take declarations back", ArgsUsage: "NAME...",
				Description: "The values of files and directories stay.",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					return s.changeFields(c, "rm", control.FieldRequest{Names: c.Args().Slice()}, "not declared any more")
				},
			},
		},
	}
}

func (s *session) changeFields(c *cli.Context, do string, req control.FieldRequest, done string) error {
	var n control.Count
	err := call[struct{}](c.Context, s, nil, "catalogue/field/"+do, func([]control.Text) any { return req }, nil, &n)
	if err != nil {
		return err
	}
	return s.t.object(n, func() { s.t.say("%s %s", strings.Join(req.Names, ", "), done) })
}
