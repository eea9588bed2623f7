package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/filecat"
	"tarn/cmd/tarn/control"
)

func (s *session) catMetaCommand() *cli.Command {
	return &cli.Command{
		Name: "meta", Usage: "metadata of files and directories, also of many at once",
		Description: "What is set here, with tarn meta, or as extended attributes in a mount is the same metadata.",
		Subcommands: []*cli.Command{
			{
				Name: "get", Usage: "metadata, with that of the directories above", ArgsUsage: "LFN...",
				Description: lfnsHelp + "Nearest wins (getFileUserMetadata, getDirectoryUserMetadata).",
				Flags:       []cli.Flag{&cli.BoolFlag{Name: "own", Usage: "only what is set on the path itself"}},
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					return s.askBulk(c.Context, c.Args().Slice(), "catalogue/meta/get", func(ps []control.Text) any {
						return control.UserMetaRequest{LFNs: ps, Own: c.Bool("own")}
					}, s.t.bulk(pairs), "path")
				},
			},
			{
				Name: "set", Usage: "set metadata", ArgsUsage: "LFN... KEY=VALUE... | LFN... --metaset NAME | --from FILE",
				Description: `Values are read as by tarn meta set. --from takes a JSON object {LFN: {KEY: VALUE}}, - is stdin
(setMetadataBulk); null deletes a key.

Examples:
   tarn catalogue meta set /ctao/prod5b/gamma-diffuse particle=gamma-diffuse thetaP=20.0
   tarn catalogue meta set --from meta.json`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "from", Usage: "a JSON `FILE`"},
					&cli.StringFlag{Name: "metaset", Usage: "also what the metadata set `NAME` has"},
					&cli.StringSliceFlag{Name: "delete", Aliases: []string{"d"}, Usage: "delete `KEY`"},
					&cli.BoolFlag{Name: "text", Usage: "values are text, also those that look like numbers"},
					&cli.BoolFlag{Name: "json-value", Usage: "values are JSON"},
				},
				Action: s.catMetaSet,
			},
			{
				Name: "rm", Usage: "remove metadata", ArgsUsage: "LFN KEY... | --from FILE",
				Description: "A key that the path has not itself is an error. --from takes {LFN: [KEY...]}, - is stdin.\n\nExample:\n   tarn catalogue meta rm /ctao/prod5b/gamma-diffuse thetaP",
				Flags:       []cli.Flag{&cli.StringFlag{Name: "from", Usage: "a JSON `FILE`"}},
				Action:      s.catMetaRemove,
			},
		},
	}
}

func (s *session) catMetaSet(c *cli.Context) error {
	if from := c.String("from"); from != "" {
		if err := want(c, 0, 0); err != nil {
			return err
		}
		return s.catMetaFrom(c, from, false, func(d *json.Decoder) (backends.Meta, error) {
			var m backends.Meta
			err := d.Decode(&m)
			return m, err
		})
	}
	paths, meta, err := metaArgs(c, c.String("metaset") != "")
	if err != nil {
		return err
	}
	b := s.t.bulk(nil)
	err = s.askBulk(c.Context, paths, "catalogue/meta/set", func(ps []control.Text) any {
		req := setMetaRequest(ps, meta, false)
		req.Set = c.String("metaset")
		return req
	}, b, "path")
	if err == nil {
		s.t.say("metadata of %s set", count(b.done, "path"))
	}
	return err
}

func setMetaRequest(ps []control.Text, meta backends.Meta, del bool) control.SetUserMetaRequest {
	req := control.SetUserMetaRequest{Delete: del}
	for _, p := range ps {
		req.Entries = append(req.Entries, control.SetMetaEntry{LFN: p, Meta: meta})
	}
	return req
}

func deletions(keys []string) backends.Meta {
	m := backends.Meta{}
	for _, k := range keys {
		m[k] = nil
	}
	return m
}

func (s *session) catMetaRemove(c *cli.Context) error {
	if from := c.String("from"); from != "" {
		if err := want(c, 0, 0); err != nil {
			return err
		}
		return s.catMetaFrom(c, from, true, func(d *json.Decoder) (backends.Meta, error) {
			var keys []string
			err := d.Decode(&keys)
			return deletions(keys), err
		})
	}
	if err := want(c, 2, -1); err != nil {
		return err
	}
	return s.askBulk(c.Context, c.Args().Slice()[:1], "catalogue/meta/set", func(ps []control.Text) any {
		return setMetaRequest(ps, deletions(c.Args().Tail()), true)
	}, s.t.bulk(nil), "path")
}

// metaAtOnce is how many entries go into one request.
const metaAtOnce = 2000

