package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/checksum"
	"tarn/backends/credential"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func openForTest(t *testing.T, r config.RSE) *protocols {
	t.Helper()
	cred := credential.New(credential.Options{})
	p, err := openProtocols(r, doorsOf(&config.Config{RSEs: []config.RSE{r}}, cred, slog.New(slog.DiscardHandler)), cred, checksum.Default, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestProtocolsAreOneStorage(t *testing.T) {
	backendstest.Storage(t, func(t *testing.T) backends.Storage {
		return openForTest(t, config.RSE{Protocols: []config.Protocol{{URL: "file://" + t.TempDir()}}})
	})
}

// What one protocol cannot do now, the next one does; what is not there is not looked for elsewhere.
func TestProtocolsStandInForOneAnother(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String() + "/x"
	l.Close()
	dir, other := t.TempDir(), t.TempDir()
	two, none := 2, 0
	p := openForTest(t, config.RSE{Protocols: []config.Protocol{
		{URL: "file://" + other, Read: &none, Write: &none, Delete: &none},
		{URL: "file://" + dir, Read: &two, Write: &two, Delete: &two},
		{URL: dead},
	}})
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, p, "d/f", data)
	if got, err := backendstest.Get(t.Context(), p, "d/f"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := p.Space(t.Context()); err != nil {
		t.Errorf("space: %v", err)
	}
	n := 0
	for _, err := range p.List(t.Context(), "d") {
		if n++; err != nil {
			t.Errorf("list: %v", err)
		}
	}
	if n != 1 {
		t.Errorf("list: %d entries", n)
	}
	if err := p.Remove(t.Context(), "d/f"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if es, _ := os.ReadDir(other); len(es) > 0 {
		t.Errorf("what is never to be used was: %v", es)
	}
	// With all of them away it is the first that is told of.
	p = openForTest(t, config.RSE{Protocols: []config.Protocol{{URL: dead}, {URL: "file:///no/such/folder"}}})
	if _, err := p.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
}

// A server that failed again and again is not asked for a while, which `tarn rse ls` tells.
func TestDeadServerIsLeftAlone(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	lake := t.TempDir()
	writeTree(t, lake, map[string]string{"lake.yaml": fmt.Sprintf(`
rses:
  - {name: DEAD, protocols: [{url: "http://%[1]s/x", limits: {concurrent: 8}}]}
  - {name: TWIN, protocols: [{url: "dav://%[1]s/y"}]}
  - {name: DISK, path: disk}
scopes: [{name: s}]
`, addr)})
	t.Setenv("TARN_LAKE", "")
	c := tester{t: t, lake: lake}
	c.ok("init", lake)
	var seen []control.RSEEntry
	for dec := json.NewDecoder(strings.NewReader(c.ok("rse", "ls", "--json"))); dec.More(); {
		var e control.RSEEntry
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, e)
	}
	if len(seen) != 3 || len(seen[0].Endpoints) != 1 || len(seen[1].Endpoints) != 1 || len(seen[2].Endpoints) != 0 {
		t.Fatalf("%+v", seen)
	}
	for _, r := range seen[:2] { // they are behind one door
		e := r.Endpoints[0]
		if e.Endpoint != "dav://"+addr || e.State != backends.EndpointOpen || e.Concurrent != 8 || e.Failures != 5 || !strings.Contains(e.Error, "refused") {
			t.Errorf("%s: %+v", r.Name, e)
		}
	}
	if !strings.Contains(seen[1].Error, backends.ErrHeldOff.Error()) {
		t.Errorf("the second was asked: %s", seen[1].Error)
	}
	if out := c.ok("rse", "ls"); !strings.Contains(out, "dav://"+addr+" is left alone for ") {
		t.Errorf("for people:\n%s", out)
	}
}
