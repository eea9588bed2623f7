package gridftp

import (
	"bufio"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tarn/backends"
)

func TestReplies(t *testing.T) {
	for _, c := range []struct {
		in    string
		code  int
		lines []string
		ok    bool
	}{
		{"220 ready\r\n", 220, []string{"ready"}, true},
		{"226\r\n", 226, []string{""}, true},
		{"211-Extensions\r\n SIZE\r\n211 End.\r\n", 211, []string{"Extensions", " SIZE", "End."}, true},
		{"550-GlobusError: v=1\r\n550-GridFTP-Errno: 2\r\n550 End.\r\n", 550, []string{"GlobusError: v=1", "GridFTP-Errno: 2", "End."}, true},
		{"211-a\r\n212 not the end\r\n211 b\r\n", 211, []string{"a", "212 not the end", "b"}, true},
		{"220 lf only\n", 220, []string{"lf only"}, true},
		{"hello\r\n", 0, nil, false},
		{"20x no\r\n", 0, nil, false},
		{"720 no\r\n", 0, nil, false},
		{"220-never ends\r\n", 0, nil, false},
		{"220 no line end", 0, nil, false},
		{"220 " + strings.Repeat("x", maxLine) + "\r\n", 0, nil, false},
		{"220-" + strings.Repeat("x\r\n", maxReply) + "220 .\r\n", 0, nil, false},
	} {
		r, err := readReply(bufio.NewReaderSize(strings.NewReader(c.in), 16))
		if (err == nil) != c.ok || c.ok && (r.code != c.code || strings.Join(r.lines, "|") != strings.Join(c.lines, "|")) {
			t.Errorf("%.40q: %v, %v", c.in, r, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"Entering Passive Mode (127,0,0,1,228,95)": "127.0.0.1:58463",
		"Entering Passive Mode 10,1,2,3,0,21":      "10.1.2.3:21",
		"(1,2,3,4,5)":                              "",
		"(1,2,3,4,256,1)":                          "",
		"(1,2,3,4,0,0)":                            "",
		"no address":                               "",
	} {
		a, err := parsePASV(in)
		if (want == "") != (err != nil) || err == nil && a.String() != want {
			t.Errorf("%q: %v, %v", in, a, err)
		}
	}
	for in, want := range map[string]uint16{"Entering (|||52917|)": 52917, "(!!!1!)": 1, "(|||0|)": 0, "(|||99999|)": 0, "()": 0, "(||||)": 0} {
		if got, err := parseEPSV(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	// A server cannot lead us into our own network, but its pools may be elsewhere in its own.
	for _, c := range [][3]string{
		{"127.0.0.1:80", "8.8.8.8", "8.8.8.8:80"}, {"10.0.0.1:80", "8.8.8.8", "8.8.8.8:80"}, {"0.0.0.0:80", "8.8.8.8", "8.8.8.8:80"},
		{"9.9.9.9:80", "8.8.8.8", "9.9.9.9:80"}, {"10.0.0.2:80", "10.0.0.1", "10.0.0.2:80"}, {"127.0.0.1:80", "10.0.0.1", "10.0.0.1:80"},
		{"127.0.0.1:80", "127.0.0.1", "127.0.0.1:80"},
	} {
		if got := reachable(netip.MustParseAddrPort(c[0]), netip.MustParseAddr(c[1])); got.String() != c[2] {
			t.Errorf("%s from %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

func TestFacts(t *testing.T) {
	f, err := parseFacts("Type=file;Modify=20261126154409;Size=20000000;Perm=awr;UNIX.mode=0644;Unique=fe00-9d04e8; a;b; c ")
	if err != nil || f.name != "a;b; c " || f.size != 20000000 || f.kind != "file" || f.unique != "fe00-9d04e8" || !f.mtime.Equal(time.Date(2026, 11, 26, 15, 44, 9, 0, time.UTC)) {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err = parseFacts("type=DIR;modify=20261126154409.123; d"); err != nil || !f.isDir() || f.size != 0 {
		t.Errorf("%+v, %v", f, err)
	}
	for _, in := range []string{
		"", "x", "Type=file;Size=-5; negative", "Type=file;Size=99999999999999999999; huge", "Type=file; no size", "Size=5; no type",
		"Type=file;Size=5;Modify=yesterday; x", "Type=file;Size=5;", "Type=file;Size=5 x",
	} {
		if f, err := parseFacts(in); err == nil {
			t.Errorf("%q: %+v", in, f)
		}
	}
	// A name with a line feed makes no entry of its own.
	list, err := readEntries(strings.NewReader("Type=cdir; .\r\nType=file;Size=1; new\nType=file;Size=9; line\r\nType=dir; d\r\n"))
	if err != nil || len(list) != 2 || list[0].name != "new\nType=file;Size=9; line" || list[1].name != "d" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := readEntries(strings.NewReader(strings.Repeat("x", 2*maxLine))); !errors.Is(err, errProtocol) {
		t.Errorf("endless line: %v", err)
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]error{
		"550-GlobusError: v=1 c=PATH_NOT_FOUND\r\n550 End.\r\n":                                                         backends.ErrNotExist,
		"500-GridFTP-Errno: 39\r\n500 End.\r\n":                                                                         backends.ErrNotEmpty,
		"500-Command failed. : x\r\n500-globus_xio: A system call failed: No space left on device\r\n500 End.\r\n":      backends.ErrNoSpace,
		"500-Command failed. : x\r\n500-globus_xio: System error in open: Permission denied\r\n500 End.\r\n":            backends.ErrPermission,
		"500-Command failed. : x\r\n500-globus_xio: An end of file occurred\r\n500 End.\r\n":                            backends.ErrUnavailable,
		"500 Command not supported.\r\n":                                                                                backends.ErrNotSupported,
		"530-Login incorrect. : globus_gss_assist: Gridmap lookup failure: Could not map /DC=x\r\n530-\r\n530 End.\r\n": backends.ErrPermission,
		"552 Exceeded\r\n": backends.ErrNoSpace, "550 /x: No such file or directory.\r\n": backends.ErrNotExist, "421 bye\r\n": backends.ErrUnavailable,
	} {
		r, err := readReply(bufio.NewReader(strings.NewReader(in)))
		if err != nil || !errors.Is(refused(r), want) {
			t.Errorf("%q: %v, want %v", in, refused(r), want)
		}
	}
	for code, one := range map[int]bool{421: false, 425: false, 426: true, 451: true} {
		err := refused(reply{code: code, lines: []string{"x"}})
		if !backends.IsTemporary(err) || backends.IsAnswered(err) != one {
			t.Errorf("%d: %v, with one file alone: %v", code, err, backends.IsAnswered(err))
		}
	}
	if total, free, ok := parseUsage("USAGE 1 FREE 20 TOTAL 30"); !ok || total != 30 || free != 20 {
		t.Errorf("usage: %d %d %v", total, free, ok)
	}
	if _, _, ok := parseUsage("FREE -5 TOTAL 30"); ok {
		t.Error("negative free space was taken")
	}
}

func TestURLs(t *testing.T) {
	for in, want := range map[string]endpoint{
		"gsiftp://h/a/../b":    {gsi: true, host: "h", addr: "h:2811", prefix: "/b"},
		"gsiftp://[::1]:1/":    {gsi: true, host: "::1", addr: "[::1]:1", prefix: "/"},
		"ftp://u@h:2100/a%20b": {host: "h", addr: "h:2100", prefix: "/a b", user: "u"},
	} {
		if got, err := parseURL(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "http://h/x", "gsiftp:///x", "ftp://u:secret@h/x", "gsiftp://u@h/", "ftp://h/x?y", "ftp://h/a%0d%0aDELE%20b", "ftp://h:x/"} {
		_, err := parseURL(in)
		if !errors.Is(err, backends.ErrName) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{"220 x\r\n", "211-a\r\n b\r\n211 c\r\n", "227 (1,2,3,4,5,6)\r\n", "229 (|||5|)\r\n", "250-s\r\n Type=file;Size=1; x\r\n250 End.\r\n", "226\r\n", "55"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		in = in[:min(len(in), 4<<10)]
		b := bufio.NewReaderSize(strings.NewReader(in), 16)
		for {
			r, err := readReply(b)
			if err != nil {
				return
			}
			if r.code < 100 || r.code > 699 || len(r.lines) == 0 {
				t.Fatalf("%q gave %+v", in, r)
			}
			_, _ = r.String(), refused(r).Error()
			parseFeatures(r)
			parseMLST(r)
			if a, err := parsePASV(strings.Join(r.lines, " ")); err == nil && (!a.IsValid() || a.Port() == 0) {
				t.Fatalf("%q gave %v", in, a)
			}
			if p, err := parseEPSV(r.last()); err == nil && p == 0 {
				t.Fatalf("%q gave port 0", in)
			}
		}
	})
}

func FuzzFacts(f *testing.F) {
	for _, s := range []string{"Type=file;Size=1; x", "Type=dir; d", "; x", " x", "Type=file;Size=1;Modify=20261126154409; a;b; c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if e, err := parseFacts(in); err == nil && (e.name == "" || e.kind == "" || e.isDir() && e.size != 0 || e.kind == "file" && e.size < 0) {
			t.Fatalf("%q gave %+v", in, e)
		}
		if list, err := readEntries(strings.NewReader(in)); err == nil && len(list) > len(in) {
			t.Fatalf("%q gave %d entries", in, len(list))
		}
	})
}

func FuzzBlockHeader(f *testing.F) {
	f.Add(make([]byte, headerSize))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < headerSize {
			return
		}
		flags, count, off, err := header(in)
		if err != nil {
			return
		}
		var b [headerSize]byte
		if putHeader(b[:], flags, count, off); string(b[:]) != string(in[:headerSize]) {
			t.Fatalf("%x became %x", in, b)
		}
	})
}