// catMetaFrom reads an object of paths, entry by entry, and sets what it says.
func (s *session) catMetaFrom(c *cli.Context, file string, del bool, value func(*json.Decoder) (backends.Meta, error)) (err error) {
	in := s.t.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("read metadata: %w", err)
		}
		defer f.Close()
		in = f
	}
	client, _, err := s.connect(c.Context)
	if err != nil {
		return err
	}
	defer closeClient(client, &err)
	b := s.t.bulk(nil)
	var some []control.SetMetaEntry
	flush := func() error {
		req := control.SetUserMetaRequest{Entries: some, Delete: del}
		some = nil
		return control.Call(c.Context, client, "catalogue/meta/set", req, b.add, nil, nil)
	}
	if err := entriesOf(in, value, func(lfn string, m backends.Meta) error {
		if some = append(some, control.SetMetaEntry{LFN: control.Text(lfn), Meta: m}); len(some) < metaAtOnce {
			return nil
		}
		return flush()
	}); err != nil {
		return err
	}
	if len(some) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	err = b.end("path")
	if err == nil {
		s.t.say("metadata of %s set", count(b.done, "path"))
	}
	return err
}

// entriesOf reads a JSON object member by member.
func entriesOf(r io.Reader, value func(*json.Decoder) (backends.Meta, error), f func(lfn string, m backends.Meta) error) error {
	wrong := func(err error) error {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return control.Fail(control.ErrUsage, `want {"/ctao/run1.fits": {"runNumber": 1}}, or for rm {"/ctao/run1.fits": ["runNumber"]}`, "the metadata are not of the right form: %v", err)
	}
	d := json.NewDecoder(r)
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Token(json.Delim('{')) {
		return wrong(errors.Join(err, errors.New("it begins with no {")))
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return wrong(err)
		}
		lfn, ok := t.(string)
		if !ok {
			return wrong(fmt.Errorf("%v is no path", t))
		}
		m, err := value(d)
		if err != nil {
			return wrong(fmt.Errorf("%s: %w", lfn, err))
		}
		if err := f(lfn, m); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return wrong(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return wrong(errors.New("more behind its end"))
	}
	return nil
}

func (s *session) catMetaSetsCommand() *cli.Command {
	list := func(c *cli.Context) error {
		l := s.t.list("", "", "")
		err := call(c.Context, s, nil, "catalogue/metaset/ls", func([]control.Text) any { return control.MetaSetsRequest{Names: c.Args().Slice()} }, func(x filecat.MetaSet) error {
			if s.t.json {
				return l.add(x)
			}
			for _, row := range pairs(control.LFNResult{LFN: control.Text(x.Name), Value: []byte(encoded(x.Meta))}) {
				if err := l.add(nil, row...); err != nil {
					return err
				}
			}
			return nil
		}, nil)
		return joinEnd(err, l)
	}
	change := func(c *cli.Context, do string, req control.MetaSetsRequest, done string) error {
		var n control.Count
		err := call[struct{}](c.Context, s, nil, "catalogue/metaset/"+do, func([]control.Text) any { return req }, nil, &n)
		if err != nil {
			return err
		}
		return s.t.object(n, func() { s.t.say("%s %s", count(n.Done, "metadata set"), done) })
	}
	return &cli.Command{
		Name: "metaset", Usage: "metadata under a name, to be set together",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list them, with what they have", ArgsUsage: "[NAME...]", Action: list},
			{
				Name: "add", Usage: "note one, or replace it", ArgsUsage: "NAME KEY=VALUE...",
				Description: "Example:\n   tarn catalogue metaset add prod5b-20 MCCampaign=PROD5b thetaP=20.0\n   tarn catalogue meta set /ctao/prod5b/gamma --metaset prod5b-20",
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "delete", Hidden: true},
					&cli.BoolFlag{Name: "text", Usage: "values are text, also those that look like numbers"},
					&cli.BoolFlag{Name: "json-value", Usage: "values are JSON"},
				},
				Action: func(c *cli.Context) error {
					names, meta, err := metaArgs(c, false)
					if err != nil {
						return err
					}
					return change(c, "add", control.MetaSetsRequest{Names: names, Meta: meta}, "noted")
				},
			},
			{
				Name: "rm", Usage: "forget them; metadata that were set stay", ArgsUsage: "NAME...",
				Action: func(c *cli.Context) error {
					if err := want(c, 1, -1); err != nil {
						return err
					}
					return change(c, "rm", control.MetaSetsRequest{Names: c.Args().Slice()}, "forgotten")
				},
			},
		},
	}
}
