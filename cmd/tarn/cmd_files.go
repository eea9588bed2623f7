package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync/atomic"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func (s *session) catCommand() *cli.Command {
	return &cli.Command{
		Name: "cat", Category: groupFiles, Usage: "write files to stdout", ArgsUsage: "PATH...",
		Description: "A file on tape is recalled. What is written is verified; when it is not, the exit code is 13.\n\nExample:\n   tarn cat --head 2880 /ctao/dl3/crab/run.fits",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "offset", Usage: "begin at byte `N` (0, 4K)"},
			&cli.StringFlag{Name: "head", Usage: "at most `N` bytes of each"},
		},
		Action: func(c *cli.Context) (err error) {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			off, length := int64(0), int64(-1)
			for flag, v := range map[string]*int64{"offset": &off, "head": &length} {
				if w := c.String(flag); w != "" {
					n, err := config.ParseSize(w)
					if err != nil {
						return usage([]string{"cat"}, "--%s: %v", flag, err)
					}
					*v = int64(n)
				}
			}
			client, paths, err := s.connect(c.Context, c.Args().Slice()...)
			if err != nil {
				return err
			}
			defer closeClient(client, &err)
			for _, p := range paths {
				r, err := client.Get(c.Context, p, off, length)
				if err != nil {
					return err
				}
				_, err = io.Copy(s.t.out, r)
				if err := errors.Join(err, r.Close()); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (s *session) getCommand() *cli.Command {
	return &cli.Command{
		Name: "get", Category: groupFiles, Usage: "copy files out of the lake", ArgsUsage: "PATH... [DEST]",
		Description: `Copies files to DEST, a file or a directory (default: here), with their times and modes. With -r
also directories. All that is on tape is staged with one bulk request before. A file appears under
its name when it is whole and verified; one that is there with the same size and time is left alone.

Examples:
   tarn get /ctao/dl3/crab/run.fits
   tarn get -r /ctao/dl3/crab /scratch/crab`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, Usage: "directories, too"},
			&cli.BoolFlag{Name: "replace", Usage: "overwrite files that are different"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			from, dest := c.Args().Slice(), "."
			if len(from) > 1 {
				from, dest = from[:len(from)-1], from[len(from)-1]
			}
			return s.get(c.Context, from, dest, c.Bool("recursive"), c.Bool("replace"))
		},
	}
}

// getter copies out of one lake.
type getter struct {
	s       *session
	c       *control.Client
	m       *meter
	replace bool

	n     control.Count
	total control.Progress
}

func (s *session) get(ctx context.Context, from []string, dest string, recursive, replace bool) (err error) {
	client, paths, err := s.connect(ctx, from...)
	if err != nil {
		return err
	}
	defer closeClient(client, &err)
	g := &getter{s: s, c: client, m: s.t.meter(), replace: replace}
	defer g.m.end()
	st, statErr := os.Stat(dest)
	into := statErr == nil && st.IsDir()
	if !into && len(paths) > 1 {
		return control.Fail(control.ErrNoDirectory, "", "%s is not a directory, and several files go there", control.Text(dest).Quote())
	}
	if err := g.stage(ctx, paths, recursive); err != nil {
		return err
	}
	for _, p := range paths {
		var e control.Entry
		err := control.Call(ctx, client, "ls", control.ListRequest{Path: control.Text(p), Self: true}, func(x control.Entry) error { e = x; return nil }, nil, nil)
		if err != nil {
			return err
		}
		target := dest
		if into {
			target = filepath.Join(dest, path.Base(string(e.Path)))
		}
		if e.IsDir() {
			if !recursive {
				return control.Fail(backends.ErrIsDir, "with -r directories are copied", "%s is a directory", e.Path.Quote())
			}
			err = g.tree(ctx, e, target)
		} else {
			err = g.one(ctx, e, target)
		}
		if err != nil {
			return err
		}
	}
	g.m.end()
	if err := s.t.object(g.n, func() {
		s.t.say("%s copied, %s, in %s; %d were there already", count(g.n.Done, "file"), human(g.n.Bytes), span(s.t.now().Sub(g.m.started)), g.n.Skipped)
	}); err != nil {
		return err
	}
	if g.n.Failed > 0 {
		return errPartial(g.n.Failed, "file")
	}
	return nil
}

// stage brings what is on tape online at once, where more than one file is wanted.
func (g *getter) stage(ctx context.Context, paths []string, recursive bool) error {
	if !recursive && len(paths) == 1 {
		return nil
	}
	var r control.StageReply
	return control.Call[struct{}](ctx, g.c, "stage", control.StageRequest{Paths: texts(paths), Wait: true}, nil, g.m.show, &r)
}

func (g *getter) tree(ctx context.Context, root control.Entry, dest string) error {
	var dirs []control.Entry // their times are set when all is in them
	place := func(e control.Entry) (string, error) {
		rel, err := filepath.Rel(string(root.Path), string(e.Path))
		if err != nil || !filepath.IsLocal(rel) {
			return "", fmt.Errorf("copy %s: it is not below %s: %w", e.Path.Quote(), root.Path.Quote(), backends.ErrName)
		}
		return filepath.Join(dest, rel), nil
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	err := control.Call(ctx, g.c, "ls", control.ListRequest{Path: root.Path, Recursive: true}, func(e control.Entry) error {
		to, err := place(e)
		if err != nil {
			return err
		}
		if e.IsDir() {
			dirs = append(dirs, e)
			if err := os.MkdirAll(to, 0o700); err != nil {
				return fmt.Errorf("copy: %w", err)
			}
			return nil
		}
		err = g.one(ctx, e, to)
		if err != nil && ctx.Err() == nil {
			g.n.Failed++
			fmt.Fprintf(g.s.t.err, "not copied: %s: %v\n", e.Path.Quote(), err)
			return nil
		}
		return err
	}, nil, nil)
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		to, err := place(dirs[i])
		if err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(to, os.FileMode(dirs[i].Mode&0o777)), os.Chtimes(to, dirs[i].MTime, dirs[i].MTime)); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
	}
	return nil
}

