package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends/ingest"
	"tarn/cmd/tarn/control"
)

func (s *session) ingestListCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "list the ingests, and how they are doing",
		Action: func(c *cli.Context) error {
			l := s.t.list("name", "state", ">found", ">safe", ">deleted", ">stuck", ">rate", "from", "to", "")
			err := call(c.Context, s, nil, "ingest/ls", func([]control.Text) any { return struct{}{} }, func(st ingest.Status) error {
				return l.add(st, st.Name, ingestState(st), num(st.Found.Files), num(st.Safe.Files), num(st.Deleted.Files), num(st.StuckAll),
					s.t.size(int64(st.Rate))+"/s", control.Text(st.Dir).Quote(), control.Text(st.Target).Quote(), st.Error)
			}, nil)
			return errors.Join(err, l.end())
		},
	}
}

// stopped is what people see of an ingest that is not paused while no process works on it.
const stopped = "STOPPED"

// ingestState is the state for people: who did not pause an ingest is not told that it is paused.
func ingestState(st ingest.Status) string {
	if st.State == ingest.Paused && !st.Paused {
		return stopped
	}
	return st.State
}

// noteStopped tells how an ingest that nobody works on goes on.
func (s *session) noteStopped(st ingest.Status) {
	if ingestState(st) == stopped {
		s.t.note("nothing is done until the lake is mounted, or `tarn ingest run` works on it")
	}
}

func num(n int64) string { return strconv.FormatInt(n, 10) }

func (s *session) ingestShowCommand() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "how far an ingest is, and what hinders it", ArgsUsage: "NAME",
		Description: `Shows files and bytes that were found, sealed (complete, and on record), transferred to the first RSE, verified there,
registered, safe (every rule is fulfilled by verified copies) and deleted; the rate, the time that is left, the file
that waits longest, and what is stuck with the reason. --follow shows it again every second until
it is interrupted: in its place on a terminal, a line each time elsewhere, with --json an object. Where no process
works on the ingests it shows it once. --metrics prints it in the text format of Prometheus, for
node_exporter's textfile collector.

Example:
   tarn ingest show lapalma --files --stage SEALED`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on"},
			&cli.BoolFlag{Name: "files", Usage: "list its files"},
			&cli.StringSliceFlag{Name: "stage", Usage: "with --files: only those at `STAGE`"},
			&cli.BoolFlag{Name: "metrics", Usage: "in the text format of Prometheus"},
		},
		Action: func(c *cli.Context) (err error) {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			name := c.Args().First()
			follow := c.Bool("follow")
			client, _, err := s.needDaemon(c.Context)
			if errors.Is(err, control.ErrNoDaemon) {
				// Who went on would keep the lake from being mounted, and see nothing move.
				follow = false
				client, _, err = s.connect(c.Context)
			}
			if err != nil {
				return err
			}
			defer closeClient(client, &err)
			if c.Bool("files") || c.IsSet("stage") {
				return s.ingestFiles(c, client, name)
			}
			drawn, lost := 0, 0
			for first := true; ; first = false {
				var st ingest.Status
				if err := control.Call[struct{}](c.Context, client, "ingest/show", control.IngestRequest{Name: name}, nil, nil, &st); err != nil {
					if c.Context.Err() != nil && !first {
						return nil // it was asked to end
					}
					if lost++; first || lost > followPatience || !errors.Is(err, control.ErrCutShort) {
						return err
					}
					if !second(c.Context) { // the daemon is started anew
						return nil
					}
					continue
				}
				lost = 0
				switch {
				case c.Bool("metrics"):
					err = ingestMetrics(s.t.out, st)
				case s.t.json:
					err = s.t.object(st, nil)
				case follow && isTerminal(s.t.out):
					drawn, err = redraw(s.t.out, drawn, width(s.t.out), s.ingestLines(st))
				case follow:
					_, err = fmt.Fprintln(s.t.out, ingestLine(st))
				default:
					_, err = fmt.Fprintln(s.t.out, strings.Join(s.ingestLines(st), "\n"))
					s.noteStopped(st)
				}
				if err != nil || !follow {
					return err
				}
				if !second(c.Context) {
					return nil
				}
			}
		},
	}
}

