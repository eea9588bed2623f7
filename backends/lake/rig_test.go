package lake_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

var ctx = context.Background()

// rig is a lake of two disks and two tapes, with a scope of each layout.
type rig struct {
	*lake.Lake
	t            *testing.T
	cat          *laketest.Catalogue
	near, far    *laketest.Storage
	tape, vault  *laketest.Tape
	dNear, dFar  *lake.RSE
	tTape, tFarT *lake.RSE
}

const tapeDelay = time.Minute

func newRig(t *testing.T, change ...func(*lake.Options)) *rig {
	t.Helper()
	r := &rig{t: t, cat: laketest.NewCatalogue(), near: laketest.NewStorage(), far: laketest.NewStorage(),
		tape: laketest.NewTape(tapeDelay), vault: laketest.NewTape(tapeDelay)}
	attr := func(country string) map[string]string { return map[string]string{"country": country} }
	r.dNear = &lake.RSE{RSE: backends.RSE{Name: "NEAR", Kind: backends.DiskKind, Attributes: attr("ES")}, Storage: r.near}
	r.dFar = &lake.RSE{RSE: backends.RSE{Name: "FAR", Kind: backends.DiskKind, Attributes: attr("CH")}, Storage: r.far, Distance: 2}
	r.tTape = &lake.RSE{RSE: backends.RSE{Name: "TAPE", Kind: backends.TapeKind, Attributes: attr("ES")}, Storage: r.tape.Storage, Tape: r.tape, Distance: 1}
	r.tFarT = &lake.RSE{RSE: backends.RSE{Name: "VAULT", Kind: backends.TapeKind, Attributes: attr("CH")}, Storage: r.vault.Storage, Tape: r.vault, Distance: 3}
	o := lake.Options{Catalogue: r.cat, Namespace: r.cat, Versions: r.cat, Rules: r.cat, RSEs: []*lake.RSE{r.dNear, r.dFar, r.tTape, r.tFarT}}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	for _, f := range change {
		f(&o)
	}
	var err error
	if r.Lake, err = lake.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Lake.Close)
	for scope, layout := range map[string]backends.Layout{"ctao": backends.LayoutLFN, "magic": backends.LayoutContents} {
		if err := r.cat.AddScope(ctx, backends.Info{DID: backends.DID{Scope: scope}, Layout: layout}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func did(scope, name string) backends.DID { return backends.DID{Scope: scope, Name: name} }

func sums(data []byte) backends.Checksums {
	h := checksum.New()
	h.Write(data)
	return h.Sum()
}

func content(name string) []byte { return bytes.Repeat([]byte(name+"\n"), 1000) }

// file adds /ctao/<name> with replicas at the named RSEs.
func (r *rig) file(name string, rses ...string) backends.Info {
	r.t.Helper()
	data := content(name)
	in := backends.Info{DID: did("ctao", "/ctao/"+name), Type: backends.File, Size: int64(len(data)), Checksums: sums(data)}
	var replicas []backends.Replica
	for _, rse := range rses {
		pfn := rse + "/" + name
		replicas = append(replicas, backends.Replica{RSE: rse, PFN: pfn, State: backends.Available})
		switch rse {
		case "NEAR":
			r.near.Put(pfn, data)
		case "FAR":
			r.far.Put(pfn, data)
		case "TAPE":
			r.tape.Put(pfn, data)
		case "VAULT":
			r.vault.Put(pfn, data)
		}
	}
	return r.add(in, replicas...)
}

func (r *rig) add(in backends.Info, replicas ...backends.Replica) backends.Info {
	r.t.Helper()
	if err := r.cat.Add(ctx, in, nil, replicas...); err != nil {
		r.t.Fatal(err)
	}
	in, err := r.cat.Stat(ctx, in.DID)
	if err != nil {
		r.t.Fatal(err)
	}
	return in
}

func (r *rig) replica(in backends.Info, rse string) backends.Replica {
	r.t.Helper()
	all, err := r.cat.Replicas(ctx, in.DID)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, x := range all {
		if x.RSE == rse {
			return x
		}
	}
	return backends.Replica{}
}

func readAll(o backends.Object) ([]byte, error) {
	buf := make([]byte, o.Size()+10)
	n, err := o.ReadAt(ctx, buf, 0)
	if err == io.EOF {
		err = nil
	}
	return buf[:n], err
}

// wants reads all of in and compares.
func (r *rig) wants(in backends.Info, data []byte) {
	r.t.Helper()
	o, err := r.Open(ctx, in)
	if err != nil {
		r.t.Fatal(err)
	}
	defer o.Close()
	got, err := readAll(o)
	if err != nil || !bytes.Equal(got, data) {
		r.t.Fatalf("read %d bytes (%v), want %d", len(got), err, len(data))
	}
}

func down(string, string) error { return laketest.ErrDown }

func ended(t *lake.Ticket) bool {
	select {
	case <-t.Done():
		return true
	default:
		return false
	}
}

func names(seq func(func(lake.Named, error) bool)) (out []string, err error) {
	for n, e := range seq {
		if e != nil {
			return out, e
		}
		out = append(out, n.Name)
	}
	return out, nil
}

func number(n int) string { return fmt.Sprintf("run%04d.fits", n) }