// errNew tells why file of this machine could not be begun. What was tried has another name, which tells the user nothing.
func errNew(doing, file string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		dir := filepath.Dir(file)
		return control.Fail(control.ErrNoDirectory, "make it first: `mkdir -p "+shellWord(dir)+"`", "%s: there is no folder %s", doing, control.Text(dir).Quote())
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("%s: make %s: %w", doing, control.Text(file).Quote(), err)
}

// one copies a file or a link; it appears when it is whole.
func (g *getter) one(ctx context.Context, e control.Entry, to string) error {
	if st, err := os.Lstat(to); err == nil {
		same := st.Mode().IsRegular() && st.Size() == e.Size && st.ModTime().Equal(e.MTime)
		if same {
			g.n.Skipped++
			return nil
		}
		if !g.replace {
			return control.Fail(backends.ErrExist, "--replace overwrites it", "%s exists and is different", control.Text(to).Quote())
		}
	}
	dir, name := filepath.Split(to)
	tmp := filepath.Join(dir, "."+name[:min(len(name), 200)]+".tarn-"+rand.Text()[:8])
	defer os.Remove(tmp) // is gone by then when all went well
	if e.Type == "symlink" {
		if err := os.Symlink(string(e.Target), tmp); err != nil {
			return errNew("copy", to, err)
		}
		g.n.Done++
		return os.Rename(tmp, to)
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errNew("copy", to, err)
	}
	defer f.Close()
	r, err := g.c.Get(ctx, string(e.Path), 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	g.total.What = "copied"
	n, err := io.Copy(f, &counting{r: r, seen: func(n int) {
		g.total.Bytes += int64(n)
		g.m.show(g.total)
	}})
	if err != nil {
		return err
	}
	if n != e.Size && e.State == "" {
		return fmt.Errorf("%s has %d bytes, %d came: %w", e.Path.Quote(), e.Size, n, backends.ErrStale)
	}
	err = errors.Join(f.Chmod(os.FileMode(e.Mode&0o777)), f.Close(), os.Chtimes(tmp, e.MTime, e.MTime))
	if err == nil {
		err = os.Rename(tmp, to)
	}
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	g.n.Done++
	g.n.Bytes += n
	g.total.Files++
	return nil
}

// counting tells how much was read through it.
type counting struct {
	r    io.Reader
	seen func(n int)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.seen(n)
	return n, err
}

func (s *session) putCommand() *cli.Command {
	return &cli.Command{
		Name: "put", Category: groupFiles, Usage: "store files in the lake", ArgsUsage: "FILE... LAKEPATH",
		Description: `Stores each FILE (- is stdin) at LAKEPATH, or in it when that is a directory. When the command
returns, the file is durable on the local disk and in the journal; with --wait, all copies that the
rules want are verified. Without a daemon it always waits.

Examples:
   tarn put run.fits /ctao/dl3/crab/
   tar c results | tarn put - /user.ada/results.tar --wait`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "wait", Aliases: []string{"w"}, Usage: "until all copies are verified"},
			&cli.BoolFlag{Name: "replace", Usage: "a file that exists becomes a new generation"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 2, -1); err != nil {
				return err
			}
			files := c.Args().Slice()
			dest := files[len(files)-1]
			return s.put(c.Context, files[:len(files)-1], dest, c.Bool("replace"), c.Bool("wait"))
		},
	}
}

