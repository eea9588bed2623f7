package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	"tarn/cmd/tarn/demodata"
)

func (s *session) demoDataCommand() *cli.Command {
	return &cli.Command{
		Name: "demo-data", Hidden: true, Usage: "make FITS files of event lists", ArgsUsage: "DIR",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "files", Value: 10, Usage: "how many"},
			&cli.StringFlag{Name: "size", Value: "4MiB", Usage: "of each, at most"},
			&cli.Int64Flag{Name: "first", Value: 5029747, Usage: "number of the first observation"},
			&cli.Uint64Flag{Name: "seed", Usage: "another one makes other events"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			size, err := config.ParseSize(c.String("size"))
			if err != nil {
				return usage([]string{"demo-data"}, "--size: %v", err)
			}
			began := s.t.now()
			m := s.t.meter()
			files, err := demodata.Write(c.Context, c.Args().First(), demodata.Options{
				Files: c.Int("files"), Size: int64(size), First: c.Int64("first"), Seed: c.Uint64("seed"),
			}, func(n int, bytes int64) {
				m.show(control.Progress{What: "made", Files: int64(n), TotalFiles: int64(c.Int("files")), Bytes: bytes})
			})
			m.end()
			if err != nil {
				return err
			}
			total := int64(0)
			l := s.t.list()
			for _, f := range files {
				total += f.Size
				if s.t.json {
					err = errors.Join(err, l.add(struct {
						Path  control.Text `json:"path"`
						Size  int64        `json:"size"`
						ObsID int64        `json:"obs_id"`
					}{control.Text(f.Path), f.Size, f.Obs.ID}))
				}
			}
			s.t.say("%s, %s, in %s", count(int64(len(files)), "FITS file"), human(total), span(s.t.now().Sub(began)))
			return errors.Join(err, l.end())
		},
	}
}

func (s *session) configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Category: groupLake, Usage: "check or show the lake file",
		Description: `A lake is described by one file, lake.yaml; what stands in lake.local.yaml beside it overrides it,
TARN_<SECTION>_<KEY> in the environment overrides both, and --set KEY=VALUE all.`,
		Subcommands: []*cli.Command{
			{
				Name: "check", Usage: "report every fault of a lake file", ArgsUsage: "[LAKE]",
				Description: "Hosts of URLs that do not exist are faults, too; mount only warns of them, and refuses the others. A name\nserver that does not answer is no fault of the file.",
				Action: func(c *cli.Context) error {
					if file, err := s.configGrid(c); err != nil {
						return err
					} else if file != "" {
						return s.checkGrid(c.Context, file)
					}
					cfg, err := s.configArg(c, s.loadResolved)
					if err != nil {
						return err
					}
					s.t.say("%s: lake %s, %s, %s, no fault", cfg.File(), cfg.Name, count(int64(len(cfg.RSEs)), "RSE"), count(int64(len(cfg.Scopes)), "scope"))
					return nil
				},
			},
			{
				Name: "show", Usage: "print all settings as they are in force", ArgsUsage: "[LAKE]",
				Action: func(c *cli.Context) error {
					if file, err := s.configGrid(c); err != nil {
						return err
					} else if file != "" {
						return s.showGrid(file)
					}
					cfg, err := s.configArg(c, func(_ context.Context, file string) (*config.Config, error) { return s.load(file) })
					if err != nil {
						return err
					}
					enc := yaml.NewEncoder(s.t.out)
					enc.SetIndent(2)
					return errors.Join(enc.Encode(cfg), enc.Close())
				},
			},
			{
				Name: "keys", Usage: "list every key with its default",
				Action: func(c *cli.Context) error {
					l := s.t.list("key", "default")
					for _, k := range config.Keys() {
						if err := l.add(k, k.Name, k.Default); err != nil {
							return err
						}
					}
					return l.end()
				},
			},
		},
	}
}

// configGrid gives the file that lists several lakes, "" where the command is about one.
func (s *session) configGrid(c *cli.Context) (string, error) {
	if err := want(c, 0, 1); err != nil {
		return "", err
	}
	arg := c.Args().First()
	for _, a := range []string{s.lakeArg, os.Getenv("TARN_LAKE")} {
		if arg == "" {
			arg = a
		}
	}
	if arg == "" {
		return "", nil
	}
	file, err := config.Find(arg, config.Folders(os.Getenv))
	if err != nil {
		return "", err
	}
	if several, err := config.ListsLakes(file); err != nil || !several {
		return "", err
	}
	return file, nil
}

func (s *session) configArg(c *cli.Context, load func(context.Context, string) (*config.Config, error)) (*config.Config, error) {
	if err := want(c, 0, 1); err != nil {
		return nil, err
	}
	if c.Args().Present() {
		s.lakeArg = c.Args().First()
	}
	file, _, err := s.pick()
	if err != nil {
		return nil, err
	}
	return load(c.Context, file)
}

func (s *session) completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Category: groupMisc, Usage: "print a script that completes commands in a shell", ArgsUsage: "bash|zsh|fish",
		Description: "Examples:\n   source <(tarn completion bash)\n   tarn completion fish > ~/.config/fish/completions/tarn.fish",
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			switch shell := c.Args().First(); shell {
			case "bash", "zsh":
				_, err := fmt.Fprint(s.t.out, strings.ReplaceAll(completionScripts[shell], "FLAG", completionFlag))
				return err
			case "fish":
				script, err := c.App.ToFishCompletion()
				if err == nil {
					_, err = fmt.Fprintln(s.t.out, script)
				}
				return err
			default:
				return usage([]string{"completion"}, "no completion for %q: bash, zsh and fish there are", shell)
			}
		},
	}
}

var completionScripts = map[string]string{
	"bash": `_tarn() {
	local cur=${COMP_WORDS[COMP_CWORD]} opts
	if [[ $cur == -* ]]; then
		opts=$("${COMP_WORDS[@]:0:COMP_CWORD}" "$cur" FLAG 2>/dev/null)
	else
		opts=$("${COMP_WORDS[@]:0:COMP_CWORD}" FLAG 2>/dev/null)
	fi
	COMPREPLY=($(compgen -W "$opts" -- "$cur"))
	[[ ${#COMPREPLY[@]} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$cur"))
}
complete -o filenames -F _tarn tarn
`,
	"zsh": `#compdef tarn
_tarn() {
	local -a opts
	if [[ ${words[-1]} == -* ]]; then
		opts=("${(@f)$(${words[@]:0:#words[@]-1} ${words[-1]} FLAG 2>/dev/null)}")
	else
		opts=("${(@f)$(${words[@]:0:#words[@]-1} FLAG 2>/dev/null)}")
	fi
	if [[ -n ${opts[1]} ]]; then _describe 'values' opts; else _files; fi
}
compdef _tarn tarn
`,
}

// since is how long ago t was, for people.
func (t *terminal) since(x time.Time) string {
	if x.IsZero() {
		return "-"
	}
	return span(t.now().Sub(x))
}