// followPatience is how many seconds --follow waits for a daemon that has ended.
const followPatience = 30

// second waits for one; false: it was asked to end.
func second(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Second):
		return true
	}
}

func (s *session) ingestFiles(c *cli.Context, client *control.Client, name string) error {
	req := control.IngestFilesRequest{Name: name}
	all := []ingest.Stage{ingest.Found, ingest.Sealed, ingest.Transferred, ingest.Verified, ingest.Registered, ingest.Safe, ingest.Deleting, ingest.Deleted}
	for _, w := range c.StringSlice("stage") {
		st := ingest.Stage(strings.ToUpper(w))
		known := false
		for _, k := range all {
			known = known || k == st
		}
		if !known {
			return usage([]string{"ingest", "show"}, "--stage: want one of %v, not %q", all, w)
		}
		req.Stages = append(req.Stages, st)
	}
	l := s.t.list("stage", ">bytes", "found", "safe", "first copy", "path", "")
	err := control.Call(c.Context, client, "ingest/files", req, func(f control.IngestFile) error {
		return l.add(f, string(f.Stage), s.t.size(f.Size), when(f.FoundAt), when(f.SafeAt), f.RSE, f.Path.Quote(), f.Error)
	}, nil, nil)
	return errors.Join(err, l.end())
}

