package main

import (
	"errors"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/cmd/tarn/control"
)

func (s *session) fsckCommand() *cli.Command {
	return &cli.Command{
		Name: "fsck", Category: groupLake, Usage: "check a lake that is not mounted, and repair it", ArgsUsage: "[LAKE]",
		Description: `Compares the catalogue with what lies at the storages, and looks into the hot cache and the journal.
What is found is printed, one line each: problems, and notes on what is no fault (copies that
nobody knows, files that wait in the journal). --deep reads every copy on disk and every cached
block again.

With a damaged catalogue nothing else works. fsck then tells which copies lie at the storages, and
with --backup FILE which files that brings back; --repair --backup FILE restores it, keeps the
damaged one beside, and registers the copies that are newer where their path tells the name.
Without damage --repair declares copies that are lost BAD, so that rules make new ones.

Exit codes: 0 no problem, or all repaired; 6 problems are left; 13 problems are left, and with
them bytes are lost, or the catalogue is.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "repair", Usage: "repair what can be"},
			&cli.BoolFlag{Name: "deep", Usage: "compare checksums, not only sizes"},
			&cli.StringFlag{Name: "backup", Usage: "`FILE` of tarn catalogue backup, for a damaged catalogue"},
		},
		Action: func(c *cli.Context) (err error) {
			if err := want(c, 0, 1); err != nil {
				return err
			}
			if c.Args().Present() {
				s.lakeArg = c.Args().First()
			}
			file, _, err := s.pick()
			if err != nil {
				return err
			}
			cfg, err := s.load(file)
			if err != nil {
				return err
			}
			if err := notRucio(cfg, "fsck"); err != nil {
				return err
			}
			f := &fsck{s: s, cfg: cfg, repair: c.Bool("repair"), deep: c.Bool("deep"), backup: c.String("backup"), list: s.t.list()}
			defer func() { err = errors.Join(err, f.close()) }()
			if err := f.run(c.Context); err != nil {
				return errors.Join(err, f.list.end())
			}
			return f.verdict()
		},
	}
}

// finding is one thing that fsck has to tell.
type finding struct {
	Kind     string       `json:"kind"` // problem, note
	What     string       `json:"what"` // one word or two, for programs: catalogue_damaged, replica_missing ...
	RSE      string       `json:"rse,omitempty"`
	PFN      control.Text `json:"pfn,omitempty"`
	Path     control.Text `json:"path,omitempty"` // in the lake, or on this machine's disk
	Size     int64        `json:"size,omitempty"`
	Detail   string       `json:"detail,omitempty"`
	Repaired bool         `json:"repaired,omitempty"`
	Lost     bool         `json:"lost,omitempty"` // no good copy is known
}

// fsckReport is the last line with --json.
type fsckReport struct {
	Kind     string         `json:"kind"` // summary
	Files    int64          `json:"files"`
	Replicas int64          `json:"replicas"`
	Problems int            `json:"problems"`
	Repaired int            `json:"repairs"`
	Lost     int            `json:"losses"`
	Notes    int            `json:"notes"`
	Counts   map[string]int `json:"counts"`           // of each what
	Backup   *fsckBackup    `json:"backup,omitempty"` // what a backup brings
}

// fsckBackup tells how far a backup brings a lake.
type fsckBackup struct {
	Files    int64 `json:"files"`    // in it
	Whole    int64 `json:"whole"`    // of them with a copy at a storage
	Newer    int64 `json:"newer"`    // copies at the storages that it does not know
	Named    int64 `json:"named"`    // of them with a name that can be told
	Restored bool  `json:"restored"` // it is the catalogue now
}

func (f *fsck) add(x finding) error {
	f.sum.Counts[x.What]++
	switch {
	case x.Kind == "note":
		f.sum.Notes++
	case x.Repaired:
		f.sum.Repaired++
	default:
		f.sum.Problems++
		if x.Lost {
			f.sum.Lost++
		}
	}
	word := x.Kind
	if x.Repaired {
		word = "repaired"
	}
	parts := []string{word + ":", strings.ReplaceAll(x.What, "_", " ")}
	if x.Path != "" {
		parts = append(parts, x.Path.Quote())
	}
	if x.RSE != "" {
		at := "at " + x.RSE
		if x.PFN != "" {
			at += ":" + x.PFN.Quote()
		}
		parts = append(parts, at)
	}
	if x.Size > 0 {
		parts = append(parts, human(x.Size))
	}
	if x.Detail != "" {
		parts = append(parts, "("+x.Detail+")")
	}
	return f.list.add(x, strings.Join(parts, " "))
}

// verdict prints the summary and gives the exit code.
func (f *fsck) verdict() error {
	if f.s.t.json {
		if err := f.list.add(f.sum); err != nil {
			return err
		}
	}
	if err := f.list.end(); err != nil {
		return err
	}
	if b := f.sum.Backup; b != nil {
		f.s.t.say("the backup has %s, %d of them with a copy at a storage; the storages have %d newer copies, %d of them with a name that can be told", count(b.Files, "file"), b.Whole, b.Newer, b.Named)
	}
	f.s.t.say("%s, %s; %s, %d repaired, %s", count(f.sum.Files, "file"), plural(int(f.sum.Replicas), "copy", "copies"), count(int64(f.sum.Problems), "problem"), f.sum.Repaired, count(int64(f.sum.Notes), "note"))
	hint := "`tarn fsck --repair` repairs what can be"
	if f.repair {
		hint = "what is left is listed above"
	}
	if f.broken {
		hint = "`tarn fsck --repair --backup FILE` restores the catalogue from a backup"
	}
	switch {
	case f.sum.Lost > 0 || f.broken:
		return control.Fail(backends.ErrCorrupt, hint, "%s left, and bytes or the catalogue are lost", plural(f.sum.Problems, "problem is", "problems are"))
	case f.sum.Problems > 0:
		return control.Fail(control.ErrPartial, hint, "%s left", plural(f.sum.Problems, "problem is", "problems are"))
	}
	return nil
}

// tell makes findings of what storages, cache and journal log while they are opened.
func (f *fsck) tell(what, path string) *fsckLog {
	return &fsckLog{f: f, what: what, path: path}
}
