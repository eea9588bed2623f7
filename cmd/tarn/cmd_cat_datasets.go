package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"tarn/cmd/tarn/control"
)

func (s *session) catDatasetCommand() *cli.Command {
	return &cli.Command{
		Name: "dataset", Usage: "sets of files that are defined by a query",
		Description: `A Dynamic dataset has the files that match its query now; a Frozen one those that matched when it was
frozen, whatever becomes of metadata and names. (A dataset of Rucio is a plain list: here a directory.)`,
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "define one", ArgsUsage: "NAME [PATH] QUERY",
				Description: queryHelp + "\n\nExample:\n   tarn catalogue dataset add Prod5b_LaPalma_gamma_20deg MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0",
				Action: func(c *cli.Context) error {
					if err := want(c, 2, -1); err != nil {
						return err
					}
					root, q := s.rootAndQuery(c.Args().Tail())
					if q == "" {
						return usage([]string{"catalogue", "dataset", "add"}, "a query is missing behind %s", root)
					}
					var d control.DatasetEntry
					err := call[struct{}](c.Context, s, []string{root}, "catalogue/dataset/add", func(ps []control.Text) any {
						return control.AddDatasetRequest{Name: control.Text(c.Args().First()), Path: ps[0], Query: q}
					}, nil, &d)
					if err != nil {
						return err
					}
					return s.t.object(d.Dataset, func() { s.t.say("%s: %s, %s", control.Text(d.Name).Quote(), count(d.Files, "file"), human(d.Bytes)) })
				},
			},
			{
				Name: "ls", Usage: "list them", ArgsUsage: "[PATTERN]",
				Description: "PATTERN is of names, with * and ?. With --json an object by name.",
				Action: func(c *cli.Context) error {
					if err := want(c, 0, 1); err != nil {
						return err
					}
					return s.showDatasets(c, control.DatasetsRequest{Pattern: c.Args().First()})
				},
			},
			{
				Name: "show", Usage: "all that is known of them", ArgsUsage: "NAME...",
				Description: "Files and bytes are those of when it was added, updated or frozen.",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					return s.showDatasets(c, control.DatasetsRequest{Names: texts(c.Args().Slice())})
				},
			},
			{
				Name: "files", Usage: "their files", ArgsUsage: "NAME",
				Description: "With --json a list.",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, 1); err != nil {
						return err
					}
					return s.datasetFiles(c)
				},
			},
			{
				Name: "check", Usage: "what has changed since they were added, updated or frozen", ArgsUsage: "NAME",
				Description: `Each file that differs: added (it matches now), removed, left (it does not match any more), changed (its
content), moved (its name). Exit code 0 also when something differs.`,
				Action: func(c *cli.Context) error {
					if err := want(c, 1, 1); err != nil {
						return err
					}
					return s.checkDataset(c)
				},
			},
			s.changeDataset("update", "count a dynamic one anew", "updated"),
			s.changeDataset("freeze", "make the files that match now theirs for good", "frozen"),
			s.changeDataset("release", "make a frozen one dynamic again", "released"),
			{
				Name: "annotate", Usage: "give one a text", ArgsUsage: "NAME TEXT",
				Description: "An empty TEXT takes it away.",
				Action: func(c *cli.Context) error {
					if err := want(c, 2, 2); err != nil {
						return err
					}
					return s.askDatasets(c, []string{c.Args().First()}, control.ChangeDatasetRequest{Do: "annotate", Text: c.Args().Get(1)}, "annotated")
				},
			},
			s.changeDataset("rm", "forget them; the files stay", "forgotten"),
		},
	}
}

func (s *session) changeDataset(do, usageText, done string) *cli.Command {
	return &cli.Command{
		Name: do, Usage: usageText, ArgsUsage: "NAME...",
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			return s.askDatasets(c, c.Args().Slice(), control.ChangeDatasetRequest{Do: do}, done)
		},
	}
}

// askDatasets changes datasets, whose names are no paths even where they begin with a slash.
func (s *session) askDatasets(c *cli.Context, names []string, req control.ChangeDatasetRequest, done string) (err error) {
	client, _, err := s.connect(c.Context)
	if err != nil {
		return err
	}
	defer closeClient(client, &err)
	b := s.t.bulk(nil)
	req.Names = texts(names)
	if err := control.Call(c.Context, client, "catalogue/dataset/change", req, b.add, nil, nil); err != nil {
		return err
	}
	err = b.end("dataset")
	if err == nil {
		s.t.say("%s %s", count(b.done, "dataset"), done)
	}
	return err
}