// redraw writes lines over the ones that it wrote last, and gives how many there are now. A line that is longer than the
// terminal is wide is cut: it would take two rows, and the next redraw would begin in the wrong one.
func redraw(w io.Writer, drawn, columns int, lines []string) (int, error) {
	var b strings.Builder
	if drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", drawn)
	}
	for _, l := range lines {
		if r := []rune(l); len(r) > columns-1 {
			l = string(r[:columns-1])
		}
		b.WriteString(l + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return len(lines), err
}

// ingestLine is the view of one ingest in a log: one line.
func ingestLine(st ingest.Status) string {
	s := fmt.Sprintf("%s: %s, %d of %s safe, %s of %s, %d transferred, %d registered, %d deleted, %d stuck, %s/s", st.Name, strings.ToLower(ingestState(st)),
		st.Safe.Files, count(st.Found.Files, "file"), human(st.Safe.Bytes), human(st.Found.Bytes), st.Transferred.Files, st.Registered.Files, st.Deleted.Files, st.StuckAll, human(int64(st.Rate)))
	if st.ETA > 0 {
		s += ", " + span(st.ETA) + " left"
	}
	if st.Error != "" {
		s += ": " + strings.ReplaceAll(st.Error, "\n", "; ")
	}
	return s
}

// stuckShown is how many stuck files the view names.
const stuckShown = 5

// ingestLines is the view of one ingest.
func (s *session) ingestLines(st ingest.Status) []string {
	out := []string{fmt.Sprintf("%s: %s, %s to %s", st.Name, strings.ToLower(ingestState(st)), control.Text(st.Dir).Quote(), control.Text(st.Target).Quote())}
	add := func(format string, args ...any) { out = append(out, "   "+fmt.Sprintf(format, args...)) }
	if st.Error != "" {
		add("%s", strings.ReplaceAll(st.Error, "\n", "; "))
	}
	for _, c := range []struct {
		word string
		n    ingest.Count
	}{{"found", st.Found}, {"sealed", st.Sealed}, {"transferred", st.Transferred}, {"verified", st.Verified}, {"registered", st.Registered}, {"safe", st.Safe}, {"deleted", st.Deleted}} {
		share := ""
		if st.Found.Files > 0 {
			share = fmt.Sprintf("%3d %%", c.n.Files*100/st.Found.Files)
		}
		add("%-12s %9d  %10s  %s", c.word, c.n.Files, human(c.n.Bytes), share)
	}
	if st.Incomplete.Files > 0 {
		add("%s not complete, %s", count(st.Incomplete.Files, "file"), human(st.Incomplete.Bytes))
	}
	rate := fmt.Sprintf("rate         %s/s, %.1f files/s", human(int64(st.Rate)), st.FileRate)
	if st.ETA > 0 {
		rate += ", " + span(st.ETA) + " left"
	}
	add("%s", rate)
	add("transfers    %d begun, %d failed; %s changed after they were sealed, %d kept since they changed", st.Attempts, st.Failures, count(st.Changed, "file"), st.Kept)
	if o := st.Oldest; o != nil {
		add("oldest       %s: %s since %s%s", control.Text(o.Path).Quote(), o.Stage, when(o.Since), because(o.Reason))
	}
	for i, f := range st.Stuck {
		if i == stuckShown {
			add("stuck        and %d more", st.StuckAll-stuckShown)
			break
		}
		next := ""
		if !f.NextTry.IsZero() {
			next = ", next try " + when(f.NextTry)
		}
		add("stuck        %s: %s, %d attempts%s%s", control.Text(f.Path).Quote(), f.Stage, f.Attempts, next, because(f.Reason))
	}
	return out
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// ingestMetrics writes the text exposition format of Prometheus, version 0.0.4.
func ingestMetrics(w io.Writer, sts ...ingest.Status) error {
	var b strings.Builder
	esc := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	metric := func(name, kind, help string, value func(ingest.Status, func(labels string, v float64))) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		for _, st := range sts {
			value(st, func(labels string, v float64) {
				fmt.Fprintf(&b, "%s{ingest=\"%s\"%s} %s\n", name, esc.Replace(st.Name), labels, strconv.FormatFloat(v, 'g', -1, 64))
			})
		}
	}
	stages := func(get func(ingest.Count) int64) func(ingest.Status, func(string, float64)) {
		return func(st ingest.Status, put func(string, float64)) {
			for _, c := range []struct {
				word string
				n    ingest.Count
			}{{"found", st.Found}, {"sealed", st.Sealed}, {"transferred", st.Transferred}, {"verified", st.Verified}, {"registered", st.Registered}, {"safe", st.Safe}, {"deleted", st.Deleted}} {
				put(`,stage="`+c.word+`"`, float64(get(c.n)))
			}
		}
	}
	metric("tarn_ingest_files", "gauge", "Files that have come at least to the stage.", stages(func(c ingest.Count) int64 { return c.Files }))
	metric("tarn_ingest_bytes", "gauge", "Bytes of these files.", stages(func(c ingest.Count) int64 { return c.Bytes }))
	one := func(get func(ingest.Status) float64) func(ingest.Status, func(string, float64)) {
		return func(st ingest.Status, put func(string, float64)) { put("", get(st)) }
	}
	metric("tarn_ingest_incomplete_files", "gauge", "Files in the folder that are not complete.", one(func(st ingest.Status) float64 { return float64(st.Incomplete.Files) }))
	metric("tarn_ingest_stuck_files", "gauge", "Files that failed again and again.", one(func(st ingest.Status) float64 { return float64(st.StuckAll) }))
	metric("tarn_ingest_rate_bytes_per_second", "gauge", "Bytes to first copies, over the last ten seconds.", one(func(st ingest.Status) float64 { return st.Rate }))
	metric("tarn_ingest_transfers_total", "counter", "Transfers begun by this process.", one(func(st ingest.Status) float64 { return float64(st.Attempts) }))
	metric("tarn_ingest_transfer_failures_total", "counter", "Of them, failed.", one(func(st ingest.Status) float64 { return float64(st.Failures) }))
	metric("tarn_ingest_up", "gauge", "1 while the ingest runs.", one(func(st ingest.Status) float64 {
		if st.State == ingest.Running {
			return 1
		}
		return 0
	}))
	metric("tarn_ingest_oldest_seconds", "gauge", "Age of the oldest file that is not safe.", one(func(st ingest.Status) float64 {
		if st.Oldest == nil {
			return 0
		}
		return time.Since(st.Oldest.Since).Seconds()
	}))
	_, err := io.WriteString(w, b.String())
	return err
}
