package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/replication"
	"tarn/cmd/tarn/control"
)

func (s *session) transfersCommand() *cli.Command {
	const list = `Lists the copies that run, wait for the recall of their source, wait for their turn, and wait for
their next try or for a copy that they may be made of, with what went wrong, and those that were cancelled. A copy that
two servers make between themselves, so that its bytes do not come by this machine, has the RSE that sends it under
"third party". With --json that is sender, and the last line is the state of the replication:
{"status": ...}. It needs a mounted lake.`
	return &cli.Command{
		Name: "transfers", Category: groupMove, Usage: "copies that rules want and that are being made",
		Description: list + " Without a command it is ls.",
		Action:      s.transfersList,
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list them", Description: list, Action: s.transfersList},
			{
				Name: "retry", Usage: "make those go on now that wait, or were cancelled", ArgsUsage: "[PATH...]",
				Description: "Copies that failed and wait for their next try are begun at once, and cancelled ones again. With PATH: those of the\nfiles at and below it.",
				Action: func(c *cli.Context) error {
					if err := want(c, 0, -1); err != nil {
						return err
					}
					return s.transfersChange(c.Context, "retry", c.Args().Slice(), control.TransfersRequest{}, "%s asked for")
				},
			},
			{
				Name: "cancel", Usage: "call copies off", ArgsUsage: "PATH",
				Description: `Calls off the copies of the files at and below PATH that run or wait. They are not begun again until
tarn transfers retry, until a rule on them is added (again), or until the daemon is started
anew: what must never be copied needs another rule. Their rules are STUCK meanwhile. With --to only copies
to that RSE are; if others match, they are chosen instead.

Example:
   tarn transfers cancel /ctao/dl0/2026 --to CNAF-DISK`,
				Flags: []cli.Flag{&cli.StringFlag{Name: "to", Usage: "only those to `RSE`"}},
				Action: func(c *cli.Context) error {
					if err := want(c, 1, 1); err != nil {
						return err
					}
					return s.transfersChange(c.Context, "cancel", c.Args().Slice(), control.TransfersRequest{To: c.String("to")}, "%s cancelled")
				},
			},
			{
				Name: "priority", Usage: "let copies go sooner or later", ArgsUsage: "PATH N",
				Description: `Gives the copies of the files at and below PATH the priority N, 1 to 5 (5 is the most urgent), instead of that of
their rules: those that wait for their turn now, and those that come, until the daemon is started anew. 0 lets
the rules decide again. For good, add the rule again with --priority.`,
				Action: func(c *cli.Context) error {
					if err := want(c, 2, 2); err != nil {
						return err
					}
					n, err := strconv.Atoi(c.Args().Get(1))
					if err != nil || n < 0 || n > backends.HighestPriority {
						return usage([]string{"transfers", "priority"}, "N: want %d to %d, or 0, not %q", backends.LowestPriority, backends.HighestPriority, c.Args().Get(1))
					}
					return s.transfersChange(c.Context, "priority", c.Args().Slice()[:1], control.TransfersRequest{Priority: n}, "%s changed that wait for their turn")
				},
			},
		},
	}
}

// transfersChange asks the daemon for a change of the copies below paths.
func (s *session) transfersChange(ctx context.Context, op string, paths []string, req control.TransfersRequest, done string) error {
	client, _, err := s.needDaemon(ctx)
	if err != nil {
		return err
	}
	if err := client.Close(); err != nil {
		return err
	}
	var n control.Count
	err = call[struct{}](ctx, s, paths, "transfers/"+op, func(ps []control.Text) any {
		req.Paths = ps
		return req
	}, nil, &n)
	if err != nil {
		return err
	}
	return s.t.object(n, func() { s.t.say(done, nCopies(int(n.Done))) })
}

func (s *session) transfersList(c *cli.Context) error {
	if err := want(c, 0, 0); err != nil {
		return err
	}
	client, _, err := s.needDaemon(c.Context)
	if err != nil {
		return err
	}
	l := s.t.list("state", "from", "to", "third party", ">priority", ">done", ">size", ">failures", "next try", "path", "")
	var st replication.Status
	err = control.Call(c.Context, client, "transfers", struct{}{}, func(t control.TransferEntry) error {
		return l.add(t, string(t.State), t.From, t.To, t.Sender, strconv.Itoa(t.Priority), s.t.size(t.Done), s.t.size(t.Bytes), fmt.Sprint(t.Failures), when(t.NextTry), t.Path.Quote(), t.Error)
	}, nil, &st)
	if err == nil && s.t.json {
		err = l.add(struct {
			Status replication.Status `json:"status"`
		}{st})
	}
	if err := errors.Join(err, l.end(), client.Close()); err != nil {
		return err
	}
	s.t.say("copied since the mount: %s, %s; %d run, %d wait for a recall, %d for their turn, %d for a new try, %d for a copy to be made of, %d were cancelled",
		count(st.Copied, "file"), human(st.CopiedBytes), st.Running, st.Staging, st.Queued, st.Waiting, st.Sourceless, st.Cancelled)
	return nil
}
