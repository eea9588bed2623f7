package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/cmd/tarn/control"
	"tarn/fs/vfs"
)

func (s *session) importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Category: groupMove, Usage: "take in a directory tree that exists already", ArgsUsage: "DIR LAKEPATH",
		Description: `Copies what is in DIR (or a single file) to one RSE, verified, and registers it below LAKEPATH, with
names, links, empty directories, modes and times. With a tape RSE the files are NEARLINE afterwards,
and their first and last bytes stay in the hot cache. --register-only moves nothing: the bytes lie
in the RSE's folder already, and stay there. Run again after an interruption it goes on where it was; a file that
the lake has with another content is an error, unless --replace makes it a new generation.

Examples:
   tarn import /data/dl3 /ctao/dl3 --rse PIC-TAPE --meta level=DL3
   tarn import /srv/rse/DISK/old /ctao/old --rse DISK --register-only`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "rse", Usage: "the `RSE` where the copies go, or are"},
			&cli.BoolFlag{Name: "register-only", Usage: "the bytes lie at the RSE already"},
			&cli.BoolFlag{Name: "replace", Usage: "a file with another content becomes a new generation"},
			&cli.StringSliceFlag{Name: "meta", Usage: "`KEY=VALUE` for every file"},
			&cli.IntFlag{Name: "jobs", Aliases: []string{"j"}, Usage: "`N` files at one time", DefaultText: "4"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 2, 2); err != nil {
				return err
			}
			if c.String("rse") == "" {
				return usage([]string{"import"}, "import wants --rse RSE; `tarn rse ls` shows which there are")
			}
			meta := backends.Meta{}
			for _, kv := range c.StringSlice("meta") {
				k, v, ok := strings.Cut(kv, "=")
				if !ok || k == "" {
					return usage([]string{"import"}, "--meta wants KEY=VALUE, not %q", kv)
				}
				meta[k] = vfs.MetaValue(v)
			}
			source, err := filepath.Abs(c.Args().First())
			if err != nil {
				return fmt.Errorf("import: %w", err)
			}
			var res control.ImportResult
			l := s.t.list()
			err = call(c.Context, s, []string{c.Args().Get(1)}, "import", func(ps []control.Text) any {
				return control.ImportRequest{
					Source: control.Text(source), Target: ps[0], RSE: c.String("rse"), RegisterOnly: c.Bool("register-only"),
					Replace: c.Bool("replace"), Meta: meta, Workers: c.Int("jobs"),
				}
			}, func(f control.Failure) error {
				if s.t.json {
					return l.add(f)
				}
				fmt.Fprintf(s.t.err, "not imported: %s: %s\n", f.Path.Quote(), f.Error.Message)
				return nil
			}, &res)
			if err := errors.Join(err, l.end()); err != nil {
				return err
			}
			err = s.t.object(res, func() {
				rate := ""
				if sec := res.Took.Seconds(); sec > 0.1 && res.Bytes > 0 {
					rate = ", " + human(int64(float64(res.Bytes)/sec)) + "/s"
				}
				s.t.say("%s in the lake, %s, in %s%s; %d were there already", count(res.Files, "file"), human(res.Bytes), span(res.Took), rate, res.Skipped)
			})
			if err == nil && res.Failed > 0 {
				return errPartial(res.Failed, "entry")
			}
			return err
		},
	}
}
