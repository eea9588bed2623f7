package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"tarn/backends/replication"
	"tarn/cmd/tarn/control"
)

func (s *session) transfersCommand() *cli.Command {
	return &cli.Command{
		Name: "transfers", Category: groupMove, Usage: "copies that rules want and that are being made",
		Description: `Lists the copies that run, wait for the recall of their source, wait for their turn, and wait for
their next try, with what went wrong. A copy that two servers make between themselves, so that its
bytes do not come by this machine, has the RSE that sends it under "third party". With --json that is
sender, and the last line is the state of the replication:
{"status": ...}. It needs a mounted lake.`,
		Action: func(c *cli.Context) error {
			if err := want(c, 0, 0); err != nil {
				return err
			}
			client, _, err := s.needDaemon(c.Context)
			if err != nil {
				return err
			}
			l := s.t.list("state", "to", "third party", ">done", ">size", ">failures", "next try", "path", "")
			var st replication.Status
			err = control.Call(c.Context, client, "transfers", struct{}{}, func(t control.TransferEntry) error {
				return l.add(t, string(t.State), t.To, t.Sender, s.t.size(t.Done), s.t.size(t.Bytes), fmt.Sprint(t.Failures), when(t.NextTry), t.Path.Quote(), t.Error)
			}, nil, &st)
			if err == nil && s.t.json {
				err = l.add(struct {
					Status replication.Status `json:"status"`
				}{st})
			}
			if err := errors.Join(err, l.end(), client.Close()); err != nil {
				return err
			}
			s.t.say("copied since the mount: %s, %s; %d run, %d wait for a recall, %d for their turn, %d for a new try", count(st.Copied, "file"), human(st.CopiedBytes), st.Running, st.Staging, st.Queued, st.Waiting)
			return nil
		},
	}
}
