package main

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/backends/storage/xrootd"
	"tarn/cmd/tarn/control"
)

// completionFlag is what a shell adds to ask for completions.
const completionFlag = "--generate-bash-completion"

// The groups of `tarn help`.
const (
	groupLake  = "Lake"
	groupFiles = "Files"
	groupTape  = "Tape and cache"
	groupMove  = "Copies"
	groupMisc  = "Other"
)

const about = `A lake is named by its folder, its lake.yaml, or a name found in ~/.config/tarn or /etc/tarn:
with --lake, or TARN_LAKE, or by being the only one mounted. Lake paths are absolute, /ctao/dl3/run.fits. A path inside a mount
finds its lake by itself, and relative paths work there.

Flags may stand anywhere. Results go to stdout, all else to stderr. With --json every listing
is one JSON object a line, sizes in bytes, times in RFC 3339; a name that is not valid UTF-8
is {"base64": "..."}.

Exit codes: 0 done, 1 other error, 2 wrong usage, 3 directory not found, 4 file not found,
5 temporary (try again), 6 some of many failed, 7 fatal (lake file, damaged or locked lake, no
FUSE), 8 no space or quota, 9 nothing to do, 10 time limit, 11 accepted and still staging,
12 permission or policy, 13 data corrupt or lost.`

// newApp builds the commands, all of which write to t.
func newApp(t *terminal) *cli.App {
	s := &session{t: t}
	app := &cli.App{
		Name:                 "tarn",
		HelpName:             "tarn",
		Usage:                "mount a datalake, with tape behind it, as a file system",
		UsageText:            "tarn [--lake LAKE] COMMAND [flags] [arguments]",
		Description:          about,
		Reader:               t.in,
		Writer:               t.out,
		ErrWriter:            t.err,
		HideVersion:          true,
		EnableBashCompletion: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "lake", Usage: "the `LAKE`: folder, file or name (TARN_LAKE)", Destination: &s.lakeArg},
			&cli.BoolFlag{Name: "json", Usage: "results as JSON, one object a line", Destination: &t.json},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress and no remarks", Destination: &t.quiet},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "more; -vv even more", Count: &t.verbose},
			&cli.StringSliceFlag{Name: "set", Usage: "override one `KEY=VALUE` of the lake file, as cache.limit=20G"},
			&cli.BoolFlag{Name: "version", Aliases: []string{"V"}, Usage: "print the version"},
		},
		Before: func(c *cli.Context) error {
			t.verbose = max(t.verbose, 0) // the parser begins to count at -1
			for _, kv := range c.StringSlice("set") {
				if err := s.addSetting(kv); err != nil {
					return err
				}
			}
			return nil
		},
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				return printVersion(t)
			}
			return cli.ShowAppHelp(c)
		},
		// Errors are returned and reported once, in main.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return usage(nil, "%v", err) },
		// --set may hold commas.
		DisableSliceFlagSeparator: true,
	}
	app.Commands = s.commands()
	finishCommands(app.Commands)
	return app
}

// commands lists what tarn can do, in the order of its help.
func (s *session) commands() []*cli.Command {
	return []*cli.Command{
		s.initCommand(),
		s.mountCommand(),
		s.umountCommand(),
		s.statusCommand(),
		s.whoamiCommand(),
		s.configCommand(),
		s.catalogueCommand(),
		s.fsckCommand(),

		s.lsCommand(),
		s.statCommand(),
		s.findCommand(),
		s.duCommand(),
		s.catCommand(),
		s.getCommand(),
		s.putCommand(),
		s.mkdirCommand(),
		s.refreshCommand(),
		s.indexCommand(),
		s.metaCommand(),
		s.undeleteCommand(),

		s.stageCommand(),
		s.pinCommand(),
		s.unpinCommand(),
		s.evictCommand(),
		s.explainCommand(),
		s.recallsCommand(),
		s.uploadsCommand(),
		s.cacheCommand(),

		s.importCommand(),
		s.ingestCommand(),
		s.replicasCommand(),
		s.transfersCommand(),
		s.verifyCommand(),
		s.rseCommand(),
		s.ruleCommand(),

		s.demoDataCommand(),
		s.completionCommand(),
		{
			Name: "version", Category: groupMisc, Usage: "print the version",
			Action: func(*cli.Context) error { return printVersion(s.t) },
		},
	}
}

// finishCommands sets what is the same for all, and refuses arguments where a command has none.
func finishCommands(cmds []*cli.Command) {
	for _, c := range cmds {
		c.HideHelpCommand = true // or `tarn find help` would be a request for help
		c.OnUsageError = func(cc *cli.Context, err error, _ bool) error {
			return usage(words(cc.Command), "%v", err)
		}
		if len(c.Subcommands) > 0 && c.Action == nil {
			c.Action = func(cc *cli.Context) error {
				return usage(words(cc.Command), "%s needs one of: %s", cc.Command.HelpName, strings.Join(commandNames(cc.Command.Subcommands), ", "))
			}
		}
		if act := c.Action; len(c.Subcommands) == 0 && c.ArgsUsage == "" {
			c.Action = func(cc *cli.Context) error {
				if err := want(cc, 0, 0); err != nil {
					return err
				}
				return act(cc)
			}
		}
		finishCommands(c.Subcommands)
	}
}

func commandNames(cmds []*cli.Command) (out []string) {
	for _, c := range cmds {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	return out
}

// want checks the number of arguments; most -1 is no limit.
func want(c *cli.Context, least, most int) error {
	n := c.Args().Len()
	if n >= least && (most < 0 || n <= most) {
		return nil
	}
	if most == 0 {
		return usage(words(c.Command), "%s takes no arguments, not %q", c.Command.HelpName, c.Args().First())
	}
	what := fmt.Sprintf("%d to %d arguments", least, most)
	switch {
	case least == most:
		what = count(int64(least), "argument")
	case most < 0:
		what = "at least " + count(int64(least), "argument")
	}
	return usage(words(c.Command), "%s wants %s (%s), not %d", c.Command.HelpName, what, c.Command.ArgsUsage, n)
}

// version is set by the linker; else the build's own knowledge is used.
var version string

// versionString gives the version, commit and Go release of this binary.
func versionString() string {
	v, rev := version, ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = bi.Main.Version
		}
		dirty := ""
		for _, s := range bi.Settings {
			switch s.Key {
			case "vcs.revision":
				rev = s.Value
			case "vcs.modified":
				if s.Value == "true" {
					dirty = "+"
				}
			}
		}
		if len(rev) > 12 {
			rev = rev[:12]
		}
		rev += dirty
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	if rev != "" && rev != "+" && !strings.Contains(v, strings.TrimSuffix(rev, "+")) {
		v += " (" + rev + ")"
	}
	return v
}

func printVersion(t *terminal) error {
	v := struct {
		Version string `json:"version"`
		Go      string `json:"go"`
		XRootD  string `json:"xrootd,omitempty"` // the library of root:// and roots://
	}{versionString(), goVersion(), xrootd.Library()}
	return t.object(v, func() {
		fmt.Fprintf(t.out, "tarn %s, %s, %s\n", v.Version, v.Go, cmp.Or(v.XRootD, "without libXrdCl (root:// and roots://)"))
	})
}

// errPartial is the error of an operation over many of which some failed.
func errPartial(failed int64, what string) error {
	return control.Fail(control.ErrPartial, "", "%s failed; each is named above", count(failed, what))
}
