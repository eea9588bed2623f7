package rest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/servertest"
)

// A real server that stops, comes back, says nothing, and dies in the middle of a stream.
func TestServerDown(t *testing.T) {
	srv := servertest.Rucio(t, servertest.RucioOptions{Own: true})
	user, scope := srv.Unique("user"), srv.Unique("scope")
	srv.AddAccount(user, scope)
	disk := srv.AddRSE(servertest.RucioRSE{Name: srv.Unique("D") + "_USERDISK"})
	ctx := t.Context()
	make := func(change func(*Options)) *Client {
		t.Helper()
		o := Options{Config: Config{Host: srv.URL, CA: srv.CA, Account: user, AuthType: Userpass, Username: user, Password: servertest.RucioPassword}, Patience: -1}
		change(&o)
		c, err := New(o)
		must(t, err)
		t.Cleanup(c.Close)
		return c
	}
	once := make(func(*Options) {})
	patient := make(func(o *Options) { o.Patience = 30 * time.Second })
	set := backends.DID{Scope: scope, Name: "set"}
	must(t, once.AddDIDs(ctx, []NewDID{{Scope: scope, Name: "set", Type: TypeDataset}}))
	var files []NewReplica
	var dids []backends.DID
	for i := range 2000 {
		name := fmt.Sprintf("%s/%06d", strings.Repeat("long", 50), i)
		files = append(files, NewReplica{Scope: scope, Name: name, Bytes: 1, Adler32: "00000001"})
		dids = append(dids, backends.DID{Scope: scope, Name: name})
	}
	must(t, once.AddReplicas(ctx, disk, files))
	must(t, once.Attach(ctx, []Attachment{{scope, "set", dids}}))
	must(t, patient.Login(ctx))

	down := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) || errors.Is(err, backends.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	srv.Stop()
	_, err := once.BulkMeta(ctx, []backends.DID{set})
	down("stopped", err)
	back := time.AfterFunc(2*time.Second, srv.Start)
	defer back.Stop()
	start := time.Now()
	if rows, err := patient.BulkMeta(ctx, []backends.DID{set}); err != nil || len(rows) != 1 || time.Since(start) < 2*time.Second {
		t.Errorf("back again: %d rows, %v after %v", len(rows), err, time.Since(start))
	}

	hasty := make(func(o *Options) { o.Silence = time.Second })
	must(t, hasty.Login(ctx))
	srv.Pause()
	start = time.Now()
	_, err = hasty.BulkMeta(ctx, []backends.DID{set})
	took := time.Since(start)
	srv.Resume()
	down("paused", err)
	if took > 5*time.Second {
		t.Errorf("a silent server was waited for %v", took)
	}

	n := 0
	err = patient.Content(ctx, set, func(Child) error {
		if n++; n == 1 {
			srv.Kill()
		}
		return nil
	})
	down("killed", err)
	if n == 0 || n >= len(files) {
		t.Errorf("%d rows before the end", n)
	}
}
