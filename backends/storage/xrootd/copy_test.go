//go:build xrdcl && cgo

package xrootd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// adler is the checksum that servers know.
func adler(data []byte) backends.Checksums {
	return backends.Checksums{Adler32: backendstest.Sums(data).Adler32}
}

// nothingLeft wants the place of unfinished uploads to be empty.
func nothingLeft(t *testing.T, srv *servertest.Server, s *Storage) {
	t.Helper()
	if left, err := os.ReadDir(srv.Path(s.remote(uploads))); len(left) > 0 || err != nil && !os.IsNotExist(err) {
		t.Errorf("left: %v, %v", left, err)
	}
}

// holds wants a file of a server to have these bytes.
func holds(t *testing.T, srv *servertest.Server, s *Storage, p string, data []byte) {
	t.Helper()
	if got, err := os.ReadFile(srv.Path(s.remote(p))); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s has %d bytes, want these %d: %v", p, len(got), len(data), err)
	}
}

func TestThirdPartyContract(t *testing.T) {
	third := servertest.XRootDOptions{ThirdParty: true}
	a, b := servertest.XRootD(t, third), servertest.XRootD(t, third)
	frontA, frontB := servertest.XRootD(t, servertest.XRootDOptions{Redirect: a}), servertest.XRootD(t, servertest.XRootDOptions{Redirect: b})
	bare := servertest.XRootD(t, servertest.XRootDOptions{ThirdParty: true, NoChecksums: true})
	for _, c := range []struct {
		name     string
		from, to *servertest.Server
		froms    string
		tos      string
	}{
		{"anonymous", a, b, a.Root, b.Root},
		{"behind redirectors", a, b, frontA.Root, frontB.Root},
		{"to one without checksums", a, bare, a.Root, bare.Root},
		{"within a server", a, a, a.Root, a.Root},
	} {
		t.Run(c.name, func(t *testing.T) {
			backendstest.ThirdParty(t, func(t *testing.T) (from, to backends.Storage) {
				return storage(t, Options{URL: folder(t, c.from, c.froms)}), storage(t, Options{URL: folder(t, c.to, c.tos)})
			})
		})
	}
}

// pair is two servers with a storage on each; what comes from the first one goes over a line.
type pair struct {
	a, b     *servertest.Server
	w        *line
	from, to *Storage
}

func newPair(t *testing.T, o Options) *pair {
	t.Helper()
	third := servertest.XRootDOptions{ThirdParty: true}
	p := &pair{a: servertest.XRootD(t, third), b: servertest.XRootD(t, third)}
	p.w = newLine(t, strings.TrimPrefix(p.a.Root, "root://"))
	o.URL = folder(t, p.a, "root://"+p.w.Addr().String())
	p.from = storage(t, o)
	o.URL = folder(t, p.b, p.b.Root)
	p.to = storage(t, o)
	return p
}

