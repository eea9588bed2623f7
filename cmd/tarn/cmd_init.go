package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	"tarn/fs/vfs"
)

func (s *session) initCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Category: groupLake, Usage: "make a lake", ArgsUsage: "DIR",
		Description: `Makes DIR/lake.yaml, with a comment for each setting, and what it names: catalogue, hot cache, journal
and storages, all below DIR. --demo makes the lake of the demonstration, with three disk storages and
an emulated tape library that runs 1000 times as fast as a real one.

Where DIR is a lake already, what its lake.yaml names is made as far as it is missing, and nothing
else is touched. So a lake.yaml written by hand becomes a lake, too.

--rucio URL makes the lake of a Rucio server. How to log in is taken from the rucio.cfg that Rucio's own
clients would use, and no secret is written; --account names the account, --write the RSEs that new files go to.

Examples:
   tarn init ~/lake
   tarn init --demo /tmp/lake
   tarn init --rucio https://rucio.example.org --write MY-SITE_SCRATCHDISK ~/escape`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "demo", Usage: "the lake of the demonstration"},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the lake (default: that of DIR)"},
			&cli.StringFlag{Name: "rucio", Usage: "the lake of the Rucio server at `URL`"},
			&cli.StringFlag{Name: "account", Usage: "with --rucio: the `ACCOUNT` there"},
			&cli.StringFlag{Name: "write", Usage: "with --rucio: an RSE `EXPRESSION` for new files"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			if url := c.String("rucio"); url != "" {
				if c.Bool("demo") {
					return usage([]string{"init"}, "--demo and --rucio make different lakes")
				}
				return s.initRucio(c.Context, c.Args().First(), c.String("name"), url, c.String("account"), c.String("write"))
			}
			if c.IsSet("account") || c.IsSet("write") {
				return usage([]string{"init"}, "--account and --write go with --rucio")
			}
			return s.initLake(c.Context, c.Args().First(), c.String("name"), c.Bool("demo"))
		},
	}
}

// initLake makes the lake and tells what it made.
func (s *session) initLake(ctx context.Context, dir, name string, demo bool) error {
	if filepath.Base(dir) == "lake.yaml" {
		dir = filepath.Dir(dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("make a lake: %w", err)
	}
	file := filepath.Join(dir, "lake.yaml")
	fresh, err := s.writeLakeFile(dir, file, name, demo)
	if err != nil {
		return err
	}
	cfg, err := config.Load(file, s.settings...)
	if err != nil {
		return err
	}
	if !fresh {
		if _, _, err := control.Dial(ctx, cfg.Run); err == nil || complete(cfg) {
			s.t.say("%s is a lake already; nothing was changed", dir)
			return nil
		}
	}
	if err := makeFolder(cfg.Run); err != nil {
		return err
	}
	if _, err := os.Stat(cfg.Catalogue.Path); errors.Is(err, os.ErrNotExist) { // what is left of an index is another catalogue's
		if err := dropIndex(cfg); err != nil {
			return err
		}
	}
	// A lake that can be opened once has its folders, its scopes and its locks in order.
	o, err := openLake(cfg, openOptions{Create: true, Log: s.logger(), Now: s.t.now})
	if err == nil {
		if demo {
			err = o.makeDirs(ctx, "/ctao/dl0", "/ctao/dl1", "/ctao/dl3")
		}
		err = errors.Join(err, o.Close())
	}
	if err != nil {
		return fmt.Errorf("make the lake %s: %w", dir, err)
	}
	verb := "made"
	if !fresh {
		verb = "completed"
	}
	s.t.say("lake %s %s in %s", cfg.Name, verb, dir)
	for _, r := range cfg.RSEs {
		s.t.say("   %-4s storage %s", r.Kind, r.Name)
	}
	for _, sc := range cfg.Scopes {
		s.t.say("   scope /%s", sc.Name)
	}
	s.t.say("mount it:  tarn mount %s MOUNTPOINT", shellWord(dir))
	return nil
}

// makeDirs makes directories of the lake, those that are there included.
func (o *opened) makeDirs(ctx context.Context, paths ...string) error {
	for _, p := range paths {
		dir, err := o.fs.Resolve(ctx, filepath.Dir(p))
		if err != nil {
			return err
		}
		n, err := o.fs.Mkdir(ctx, dir, filepath.Base(p), 0o755, vfs.Caller{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())})
		dir.Forget(1)
		if err != nil && !errors.Is(err, backends.ErrExist) {
			return err
		}
		if n != nil {
			n.Forget(1)
		}
	}
	return nil
}

// complete tells whether all folders that the lake file names are there.
func complete(cfg *config.Config) bool {
	dirs := []string{cfg.Cache.Path, cfg.Journal.Path}
	if cfg.IsRucio() {
		return allThere(dirs)
	}
	dirs = append(dirs, cfg.Catalogue.Path)
	for _, r := range cfg.RSEs {
		if r.Path != "" {
			dirs = append(dirs, r.Path)
		}
	}
	names, err := os.ReadDir(cfg.Catalogue.Path)
	return allThere(dirs) && err == nil && len(names) > 0
}

func allThere(dirs []string) bool {
	for _, d := range dirs {
		if _, err := os.Stat(d); err != nil {
			return false
		}
	}
	return true
}

// writeLakeFile writes the file into an empty folder; fresh is false where it is there.
func (s *session) writeLakeFile(dir, file, name string, demo bool) (fresh bool, err error) {
	if name == "" {
		name = lakeName(filepath.Base(dir))
	}
	mark := ""
	if demo {
		mark = demoMark
	}
	return s.writeNewFile(dir, file, newLakeFile(name, userScope(), demo), mark)
}

// writeNewFile is writeLakeFile of a text; one that is there has to begin with mark.
func (s *session) writeNewFile(dir, file, text, mark string) (fresh bool, err error) {
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		return false, fmt.Errorf("make a lake: %s is a file: %w", dir, backends.ErrNotDir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("make a lake: %w", err)
	}
	if b, err := os.ReadFile(file); err == nil {
		if !strings.HasPrefix(string(b), mark) {
			return false, control.Fail(backends.ErrExist, "name another folder", "%s is a lake already, and not that of the demonstration", dir)
		}
		return false, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("make a lake: %w", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("make a lake: %w", err)
	}
	for _, n := range names {
		if n.Name() != "lost+found" { // of a file system made for the lake
			return false, control.Fail(backends.ErrNotEmpty, "name a folder that is empty or not there yet", "make a lake: %s is not empty: there is %s", dir, control.Text(n.Name()).Quote())
		}
	}
	if _, err := config.Parse(file, []byte(text)); err != nil {
		return false, err // --name
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return false, fmt.Errorf("make a lake: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return false, fmt.Errorf("make a lake: %w", errors.Join(err, os.Remove(tmp)))
	}
	return true, nil
}

// lakeName makes a valid name of a folder's.
func lakeName(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || b.Len() > 0 && strings.IndexByte("._-", c) >= 0
		if ok && b.Len() < 63 {
			b.WriteByte(c)
		}
	}
	if b.Len() == 0 {
		return "lake"
	}
	return b.String()
}

// userScope is user.NAME of who runs this, or user.UID where the name cannot be a scope.
func userScope() string {
	name := os.Getenv("USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	if scope := "user." + name; name != "" && backends.CheckScope(scope) == nil {
		return scope
	}
	return fmt.Sprintf("user.%d", os.Getuid())
}

// shellWord quotes s for a shell where that is needed.
func shellWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+,:@%", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
