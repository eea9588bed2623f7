package replication_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/replication"
)

// A copy that servers make between themselves is listed with the RSE that sends it.
func TestTransfersTellTheSender(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		hold := make(chan struct{})
		a, _ := r.l.RSE("A")
		b, _ := r.l.RSE("B")
		a.Storage = &backendstest.Party{Storage: a.Storage, Meanwhile: func(context.Context, string) error { <-hold; return nil }}
		b.Storage = &backendstest.Party{Storage: b.Storage}
		in := r.file("f", "A")
		r.rule(in.DID, 2, "A|B")
		r.start()
		synctest.Wait()
		tr := r.Transfers()
		if len(tr) != 1 || tr[0].State != replication.Running || tr[0].Sender != "A" || tr[0].To != "B" || tr[0].Done == 0 {
			t.Errorf("%+v", tr)
		}
		close(hold)
		pass(time.Second)
		if tr := r.Transfers(); len(tr) != 0 || r.Status().Copied != 1 {
			t.Errorf("%+v, %+v", tr, r.Status())
		}
		if n := len(r.disks["B"].Paths()); n != 1 {
			t.Errorf("%d files", n)
		}
	})
}
