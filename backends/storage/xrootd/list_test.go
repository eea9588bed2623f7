//go:build xrdcl && cgo

package xrootd

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
)

// fake is a server of few words: answer gives status and body for a request.
func fake(t *testing.T, answer func(request uint16, body string) (status uint16, out []byte)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	const login, protocol = 3007, 3006
	be := binary.BigEndian
	serve := func(c net.Conn) {
		defer c.Close()
		if _, err := io.CopyN(io.Discard, c, 20); err != nil {
			return
		}
		c.Write([]byte{7: 8, 10: 5, 15: 1}) // of protocol 5.0, a data server
		for {
			head := make([]byte, 24)
			if _, err := io.ReadFull(c, head); err != nil {
				return
			}
			body := make([]byte, be.Uint32(head[20:]))
			if _, err := io.ReadFull(c, body); err != nil {
				return
			}
			var status uint16
			var out []byte
			switch r := be.Uint16(head[2:]); r {
			case protocol:
				out = []byte{2: 5, 7: 1}
			case login:
				out = make([]byte, 16)
			default:
				status, out = answer(r, string(body))
			}
			c.Write(append(be.AppendUint32(be.AppendUint16(head[:2:2], status), uint32(len(out))), out...))
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return "root://" + l.Addr().String()
}

// An entry of which the server gives but the name is looked at: one that went meanwhile is left out, any other failure is
// that of the listing.
func TestListOfNames(t *testing.T) {
	const dirlist, stat, failed = 3004, 3017, 4003
	var errno atomic.Uint32
	errno.Store(xNotFound)
	url := fake(t, func(request uint16, body string) (uint16, []byte) {
		switch {
		case request == dirlist:
			return 0, []byte("f\ng\nh\x00")
		case request == stat && body == "/d/g":
			return failed, append(binary.BigEndian.AppendUint32(nil, errno.Load()), "no\x00"...)
		case request == stat && body == "/d":
			return 0, []byte("1 5 19 1700000000\x00")
		}
		return 0, []byte("2 5 16 1700000000\x00")
	})
	s := storage(t, Options{URL: url + "//d", Timeout: 5 * time.Second})
	list := func() (names []string, err error) {
		for a, e := range s.List(t.Context(), "") {
			if err = errors.Join(err, e); e == nil {
				names = append(names, a.Path)
			}
		}
		return names, err
	}
	if names, err := list(); err != nil || strings.Join(names, " ") != "f h" {
		t.Errorf("list with one that went: %q, %v", names, err)
	}
	errno.Store(xOverloaded)
	_, err := list()
	wantErr(t, "list with one that cannot be looked at", err, backends.ErrUnavailable)
}

func TestSpaceAnswers(t *testing.T) {
	for text, want := range map[string][2]int64{
		"oss.cgroup=public&oss.space=100&oss.free=40&oss.maxf=30&oss.used=60&oss.quota=-1\x00": {100, 40},
		"oss.space=100&oss.free=40&oss.used=60&oss.quota=70":                                   {70, 10},
		"oss.space=100&oss.free=40&oss.used=60&oss.quota=50":                                   {50, 0},
		"oss.space=10&oss.free=40":                                                             {10, 10},
		"oss.space=-1&oss.free=40":                                                             {0, 0},
		"oss.space=100":                                                                        {0, 0},
		"":                                                                                     {0, 0},
	} {
		if total, free, ok := parseSpace(text); total != want[0] || free != want[1] || ok != (want[0] > 0) {
			t.Errorf("%q: %d, %d, %v", text, total, free, ok)
		}
	}
}

func FuzzEntries(f *testing.F) {
	f.Add("51 4096 1700000000 a b\x00- - - c\x00")
	f.Fuzz(func(t *testing.T, text string) {
		es, err := parseEntries(text)
		for _, e := range es {
			if e.name == "" || strings.ContainsRune(e.name, 0) || e.size < 0 {
				t.Errorf("%+v", e)
			}
		}
		if err != nil && es != nil {
			t.Errorf("both entries and %v", err)
		}
	})
}