// slowly begins a copy of a new file that takes a while, and gives its end, once bytes have arrived.
func (p *pair) slowly(t *testing.T, ctx context.Context, src string) (data []byte, end chan error) {
	t.Helper()
	data = backendstest.Bytes(4, 64<<20)
	backendstest.Put(t, storage(t, Options{URL: p.a.Root + "/" + p.from.end.prefix}), src, data)
	p.w.pace.Store(4 << 20)
	begun := make(chan struct{}, 100)
	end = make(chan error, 1)
	go func() {
		_, err := p.from.CopyTo(ctx, src, p.to, "d/f", int64(len(data)), adler(data), func(n int64) {
			select {
			case begun <- struct{}{}:
			default:
			}
		})
		end <- err
	}()
	select {
	case <-begun:
	case err := <-end:
		t.Fatalf("the copy ended early: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("nothing arrives")
	}
	return data, end
}

// within wants an end before long.
func within(t *testing.T, d time.Duration, end chan error) error {
	t.Helper()
	select {
	case err := <-end:
		return err
	case <-time.After(d):
		t.Fatalf("no end within %v", d)
		return nil
	}
}

// The bytes go from server to server.
func TestCopyPassesBy(t *testing.T) {
	third := servertest.XRootDOptions{ThirdParty: true}
	a, b := servertest.XRootD(t, third), servertest.XRootD(t, third)
	w := newLine(t, strings.TrimPrefix(b.Root, "root://"))
	from, to := storage(t, Options{URL: folder(t, a, a.Root)}), storage(t, Options{URL: folder(t, b, "root://"+w.Addr().String())})
	data := backendstest.Bytes(1, 12<<20+3)
	backendstest.Put(t, from, "f", data)
	got, err := from.CopyTo(t.Context(), "f", to, "d/g", int64(len(data)), backendstest.Sums(data), nil)
	if err != nil || got != adler(data) {
		t.Fatalf("copy: %+v, %v", got, err)
	}
	holds(t, b, to, "d/g", data)
	if n := len(w.sent()); n == 0 || n > 1<<20 {
		t.Errorf("%d bytes went from here to the server of the copy", n)
	}
	nothingLeft(t, b, to)
	// It is durable before it is in its place: two syncs are those that copy.
	const sync, mv = 3016, 3009
	var order []uint16
	for _, r := range requests(w.sent()) {
		if r == sync || r == mv {
			order = append(order, r)
		}
	}
	if !slices.Equal(order, []uint16{sync, sync, sync, mv}) {
		t.Errorf("the server was asked for %d", order)
	}
	// With no checksum that the server knows it is read, once.
	got, err = from.CopyTo(t.Context(), "f", to, "d/h", int64(len(data)), backends.Checksums{SHA256: backendstest.Sums(data).SHA256}, nil)
	if err != nil || got.SHA256 != backendstest.Sums(data).SHA256 {
		t.Errorf("copy by SHA-256: %+v, %v", got, err)
	}
}

// A name that the URL of a copy cannot carry has to be carried itself, which says nothing of others.
func TestCopyOfOddNames(t *testing.T) {
	third := servertest.XRootDOptions{ThirdParty: true}
	a, b := servertest.XRootD(t, third), servertest.XRootD(t, third)
	from, to := storage(t, Options{URL: folder(t, a, a.Root)}), storage(t, Options{URL: folder(t, b, b.Root)})
	data := backendstest.Bytes(3, 1000)
	for _, name := range []string{"a&b", "a b", "a=b", "a#b", "a%20b", "a+b", "ä", "a:b@c", "'\"$(a)"} {
		backendstest.Put(t, from, name, data)
		_, err := from.CopyTo(t.Context(), name, to, name, int64(len(data)), adler(data), nil)
		if name == "a&b" {
			wantErr(t, "copy of "+name, err, backends.ErrNotSupported)
			continue
		}
		if err != nil {
			t.Errorf("copy of %s: %v", name, err)
			continue
		}
		holds(t, b, to, name, data)
	}
}

// A manager sends who copies to one of its servers, which fetches.
func TestCopyThroughManager(t *testing.T) {
	a := servertest.XRootD(t, servertest.XRootDOptions{ThirdParty: true})
	manager := servertest.XRootD(t, servertest.XRootDOptions{Manager: true})
	b := servertest.XRootD(t, servertest.XRootDOptions{Of: manager, ThirdParty: true})
	from, to := storage(t, Options{URL: folder(t, a, a.Root)}), storage(t, Options{URL: manager.Root + "//data"})
	eventually(t, "a cluster", func() bool { _, err := to.Stat(t.Context(), ""); return err == nil })
	data := backendstest.Bytes(6, 2<<20)
	backendstest.Put(t, from, "f", data)
	for _, dst := range []string{"g", "d/g"} {
		if got, err := from.CopyTo(t.Context(), "f", to, dst, int64(len(data)), adler(data), nil); err != nil || got != adler(data) {
			t.Fatalf("copy: %+v, %v", got, err)
		}
		holds(t, b, to, dst, data)
		openIt(t, to, dst)
	}
	nothingLeft(t, b, to)
	back := storage(t, Options{URL: folder(t, a, a.Root)})
	if _, err := to.CopyTo(t.Context(), "d/g", back, "h", int64(len(data)), adler(data), nil); err != nil {
		t.Errorf("copy from there: %v", err)
	}
	holds(t, a, back, "h", data)
}

// requests are those of a connection, after its handshake of 20 bytes: 24 bytes of header, with the length of what follows
// at their end.
func requests(sent []byte) (out []uint16) {
	for sent = sent[min(20, len(sent)):]; len(sent) >= 24; {
		out = append(out, binary.BigEndian.Uint16(sent[2:]))
		sent = sent[min(24+int(binary.BigEndian.Uint32(sent[20:])), len(sent)):]
	}
	return out
}

// A server that does not take part says so, and is not asked again for ten minutes.
func TestCopyNotSupported(t *testing.T) {
	able, bare := servertest.XRootD(t, servertest.XRootDOptions{ThirdParty: true}), servertest.XRootD(t, servertest.XRootDOptions{})
	front := servertest.XRootD(t, servertest.XRootDOptions{Redirect: bare})
	data := []byte("some bytes")
	for _, c := range []struct {
		name     string
		from, to *servertest.Server
		tos      string
		gone     *servertest.Server // whose absence nobody notices
	}{{"from it", bare, able, able.Root, able}, {"to it", able, bare, bare.Root, able}, {"to it behind a redirector", able, bare, front.Root, able}} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			o := Options{URL: folder(t, c.from, c.from.Root), Now: func() time.Time { return now }}
			from := storage(t, o)
			to := storage(t, Options{URL: folder(t, c.to, c.tos)})
			backendstest.Put(t, from, "f", data)
			copy := func() error {
				_, err := from.CopyTo(t.Context(), "f", to, "g", int64(len(data)), adler(data), func(int64) { t.Error("something arrived") })
				return err
			}
			check := func() {
				t.Helper()
				err := copy()
				wantErr(t, "copy", err, backends.ErrNotSupported)
				if backends.IsTemporary(err) || errors.Is(err, backends.ErrUnavailable) {
					t.Errorf("copy: %v is not for trying again", err)
				}
				nothingLeft(t, c.to, to)
			}
			check()
			c.from.Stop()
			now = now.Add(copyAgain - time.Second)
			check()
			now = now.Add(2 * time.Second)
			isDown(t, "copy after ten minutes", copy())
			c.from.Start()
			check()
		})
	}
}

