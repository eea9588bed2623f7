package gridftp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// fake is an FTP server that says what a test wants. Answers are by the first word of a command; those that begin with
// a transfer ("150 ") open the data connection, send what follows the line, and end with 226.
type fake struct {
	l       net.Listener
	answers map[string]string
	data    func(cmd string, c net.Conn)
}

func fakeServer(t *testing.T, answers map[string]string, data func(cmd string, c net.Conn)) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{l: l, answers: answers, data: data}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close() })
	return "ftp://" + l.Addr().String() + "/d"
}

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	say := func(s string) { fmt.Fprint(c, s+"\r\n") }
	normal := map[string]string{
		"USER": "230 in", "FEAT": "211-x\r\n MLST Type*\r\n ERET\r\n211 End", "TYPE": "200 ok", "MODE": "200 ok",
		"MLST": "250-x\r\n Type=file;Size=100000;Modify=20260101000000; /d/f\r\n250 End", "ERET": "150 go", "STOR": "150 go", "MLSD": "150 go",
		"MKD": "257 made", "SITE": "500 no",
	}
	greeting, ok := f.answers["greeting"]
	if !ok {
		greeting = "220 hello"
	}
	say(greeting)
	var dl net.Listener
	in := bufio.NewScanner(c)
	for in.Scan() {
		word, _, _ := strings.Cut(in.Text(), " ")
		a, ok := f.answers[word]
		if !ok {
			a, ok = normal[word]
		}
		if in.Text() == "MLST /d" && f.answers["MLST"] == "" {
			a = "250-x\r\n Type=dir; /d\r\n250 End"
		}
		switch {
		case word == "PASV" && !ok:
			dl, _ = net.Listen("tcp4", "127.0.0.1:0")
			p := dl.Addr().(*net.TCPAddr).Port
			say(fmt.Sprintf("227 (127,0,0,1,%d,%d)", p>>8, p&255))
		case !ok:
			say("502 no")
		case a == "silence":
		case a == "endless":
			say("211-x")
			for {
				if _, err := c.Write([]byte(strings.Repeat("x", 1000) + "\r\n")); err != nil {
					return
				}
			}
		default:
			say(a)
		}
		if dl != nil && strings.HasPrefix(a, "150") {
			d, err := dl.Accept()
			dl.Close()
			dl = nil
			if err != nil {
				return
			}
			d.SetDeadline(time.Now().Add(20 * time.Second))
			f.data(in.Text(), d)
			d.Close()
			end, ok := f.answers["end"]
			if !ok {
				end = "226 done"
			}
			say(end)
		}
	}
}

