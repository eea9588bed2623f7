package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/ingest"
	ingestreport "tarn/backends/ingest/report"
	"tarn/cmd/tarn/control"
)

func (s *session) ingestReportCommand() *cli.Command {
	return &cli.Command{
		Name: "report", Usage: "write one page that shows what an ingest did", ArgsUsage: "NAME",
		Description: "One file of HTML that needs nothing else: throughput over time, files per stage over time, how long files took, failures.\n\nExample:\n   tarn ingest report lapalma -o lapalma.html",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "the `FILE`", Value: "report.html"}},
		Action: func(c *cli.Context) (err error) {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			client, _, err := s.connect(c.Context)
			if err != nil {
				return err
			}
			defer closeClient(client, &err)
			return s.writeReport(c.Context, client, c.String("output"), c.Args().First())
		},
	}
}

// writeReport writes the page of some ingests. It is there whole or not at all.
func (s *session) writeReport(ctx context.Context, client *control.Client, file string, names ...string) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	r := ingestreport.Report{Title: "Ingest", Time: s.t.now(), Facts: []ingestreport.Fact{
		{Name: "machine", Value: fmt.Sprintf("%s, %d × %s", host, runtime.NumCPU(), runtime.GOARCH)}, {Name: "tarn", Value: versionString() + ", " + goVersion()}}}
	for _, name := range names {
		var got control.IngestReport
		if err := control.Call[struct{}](ctx, client, "ingest/report", control.IngestRequest{Name: name}, nil, nil, &got); err != nil {
			return err
		}
		test, err := ingestreport.Of(got.Status, got.Samples, func() iter.Seq2[ingest.Record, error] { return recordsOf(ctx, client, name) })
		if err != nil {
			return err
		}
		r.Tests = append(r.Tests, test)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".tarn-report-*")
	if err != nil {
		return errNew("write the report", file, err)
	}
	defer os.Remove(tmp.Name())
	err = errors.Join(ingestreport.Write(tmp, r), tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	s.t.say("the report is %s", file)
	return nil
}

// recordsOf streams the records of an ingest.
func recordsOf(ctx context.Context, client *control.Client, name string) iter.Seq2[ingest.Record, error] {
	return func(yield func(ingest.Record, error) bool) {
		ended := errors.New("ended")
		err := control.Call(ctx, client, "ingest/files", control.IngestFilesRequest{Name: name}, func(f control.IngestFile) error {
			r := f.Record
			r.Path = string(f.Path)
			if !yield(r, nil) {
				return ended
			}
			return nil
		}, nil, nil)
		if err != nil && !errors.Is(err, ended) {
			yield(ingest.Record{}, err)
		}
	}
}

func (s *session) ingestRunCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "work on the ingests without a mount, or take in a folder once", ArgsUsage: "[NAME... | DIR LAKEPATH]",
		Description: `It works on the ingests of these names, or on all that are not paused, until it is interrupted, on a machine where the
lake is not mounted. With --once DIR LAKEPATH it makes a single pass over a folder: it ends when all files that were complete are safe, and deleted
if that is asked for. A pass that was interrupted is carried on by the next one. Where the lake is mounted the daemon makes the pass.
Exit code 6 when files are stuck.

` + ruleHelp + `

Examples:
   tarn ingest run
   tarn ingest run lapalma
   tarn ingest run --once /data/night /ctao/dl0/night --rule 'copies=2 rse=rse_type=DISK' --report night.html`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "once", Usage: "a single pass over DIR"},
			&cli.StringFlag{Name: "name", Usage: "with --once: the `NAME` of its ledger (default: made of DIR and LAKEPATH)"},
			&cli.StringFlag{Name: "report", Usage: "write a page to `FILE` at the end"},
		}, ingestFlags()...),
		Action: func(c *cli.Context) error {
			if c.Bool("once") {
				if err := want(c, 2, 2); err != nil {
					return err
				}
				return s.ingestOnce(c)
			}
			for _, f := range []string{"rule", "pattern", "delete-source", "name"} {
				if c.IsSet(f) {
					return usage([]string{"ingest", "run"}, "--%s goes with --once; `tarn ingest add` defines what runs without it", f)
				}
			}
			return s.ingestRun(c.Context, c.String("report"), c.Args().Slice())
		},
	}
}

// ingestLake opens the lake with everything that an ingest needs, in this process.
func (s *session) ingestLake() (*opened, *control.Client, error) {
	file, _, err := s.pick()
	if err != nil {
		return nil, nil, err
	}
	cfg, err := s.load(file)
	if err != nil {
		return nil, nil, err
	}
	raiseFiles()
	limitMemory(int64(cfg.Memory))
	o, err := openLake(cfg, openOptions{Replicate: true, Log: s.logger(), Now: s.t.now})
	if err != nil {
		return nil, nil, err
	}
	svc := o.service()
	client := control.InProcess(svc)
	client.OnClose(func() error { return errors.Join(svc.Close(), o.Close()) })
	return o, client, nil
}