// A server that cannot log in to the other one copies nothing, and the bytes have to be carried.
func TestCopyNotLetIn(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		a := servertest.XRootD(t, servertest.XRootDOptions{ThirdParty: true, PKI: pki, Login: []string{"sss"}, Authorize: true})
		b := servertest.XRootD(t, servertest.XRootDOptions{ThirdParty: true, PKI: pki})
		environment(t, "XrdSecSSSKT="+a.Keytab, "X509_CERT_DIR="+pki.Certificates)
		from, to := storage(t, Options{URL: folder(t, a, a.Root)}), storage(t, Options{URL: folder(t, b, b.Root)})
		backendstest.Put(t, from, "f", []byte("x"))
		_, err := from.CopyTo(t.Context(), "f", to, "g", 1, adler([]byte("x")), nil)
		wantErr(t, "copy", err, backends.ErrNotSupported)
		nothingLeft(t, b, to)
	})
}

// With a proxy that is handed over the server fetches what we may read, also from one that knows nothing of such copies.
func TestCopyWithProxy(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		environment(t, "X509_CERT_DIR="+pki.Certificates)
		t.Setenv("XrdSecGSIDELEGPROXY", "1")
		a := servertest.XRootD(t, servertest.XRootDOptions{HandedOver: true, PKI: pki, Login: []string{"gsi"}, Authorize: true})
		b := servertest.XRootD(t, servertest.XRootDOptions{ThirdParty: true, PKI: pki, Login: []string{"gsi"}, Authorize: true})
		proxy := pki.Proxy(t, time.Hour)
		data := backendstest.Bytes(2, 3<<20)
		for name, bases := range map[string][2]string{"in clear": {a.Root, b.Root}, "TLS": {a.Roots, b.Roots}} {
			from := storage(t, Options{URL: folder(t, a, bases[0]), Credentials: as(proxy)})
			to := storage(t, Options{URL: folder(t, b, bases[1]), Credentials: as(proxy)})
			backendstest.Put(t, from, "f", data)
			if got, err := from.CopyTo(t.Context(), "f", to, "d/g", int64(len(data)), adler(data), nil); err != nil || got != adler(data) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			holds(t, b, to, "d/g", data)
			nothingLeft(t, b, to)
		}
	})
}

