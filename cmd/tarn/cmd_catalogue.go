package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func (s *session) catalogueCommand() *cli.Command {
	return &cli.Command{
		Name: "catalogue", Category: groupLake, Usage: "the catalogue as DIRAC's users know it; back it up, and bring it back",
		Description: `The catalogue knows all names, metadata, checksums, places and rules; the bytes of files are not in it.
What has been written since a backup is found again by tarn fsck. The other commands do what the methods
of DIRAC's file catalogue do: with --json those about many names give one object
{"Successful": {LFN: VALUE}, "Failed": {LFN: REASON}}.`,
		Subcommands: append(s.fileCatalogueCommands(), []*cli.Command{
			{
				Name: "backup", Usage: "write all of it to a file", ArgsUsage: "FILE|-",
				Description: `Writes the catalogue as it is at this moment, mounted or not, while everything goes on. FILE appears
under its name when it is whole, verified and on stable storage; one that is there is replaced.

Example:
   tarn catalogue backup /backup/ctao-$(date +%F).tarncat`,
				Action: func(c *cli.Context) error {
					if err := want(c, 1, 1); err != nil {
						return err
					}
					return s.backup(c.Context, c.Args().First())
				},
			},
			{
				Name: "restore", Usage: "make a backup the catalogue", ArgsUsage: "FILE",
				Description: `FILE is verified before anything is touched. The lake must not be mounted. A catalogue that knows
files, or is damaged, is refused (exit code 1); with --force it is moved to a folder beside, not
deleted. Then tarn fsck tells what has changed since the backup.`,
				Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "move the catalogue aside that is there"}},
				Action: func(c *cli.Context) error {
					if err := want(c, 1, 1); err != nil {
						return err
					}
					return s.restore(c.Context, c.Args().First(), c.Bool("force"))
				},
			},
		}...),
	}
}

// backup streams the catalogue to a file, and verifies what it writes.
func (s *session) backup(ctx context.Context, file string) (err error) {
	c, _, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer closeClient(c, &err)
	r, err := c.Backup(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	if file == "-" {
		info, err := embedded.ReadBackup(io.TeeReader(r, s.t.out), nil)
		if err == nil {
			s.t.note("%s and %s in the catalogue", count(info.Files, "file"), human(info.Bytes))
		}
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(file), ".tarn-backup-*") // with mode 0600: all names are in it
	if err != nil {
		return errNew("back up", file, err)
	}
	info, err := embedded.ReadBackup(io.TeeReader(r, out), nil)
	if err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(out.Name(), file)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(out.Name()))
	}
	if err := syncFolder(filepath.Dir(file)); err != nil {
		return err
	}
	return s.t.object(info, func() {
		s.t.say("%s: the catalogue of lake %s with %s, %s in %s", file, info.Lake, count(info.Files, "file"), human(info.Bytes), count(info.Records, "record"))
	})
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

func (s *session) restore(ctx context.Context, file string, force bool) error {
	lakeFile, _, err := s.pick()
	if err != nil {
		return err
	}
	cfg, err := s.load(lakeFile)
	if err != nil {
		return err
	}
	if err := notRucio(cfg, "restore"); err != nil {
		return err
	}
	done, err := s.restoreTo(ctx, cfg, file, force)
	if err != nil {
		return err
	}
	return s.t.object(done, func() {
		s.t.say("the catalogue of lake %s is that of %s: %s, %s", cfg.Name, when(done.Made), count(done.Files, "file"), human(done.Bytes))
		if done.Aside != "" {
			s.t.say("what was there is in %s", done.Aside)
		}
		s.t.say("`tarn fsck` tells what has changed since")
	})
}

func (s *session) restoreTo(ctx context.Context, cfg *config.Config, file string, force bool) (done embedded.Restored, err error) {
	f, err := os.Open(file)
	if err != nil {
		return done, fmt.Errorf("restore: %w", err)
	}
	defer f.Close()
	info, err := embedded.ReadBackup(f, nil)
	if errors.Is(err, backends.ErrCorrupt) {
		return done, control.Fail(err, "take another backup; the catalogue is as it was", "%s: %v", control.Text(file).Quote(), err)
	}
	if err != nil {
		return done, fmt.Errorf("%s: %w", control.Text(file).Quote(), err)
	}
	if info.Lake != cfg.Name {
		return done, control.Fail(control.ErrUsage, "name the lake of the backup with --lake", "%s is a backup of lake %s, not of %s", control.Text(file).Quote(), info.Lake, cfg.Name)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return done, err
	}
	o := catalogueOptions(cfg, s.t.now, s.logger())
	o.Replacing = func() error { return dropIndex(cfg) }
	done, err = embedded.Restore(ctx, o, f, force)
	switch {
	case errors.Is(err, backends.ErrBusy):
		return done, control.Fail(err, "unmount the lake first: `tarn umount MOUNTPOINT`", "%v", err)
	case errors.Is(err, backends.ErrExist):
		return done, control.Fail(backends.ErrExist, "--force moves it aside and keeps it", "%v", err)
	}
	return done, err
}
