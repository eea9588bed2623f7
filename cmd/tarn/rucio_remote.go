package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/cmd/tarn/control"
)

// remote is the Rucio catalogue of a lake as the commands see it.
type remote struct{ o *opened }

// Who implements control.Remote.
func (remote) Who() string { return "Rucio" }

// RSEUsage asks Rucio what is at the RSEs and what the account has there, and each storage for its space where Rucio does not know it.
func (r remote) RSEUsage(ctx context.Context, rse string, each func(control.RSEUsage) error) error {
	account, _ := r.o.client.Account()
	own := map[string]rest.AccountUsage{}
	list, err := r.o.client.AccountUsage(ctx, account)
	if err != nil {
		return fmt.Errorf("usage of account %s: %w", account, err)
	}
	for _, u := range list {
		own[u.RSE] = u
	}
	for _, x := range r.o.lake.RSEs() {
		if rse != "" && x.Name != rse {
			continue
		}
		u := control.RSEUsage{Name: x.Name, Kind: x.Kind, States: map[backends.ReplicaState]control.Held{}}
		if a, ok := own[x.Name]; ok {
			u.Own = control.Held{Files: max(int64(a.Files), 0), Bytes: max(int64(a.Bytes), 0)}
			if a.Limit != rest.Unknown {
				n := int64(a.Limit)
				u.Quota = &n
			}
		}
		sources, err := r.o.client.Usage(ctx, x.Name)
		if err != nil {
			u.Error = err.Error()
		}
		for _, s := range sources {
			switch s.Source {
			case "rucio":
				u.All = control.Held{Files: max(int64(s.Files), 0), Bytes: max(int64(s.Used), 0)}
			case "storage":
				u.Total, u.Free = max(int64(s.Total), 0), max(int64(s.Free), 0)
			}
		}
		if u.Total == 0 {
			within, cancel := context.WithTimeout(ctx, 10*time.Second)
			if u.Total, u.Free, err = x.Storage.Space(within); err != nil && u.Error == "" {
				u.Error = err.Error()
			}
			cancel()
		}
		if err := each(u); err != nil {
			return err
		}
	}
	return nil
}

// WhyStuck asks for Rucio's analysis.
func (r remote) WhyStuck(ctx context.Context, rule backends.RuleID, most int) (out []control.StuckTransfer, err error) {
	a, err := r.o.client.Analyse(ctx, string(rule))
	if err != nil {
		return nil, err
	}
	for _, t := range a.Transfers {
		if len(out) == most {
			break
		}
		out = append(out, control.StuckTransfer{
			DID: control.Text(t.Scope + ":" + t.Name), RSE: t.RSE, From: t.Source, Attempts: max(int64(t.Attempts), 0), Error: t.Error, Last: t.Last.Time,
		})
	}
	return out, nil
}

// refreshOnHangUp makes SIGHUP drop what is known of a Rucio server's lake, until the function that it gives is called.
func (o *opened) refreshOnHangUp() (stop func()) {
	if o.rucio == nil {
		return func() {}
	}
	hup, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		defer close(done)
		for range hup {
			if _, err := o.fs.Refresh(context.Background(), "/"); err != nil {
				o.log.Warn("what is known of the catalogue is not dropped", "err", err)
				continue
			}
			o.log.Info("what is known of the catalogue is dropped")
		}
	}()
	return func() {
		signal.Stop(hup)
		close(hup)
		<-done
	}
}

func (s *session) refreshCommand() *cli.Command {
	return &cli.Command{
		Name: "refresh", Category: groupFiles, Usage: "ask a Rucio server again", ArgsUsage: "[PATH...]",
		Description: `What a Rucio server said of names, attributes and replicas is taken for true for catalogue.ttl (1m). This drops it at and
below each PATH (default: everything), so that it is asked again. SIGHUP to the daemon does it for everything.`,
		Action: func(c *cli.Context) error {
			paths := c.Args().Slice()
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			var n control.Count
			err := call[struct{}](c.Context, s, paths, "refresh", func(p []control.Text) any { return control.PathsRequest{Paths: p} }, nil, &n)
			if err != nil {
				return err
			}
			return s.t.object(n, func() { s.t.note("%s refreshed", count(n.Done, "path")) })
		},
	}
}

func (s *session) mkdirCommand() *cli.Command {
	return &cli.Command{
		Name: "mkdir", Category: groupFiles, Usage: "make directories", ArgsUsage: "PATH...",
		Description: `A directory is a container of the catalogue. With --dataset it is a dataset: in Rucio that holds files and nothing else, is what
rules are best made on, and is what CTAO has for the last directory of a path, the day.

Example:
   tarn mkdir -p --dataset /ctao/lst/DL0/LSTN-01/ctao-north/event/2025/02/04`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dataset", Usage: "a dataset"},
			&cli.BoolFlag{Name: "parents", Aliases: []string{"p"}, Usage: "containers above it, too; what is there already is no error"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			var n control.Count
			err := call[struct{}](c.Context, s, c.Args().Slice(), "mkdir", func(p []control.Text) any {
				return control.MkdirRequest{Paths: p, Dataset: c.Bool("dataset"), Parents: c.Bool("parents"), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
			}, nil, &n)
			if err != nil {
				return err
			}
			return s.t.object(n, func() { s.t.note("%s made", plural(int(n.Done), "directory", "directories")) })
		},
	}
}