// ingestRun works on the ingests of these names, or on all, until ctx ends, which is no error.
func (s *session) ingestRun(ctx context.Context, page string, names []string) (err error) {
	o, client, err := s.ingestLake()
	if errors.Is(err, backends.ErrBusy) {
		return control.Fail(err, "the daemon of a mount works on the ingests by itself: `tarn ingest ls`", "%v", err)
	}
	if err != nil {
		return err
	}
	defer closeClient(client, &err)
	if o.ingests == nil {
		return o.noIngests
	}
	if err := s.canRun(ctx, client, names); err != nil {
		return err
	}
	o.runIngests(names...)
	// The commands are clients of this process, as they are of a mount's daemon.
	d := control.Daemon{PID: os.Getpid(), Lake: o.cfg.File(), Started: s.t.now(), Version: versionString()}
	svc := o.service()
	svc.Daemon = d
	if err := makeFolder(o.cfg.Run); err != nil {
		return err
	}
	ln, closeSocket, err := control.Listen(o.cfg.Run, d)
	if err != nil {
		return err
	}
	api := control.Serve(svc, ln)
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		err = errors.Join(err, api.Close(end), svc.Close(), closeSocket())
	}()
	only := len(names) > 0
	for _, st := range o.ingests.List() {
		if !only {
			names = append(names, st.Name)
		}
	}
	s.t.say("%s; interrupt to end", count(int64(len(names)), "ingest"))
	<-ctx.Done()
	if page == "" {
		return nil
	}
	if !only { // some may have come since
		names = names[:0]
		for _, st := range o.ingests.List() {
			names = append(names, st.Name)
		}
	}
	return s.writeReport(context.WithoutCancel(ctx), client, page, names...)
}

// canRun wants ingests of these names that are not paused.
func (s *session) canRun(ctx context.Context, client *control.Client, names []string) error {
	for _, name := range names {
		var st ingest.Status
		if err := control.Call[struct{}](ctx, client, "ingest/show", control.IngestRequest{Name: name}, nil, nil, &st); err != nil {
			return err
		}
		if st.Single {
			return usage([]string{"ingest", "run"}, "%s was a single pass; `tarn ingest run --once DIR LAKEPATH` makes another one", name)
		}
		if st.Paused {
			return usage([]string{"ingest", "run"}, "%s is paused; `tarn ingest resume %s` ends that", name, name)
		}
	}
	return nil
}

// ingestOnce makes a single pass, in the daemon where there is one.
func (s *session) ingestOnce(c *cli.Context) (err error) {
	req, err := definition(c)
	if err != nil {
		return err
	}
	req.Name = c.String("name")
	if req.Dir, err = filepath.Abs(c.Args().First()); err != nil {
		return fmt.Errorf("ingest: %w", err)
	}
	_, paths, err := s.pick(c.Args().Get(1))
	if err != nil {
		return err
	}
	req.Target = paths[0]
	client, _, err := s.needDaemon(c.Context)
	if errors.Is(err, control.ErrNoDaemon) {
		_, client, err = s.ingestLake()
	}
	if err != nil {
		return err
	}
	defer closeClient(client, &err)
	m := s.t.meter()
	var res control.IngestOnceResult
	err = control.Call(c.Context, client, "ingest/once", req, func(st ingest.Status) error {
		m.show(control.Progress{What: "safe", Files: st.Safe.Files, TotalFiles: st.Found.Files, Bytes: st.Safe.Bytes, TotalBytes: st.Found.Bytes})
		return nil
	}, nil, &res)
	m.end()
	if err != nil {
		return err
	}
	st := res.Status
	if page := c.String("report"); page != "" {
		if err := s.writeReport(c.Context, client, page, st.Name); err != nil {
			return err
		}
	}
	err = s.t.object(res, func() {
		s.t.say("%s found, %s safe, %s; %s deleted at the source, in %s", count(st.Found.Files, "file"), num(st.Safe.Files), human(st.Safe.Bytes), num(st.Deleted.Files), span(res.Took))
		for _, f := range st.Stuck {
			fmt.Fprintf(s.t.err, "stuck: %s: %s%s\n", control.Text(f.Path).Quote(), f.Stage, because(f.Reason))
		}
	})
	if err == nil && st.StuckAll > 0 {
		return errPartial(st.StuckAll, "file")
	}
	return err
}
