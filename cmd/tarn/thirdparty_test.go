package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/fault"
	"tarn/backends/servertest"
	"tarn/backends/storage/posix"
	"tarn/cmd/tarn/config"
)

// The pair of protocols that copies is of one family, and the one with the best priorities at both ends.
func TestPairsOfProtocols(t *testing.T) {
	n := func(i int) *int { return &i }
	for _, c := range []struct {
		name     string
		from, to []config.Protocol
		want     string
	}{
		{"one of each", []config.Protocol{{URL: "davs://a/x"}}, []config.Protocol{{URL: "http://b/y"}}, "davs>http"},
		{"of no common family", []config.Protocol{{URL: "davs://a/x"}}, []config.Protocol{{URL: "gsiftp://b/y"}, {URL: "s3://b/bucket"}}, ""},
		{"as reads and writes are", []config.Protocol{{URL: "davs://a/x", Read: n(2), Write: n(0)}, {URL: "gsiftp://a/x"}},
			[]config.Protocol{{URL: "davs://b/y", Read: n(0)}, {URL: "ftp://b/y", Write: n(4)}}, "davs>davs gsiftp>ftp"},
		{"never", []config.Protocol{{URL: "davs://a/x", CopyRead: n(0)}, {URL: "http://a/x", Read: n(0)}}, []config.Protocol{{URL: "davs://b/y"}}, ""},
		{"never to it", []config.Protocol{{URL: "davs://a/x"}}, []config.Protocol{{URL: "davs://b/y", CopyWrite: n(0)}, {URL: "http://b/y", Write: n(0)}}, ""},
		{"for copies alone", []config.Protocol{{URL: "davs://a/x", Read: n(0), CopyRead: n(1)}}, []config.Protocol{{URL: "davs://b/y", Write: n(0), CopyWrite: n(3)}}, "davs>davs"},
		{"the best together", []config.Protocol{{URL: "davs://a/x", CopyRead: n(5)}, {URL: "gsiftp://a/x", CopyRead: n(1)}},
			[]config.Protocol{{URL: "https://b/y", CopyWrite: n(3)}, {URL: "davs://b/y", CopyWrite: n(1)}, {URL: "gsiftp://b/y", CopyWrite: n(2)}}, "gsiftp>gsiftp davs>davs davs>https"},
		{"the better one to write, of equals", []config.Protocol{{URL: "gsiftp://a/x", CopyRead: n(1)}, {URL: "davs://a/x", CopyRead: n(2)}},
			[]config.Protocol{{URL: "gsiftp://b/y", CopyWrite: n(2)}, {URL: "davs://b/y", CopyWrite: n(1)}}, "davs>davs gsiftp>gsiftp"},
	} {
		open := func(ps []config.Protocol) *protocols { return openForTest(t, config.RSE{Name: "R", Protocols: ps}) }
		from, to := open(c.from), open(c.to)
		scheme := func(p *protocols, ps []config.Protocol, w way) string {
			i := slices.Index(p.all, w.Storage)
			return strings.SplitN(ps[i].URL, ":", 2)[0]
		}
		var got []string
		for _, pair := range from.pairs(to) {
			got = append(got, scheme(from, c.from, pair[0])+">"+scheme(to, c.to, pair[1]))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}

// partyOf is an RSE of protocols that copy between themselves, which are all the same folder; the family of each is its number.
func partyOf(t *testing.T, n int) (p *protocols, each []*fault.Storage) {
	st, err := posix.Open(posix.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	p = &protocols{read: []backends.Storage{st}, write: []backends.Storage{st}, remove: []backends.Storage{st}, all: []backends.Storage{st}}
	for i := range n {
		f := fault.NewStorage(&backendstest.Party{Storage: st})
		each = append(each, f)
		p.copyRead = append(p.copyRead, way{f, fmt.Sprint(i), i + 1})
		p.copyWrite = append(p.copyWrite, way{f, fmt.Sprint(i), i + 1})
	}
	return p, each
}

func TestProtocolsCopy(t *testing.T) {
	backendstest.ThirdParty(t, func(t *testing.T) (from, to backends.Storage) {
		a, _ := partyOf(t, 2)
		b, _ := partyOf(t, 2)
		return a, b
	})
}

// The next pair is taken where one cannot or is unavailable, and no other for what it says of the file.
func TestCopyByTheNextPair(t *testing.T) {
	for _, c := range []struct {
		name  string
		first error
		calls int // of the second
		want  error
	}{
		{"well", nil, 0, nil}, {"unavailable", fault.ErrTemporary, 1, nil}, {"cannot", backends.ErrNotSupported, 1, nil},
		{"corrupt", backends.ErrCorrupt, 0, backends.ErrCorrupt}, {"full", backends.ErrNoSpace, 0, backends.ErrNoSpace},
	} {
		a, as := partyOf(t, 2)
		b, _ := partyOf(t, 2)
		backendstest.Put(t, a, "f", []byte("x"))
		if c.first != nil {
			as[0].On("CopyTo", fault.Always(c.first))
		}
		_, err := a.CopyTo(t.Context(), "f", b, "g", 1, backendstest.Sums([]byte("x")), nil)
		if !errors.Is(err, c.want) || as[0].Calls("CopyTo") != 1 || as[1].Calls("CopyTo") != c.calls {
			t.Errorf("%s: %v, %d and %d calls", c.name, err, as[0].Calls("CopyTo"), as[1].Calls("CopyTo"))
		}
	}
	a, as := partyOf(t, 2)
	b, _ := partyOf(t, 2)
	as[0].On("CopyTo", fault.Always(fault.ErrTemporary))
	as[1].On("CopyTo", fault.Always(fmt.Errorf("the second: %w", fault.ErrTemporary)))
	if _, err := a.CopyTo(t.Context(), "f", b, "g", 1, backends.Checksums{}, nil); !errors.Is(err, backends.ErrUnavailable) || strings.Contains(err.Error(), "second") {
		t.Errorf("all unavailable: %v", err)
	}
	if _, err := a.CopyTo(t.Context(), "f", as[0], "g", 1, backends.Checksums{}, nil); !errors.Is(err, backends.ErrNotSupported) {
		t.Errorf("to a storage without protocols: %v", err)
	}
}

// Between two real servers a copy goes through all that stands before them.
func TestCopyThroughAllDecorators(t *testing.T) {
	one, two := servertest.GridFTP(t, servertest.GridFTPOptions{}), servertest.GridFTP(t, servertest.GridFTPOptions{})
	rse := func(s *servertest.Server, l config.Limits) *protocols {
		p := config.Protocol{URL: s.FTP + s.Dir, Limits: l}
		return openForTest(t, config.RSE{Name: "R", Protocols: []config.Protocol{p}})
	}
	from, to := rse(one, config.Limits{Concurrent: 1}), rse(two, config.Limits{Concurrent: 1})
	data := backendstest.Bytes(1, 5<<20)
	backendstest.Put(t, from, "f", data)
	copyTo := func(from, to *protocols) error {
		_, err := from.CopyTo(context.Background(), "f", to, "d/g", int64(len(data)), backendstest.Sums(data), nil)
		return err
	}
	if err := copyTo(from, to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(two.Dir, "d/g")); err != nil || !slices.Equal(b, data) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, l := range []config.Limits{{Read: 1e9}, {Write: 1e9}} {
		err := copyTo(rse(one, config.Limits{Read: l.Read}), rse(two, config.Limits{Write: l.Write}))
		if !errors.Is(err, backends.ErrNotSupported) {
			t.Errorf("with %+v: %v", l, err)
		}
	}
}
