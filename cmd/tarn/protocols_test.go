package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/checksum"
	"tarn/backends/credential"
	"tarn/cmd/tarn/config"
)

func openForTest(t *testing.T, r config.RSE) *protocols {
	t.Helper()
	p, err := openProtocols(r, credential.New(credential.Options{}), checksum.Default, slog.New(slog.DiscardHandler), time.Now)
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