// Who gives up ends the copy at the server, which leaves nothing.
func TestCopyCancelled(t *testing.T) {
	p := newPair(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	data, end := p.slowly(t, ctx, "f")
	p.w.pace.Store(1 << 10) // it would take all day
	cancel()
	wantErr(t, "copy", within(t, 20*time.Second, end), context.Canceled)
	nothingLeft(t, p.b, p.to)
	eventually(t, "the end of what fetched", func() bool { return p.w.open.Load() == 1 })
	if _, err := p.to.Stat(t.Context(), "d/f"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
	p.w.pace.Store(0)
	if _, err := p.from.CopyTo(t.Context(), "f", p.to, "d/f", int64(len(data)), adler(data), nil); err != nil {
		t.Errorf("copy afterwards: %v", err)
	}
	holds(t, p.b, p.to, "d/f", data)
}

// A copy whose source is lost in its middle fails before long, leaves nothing, and can be made when the source is back.
func TestCopySourceLost(t *testing.T) {
	for name, lose := range map[string]func(*servertest.Server){"killed": (*servertest.Server).Kill, "silent": (*servertest.Server).Pause} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Options{Timeout: 6 * time.Second})
			data, end := p.slowly(t, t.Context(), "f")
			lose(p.a)
			isDown(t, "copy", within(t, 40*time.Second, end))
			nothingLeft(t, p.b, p.to)
			p.w.pace.Store(0)
			if name == "killed" {
				p.a.Start()
			} else {
				p.a.Resume()
			}
			eventually(t, "a copy when it is back", func() bool {
				_, err := p.from.CopyTo(t.Context(), "f", p.to, "d/f", int64(len(data)), adler(data), nil)
				return err == nil
			})
			holds(t, p.b, p.to, "d/f", data)
			nothingLeft(t, p.b, p.to)
		})
	}
}

// A copy whose receiving server is lost in its middle fails before long and is not there; what is left of it goes after a day.
func TestCopyTargetLost(t *testing.T) {
	p := newPair(t, Options{Timeout: 6 * time.Second})
	data, end := p.slowly(t, t.Context(), "f")
	p.b.Kill()
	isDown(t, "copy", within(t, 40*time.Second, end))
	p.w.pace.Store(0)
	p.b.Start()
	if _, err := p.to.Stat(t.Context(), "d/f"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
	if found, err := os.ReadDir(filepath.Dir(p.b.Path(p.to.remote("d/f")))); len(found) > 0 || err != nil {
		t.Errorf("it left %v, %v", found, err)
	}
	if _, err := p.from.CopyTo(t.Context(), "f", p.to, "d/f", int64(len(data)), adler(data), nil); err != nil {
		t.Errorf("copy when it is back: %v", err)
	}
	holds(t, p.b, p.to, "d/f", data)
}

// A source that is replaced in the middle of its copy gives no mixture.
func TestCopyDamaged(t *testing.T) {
	p := newPair(t, Options{})
	data, end := p.slowly(t, t.Context(), "f")
	file, err := os.OpenFile(p.a.Path(p.from.remote("f")), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(backendstest.Bytes(9, 1000), int64(len(data)-1000)); err != nil {
		t.Fatal(err)
	}
	file.Close()
	p.w.pace.Store(0)
	wantErr(t, "copy", within(t, 40*time.Second, end), backends.ErrCorrupt)
	nothingLeft(t, p.b, p.to)
	if _, err := p.to.Stat(t.Context(), "d/f"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
}

func TestURLsOfServers(t *testing.T) {
	for u, want := range map[string][2]string{
		"root://a.b:1094//data/f?x=1": {"a.b:1094", "/data/f"},
		"roots://u@a.b:1//data/a b":   {"a.b:1", "/data/a b"},
		"root://[::1]:1094//f":        {"[::1]:1094", "/f"},
		"root://a:1/f?a=/b":           {"a:1", "/f"},
		"":                            {"", "/"},
		"nonsense":                    {"", "/"},
	} {
		if got := [2]string{hostOf(u), pathOf(u)}; got != want {
			t.Errorf("%q is %q, want %q", u, got, want)
		}
	}
	if got := foreign("xrd.gsiusrpxy=/p&cap.sym=a&tpc.stage=placement&&cap.msg=b&xrdcl.x=1"); got != "cap.sym=a&cap.msg=b" {
		t.Errorf("of redirectors: %q", got)
	}
}