// showDatasets lists datasets: with --json in DIRAC's form.
func (s *session) showDatasets(c *cli.Context, req control.DatasetsRequest) error {
	long := len(req.Names) > 0
	b := s.t.bulk(nil)
	b.l = s.t.list("name", "status", ">files", ">bytes", "query")
	if long {
		b.l = s.t.list("", "", "")
	}
	b.w = b.l.w
	err := call(c.Context, s, nil, "catalogue/dataset/ls", func([]control.Text) any { return req }, func(d control.DatasetEntry) error {
		r := control.LFNResult{LFN: control.Text(d.Name), Error: d.Error}
		if d.Error == nil {
			r.Value = []byte(encoded(d.Dataset))
		}
		switch {
		case s.t.json || d.Error != nil:
		case long:
			b.row = pairs
		default:
			b.row = func(control.LFNResult) [][]string {
				return [][]string{{control.Text(d.Name).Quote(), string(d.Status), fmt.Sprint(d.Files), s.t.size(d.Bytes), d.Query}}
			}
		}
		return b.add(r)
	}, nil)
	if err != nil {
		return joinEnd(err, b.l)
	}
	return b.end("dataset")
}

func (s *session) datasetFiles(c *cli.Context) error {
	l := s.t.list("", "", "")
	n := 0
	err := call(c.Context, s, nil, "catalogue/dataset/files", func([]control.Text) any {
		return control.DatasetRequest{Name: control.Text(c.Args().First())}
	}, func(r control.LFNResult) error {
		n++
		if !s.t.json {
			return l.add(nil, r.LFN.Quote())
		}
		sep := ", "
		if n == 1 {
			sep = "["
		}
		_, err := l.w.WriteString(sep + key(r.LFN))
		return err
	}, nil)
	if s.t.json && err == nil {
		if n == 0 {
			l.w.WriteString("[")
		}
		l.w.WriteString("]\n")
	}
	return joinEnd(err, l)
}

func (s *session) checkDataset(c *cli.Context) error {
	l := s.t.list("", "", "")
	var sum struct {
		Dataset struct {
			Files int64 `json:"files"`
			Bytes int64 `json:"bytes"`
		} `json:"dataset"`
		Now struct {
			Files int64 `json:"files"`
			Bytes int64 `json:"bytes"`
		} `json:"now"`
		Differences map[string]int64 `json:"differences"`
	}
	err := call(c.Context, s, nil, "catalogue/dataset/check", func([]control.Text) any {
		return control.DatasetRequest{Name: control.Text(c.Args().First())}
	}, func(d control.DatasetDifference) error { return l.add(d, d.What, d.LFN.Quote()) }, &sum)
	if err != nil {
		return joinEnd(err, l)
	}
	if s.t.json {
		return joinEnd(l.add(map[string]any{"summary": sum}), l)
	}
	if err := l.end(); err != nil {
		return err
	}
	if len(sum.Differences) == 0 {
		s.t.say("nothing has changed: %s, %s", count(sum.Now.Files, "file"), human(sum.Now.Bytes))
		return nil
	}
	s.t.say("it had %s, %s; now %s, %s", count(sum.Dataset.Files, "file"), human(sum.Dataset.Bytes), count(sum.Now.Files, "file"), human(sum.Now.Bytes))
	return nil
}

func (s *session) catAncestorsCommand() *cli.Command {
	change := func(name, usageText, done string, remove bool) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usageText, ArgsUsage: "LFN ANCESTOR...",
			Action: func(c *cli.Context) (err error) {
				if err := want(c, 2, -1); err != nil {
					return err
				}
				client, paths, err := s.connect(c.Context, c.Args().Slice()...)
				if err != nil {
					return err
				}
				defer closeClient(client, &err)
				b := s.t.bulk(nil)
				req := control.ChangeKinRequest{LFNs: texts(paths[:1]), Ancestors: texts(paths[1:]), Remove: remove}
				if err := control.Call(c.Context, client, "catalogue/ancestors/change", req, b.add, nil, nil); err != nil {
					return err
				}
				err = b.end("file")
				if err == nil {
					s.t.say("%s %s", count(int64(len(paths)-1), "ancestor"), done)
				}
				return err
			},
		}
	}
	add := change("add", "note of which files a file was made", "noted", false)
	add.Description = `A file cannot become its own ancestor. Ancestors follow renames and new contents of a file; those that
are removed later are remembered.

Example:
   tarn catalogue ancestors add /ctao/dl1/run7.h5 /ctao/dl0/run7.fits.fz /ctao/cal/cat-B.h5`
	return &cli.Command{
		Name: "ancestors", Usage: "the files that a file was made of",
		Subcommands: []*cli.Command{
			add,
			s.kinCommand("get", "ancestors of files, with their depths", false),
			change("rm", "take that back", "taken back", true),
		},
	}
}

func (s *session) catDescendantsCommand() *cli.Command {
	return s.kinCommand("descendants", "the files that were made of a file", true)
}

func (s *session) kinCommand(name, usageText string, down bool) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usageText, ArgsUsage: "LFN...",
		Description: lfnsHelp + "With --json an object of depths by LFN for each.",
		Flags:       []cli.Flag{&cli.IntFlag{Name: "depth", Aliases: []string{"D"}, Usage: "at most `N` steps away; 0 is any number", Value: 1}},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			return s.askBulk(c.Context, c.Args().Slice(), "catalogue/ancestors", func(ps []control.Text) any {
				return control.KinRequest{LFNs: ps, Descendants: down, Depth: c.Int("depth")}
			}, s.t.bulk(pairs), "file")
		},
	}
}