func TestServersThatLie(t *testing.T) {
	bytesOf := func(n int) func(string, net.Conn) {
		return func(_ string, c net.Conn) { c.Write(make([]byte, n)) }
	}
	for name, c := range map[string]struct {
		answers map[string]string
		data    func(string, net.Conn)
		ok      bool
		list    bool
		words   []any
	}{
		"an honest one":                 {data: bytesOf(100000), ok: true},
		"no FTP at all":                 {answers: map[string]string{"greeting": "SSH-2.0-OpenSSH_9.2"}, words: []any{backends.ErrUnavailable, "does not speak FTP"}},
		"full house":                    {answers: map[string]string{"greeting": "421 too many"}, words: []any{backends.ErrUnavailable, backends.ErrTemporary, "too many"}},
		"negative size":                 {answers: map[string]string{"MLST": "250-x\r\n Type=file;Size=-5; /d/f\r\n250 End"}, words: []any{backends.ErrUnavailable, "its size is none"}},
		"endless answer":                {answers: map[string]string{"MLST": "endless"}, words: []any{backends.ErrUnavailable, "more than"}},
		"an address that is none":       {answers: map[string]string{"PASV": "227 (1,2,3)"}, data: bytesOf(0), words: []any{backends.ErrUnavailable, "no address"}},
		"a transfer that never begins":  {answers: map[string]string{"ERET": "silence"}, words: []any{backends.ErrUnavailable, backends.ErrTemporary}},
		"more bytes than asked for":     {data: func(_ string, c net.Conn) { bytesOf(100001)("", c); time.Sleep(50 * time.Millisecond) }, words: []any{backends.ErrUnavailable, "more bytes"}},
		"an endless body":               {data: func(_ string, c net.Conn) { endless(c) }, words: []any{backends.ErrUnavailable, "more bytes"}},
		"fewer bytes, and all is well":  {data: bytesOf(99999), words: []any{backends.ErrStale}},
		"fewer bytes, and it says so":   {data: bytesOf(99999), answers: map[string]string{"end": "426 broken"}, words: []any{backends.ErrUnavailable, backends.ErrTemporary, "426"}},
		"all bytes, and it was a fault": {data: bytesOf(100000), answers: map[string]string{"end": "451 disk error"}, words: []any{backends.ErrUnavailable, backends.ErrTemporary, "451"}},
		"silence in mid transfer":       {data: func(_ string, c net.Conn) { bytesOf(50000)("", c); time.Sleep(2 * time.Second) }, words: []any{backends.ErrUnavailable, backends.ErrTemporary}},
		"a folder of nonsense": {list: true, answers: map[string]string{"MLST": "250-x\r\n Type=dir; /d\r\n250 End"},
			data: func(_ string, c net.Conn) { fmt.Fprint(c, "drwxr-xr-x 2 root\r\n") }, words: []any{backends.ErrUnavailable}},
		"a folder that leads elsewhere": {list: true, ok: true, answers: map[string]string{"MLST": "250-x\r\n Type=dir; /d\r\n250 End"},
			data: func(_ string, c net.Conn) {
				fmt.Fprint(c, "Type=file;Size=1; ../x\r\nType=file;Size=1; /etc/x\r\nType=dir; ..\r\nType=file;Size=1; good\r\nType=file;Size=1; good\r\n")
			}},
		"an endless line in a folder": {list: true, answers: map[string]string{"MLST": "250-x\r\n Type=dir; /d\r\n250 End"},
			data: func(_ string, c net.Conn) { endless(c) }, words: []any{backends.ErrUnavailable, "a line of more"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(Options{URL: fakeServer(t, c.answers, c.data), Timeout: 500 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			start := time.Now()
			if c.list {
				var got []string
				for a, lerr := range s.List(t.Context(), "") {
					if err = lerr; err == nil {
						got = append(got, a.Path)
					}
				}
				if c.ok && strings.Join(got, ",") != "good" {
					t.Errorf("list: %q", got)
				}
			} else {
				var o backends.Object
				if o, err = s.Open(t.Context(), "f"); err == nil {
					_, err = o.ReadAt(t.Context(), make([]byte, o.Size()), 0)
					o.Close()
				}
			}
			if c.ok && err != nil {
				t.Error(err)
			}
			if !c.ok {
				want(t, "read", err, c.words...)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
	settled(t)
}

// TestUploadsToLiars: what the server computes of the file that it has got decides, before the file is moved to its place;
// one that computes nothing proves nothing.
func TestUploadsToLiars(t *testing.T) {
	data := make([]byte, 100000)
	h := checksum.New("adler32")
	h.Write(data)
	adler := h.Sum().Adler32
	for name, c := range map[string]struct {
		cksm  string
		proof string
		err   error
	}{
		"an honest one":     {"213 " + adler, adler, nil},
		"of other bytes":    {"213 00000001", "", backends.ErrCorrupt},
		"of no checksums":   {"502 no", "", nil},
		"nonsense":          {"213 hello", "", backends.ErrUnavailable},
		"that fails for it": {"451 disk error", "", backends.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string]string{"CKSM": c.cksm, "RNFR": "350 ok", "RNTO": "250 ok", "DELE": "250 ok"}
			if c.err != nil {
				answers["RNFR"] = "553 it is moved before it is verified"
			}
			s, err := Open(Options{URL: fakeServer(t, answers, func(cmd string, c net.Conn) {
				if strings.HasPrefix(cmd, "STOR") {
					io.Copy(io.Discard, c)
				}
			}), Timeout: 2 * time.Second, Streams: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			u, err := s.Create(t.Context(), "g/f", int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			if _, err := u.Write(data); err != nil {
				t.Fatal(err)
			}
			got, err := u.Commit(t.Context(), h.Sum())
			if !errors.Is(err, c.err) || got.Adler32 != c.proof || !got.IsZero() && got.Adler32 == "" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	settled(t)
}

func endless(c net.Conn) {
	b := make([]byte, 64<<10)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}