func (s *session) put(ctx context.Context, files []string, dest string, replace, wait bool) (err error) {
	client, paths, err := s.connect(ctx, dest)
	if err != nil {
		return err
	}
	defer closeClient(client, &err)
	m := s.t.meter()
	defer m.end()
	to := paths[0]
	if len(files) > 1 && to[len(to)-1] != '/' {
		to += "/" // has to be a directory
	}
	var sent atomic.Int64 // the body is read on a goroutine of the HTTP client
	l := s.t.list()
	for i, f := range files {
		r, err := s.putOne(ctx, client, f, to, replace, func(n int) {
			m.show(control.Progress{What: "stored", Files: int64(i), TotalFiles: int64(len(files)), Bytes: sent.Add(int64(n))})
		})
		if err != nil {
			return err
		}
		if s.t.json {
			if err := l.add(r); err != nil {
				return err
			}
		}
	}
	if err := l.end(); err != nil {
		return err
	}
	took := s.t.now().Sub(m.started)
	if wait || !client.Remote() {
		var left control.DrainReply
		if err := control.Call[struct{}](ctx, client, "drain", struct{}{}, nil, m.show, &left); err != nil {
			return err
		}
		m.end()
		if left.Files > 0 {
			return control.Fail(control.ErrPartial, "`tarn uploads ls` tells why", "%s not safe elsewhere yet", plural(left.Files, "file is", "files are"))
		}
		s.t.say("%s stored, %s; all copies are verified, after %s", count(int64(len(files)), "file"), human(sent.Load()), span(s.t.now().Sub(m.started)))
		return nil
	}
	m.end()
	s.t.say("%s stored, %s, in %s; `tarn uploads ls` shows the way to the storages", count(int64(len(files)), "file"), human(sent.Load()), span(took))
	return nil
}

func (s *session) putOne(ctx context.Context, c *control.Client, file, to string, replace bool, seen func(int)) (control.PutReply, error) {
	req := control.PutRequest{Path: control.Text(to), Name: control.Text(filepath.Base(file)), Size: -1, Mode: 0o644, Replace: replace}
	in := s.t.in
	if file == "-" {
		req.Name = "stdin"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return control.PutReply{}, fmt.Errorf("put: %w", err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return control.PutReply{}, fmt.Errorf("put: %w", err)
		}
		if st.IsDir() {
			return control.PutReply{}, control.Fail(backends.ErrIsDir, "`tarn import` takes in directories", "%s is a directory", control.Text(file).Quote())
		}
		if st.Mode().IsRegular() {
			req.Size, req.Mode, req.MTime = st.Size(), uint32(st.Mode().Perm()), st.ModTime()
		}
		in = f
	}
	return c.Put(ctx, req, &counting{r: in, seen: seen})
}
