package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/cmd/tarn/control"
)

func TestHuman(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 10: "10 KiB", 1023 << 10: "1023 KiB", 1<<20 - 1: "1.0 MiB",
		5 << 19: "2.5 MiB", 3 << 40: "3.0 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := human(n); got != want {
			t.Errorf("human(%d) is %q, want %q", n, got, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0 s", 0: "0 ms", 230 * time.Millisecond: "230 ms", 4200 * time.Millisecond: "4.2 s", 42 * time.Second: "42 s",
		200 * time.Second: "3 min 20 s", 2 * time.Hour: "2 h", 312 * time.Minute: "5 h 12 min", 76 * time.Hour: "3 d 4 h",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) is %q, want %q", d, got, want)
		}
	}
	if got := count(1, "entry") + ", " + count(2, "entry") + ", " + count(0, "file"); got != "1 entry, 2 entries, 0 files" {
		t.Errorf("count gives %s", got)
	}
}

func TestListingAlignsColumns(t *testing.T) {
	var out bytes.Buffer
	tm := testTerminal()
	tm.out = &out
	l := tm.list("name", ">size", "")
	for _, r := range [][]string{{"a", "1", "x"}, {"läng", "1000", ""}} {
		if err := l.add(nil, r...); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	if want := "name  size\na        1  x\nläng  1000\n"; out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// A listing holds back a bounded number of rows, however long it is.
func TestListingIsBounded(t *testing.T) {
	tm := testTerminal()
	l := tm.list("a")
	for range 10 * tableRows {
		if err := l.add(nil, "x"); err != nil {
			t.Fatal(err)
		}
		if len(l.rows) > tableRows {
			t.Fatalf("%d rows are held", len(l.rows))
		}
	}
}

func TestMeter(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	m := &meter{w: &out, width: 80, now: func() time.Time { return now }, started: now, shown: now}
	for i := range 100 {
		now = now.Add(100 * time.Millisecond)
		m.show(control.Progress{What: "staged", Files: int64(i), TotalFiles: 100, Bytes: int64(i) << 20, TotalBytes: 100 << 20})
	}
	m.end()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 5 { // 10 s, one every 2 s
		t.Errorf("%d lines in 10 s:\n%s", len(lines), out.String())
	}
	if want := "staged  59 %, 59 of 100 files, 59 MiB of 100 MiB, 9.8 MiB/s, about 4.2 s left"; len(lines) > 2 && lines[2] != want {
		t.Errorf("line is %q, want %q", lines[2], want)
	}

	out.Reset()
	bar := &meter{w: &out, bar: true, width: 60, now: func() time.Time { return now }, started: now, shown: now}
	for range 3 {
		now = now.Add(time.Second)
		bar.show(control.Progress{What: "copied", Bytes: 50, TotalBytes: 100, Note: strings.Repeat("long ", 30)})
	}
	bar.end()
	for _, line := range strings.Split(out.String(), "\r\x1b[K") {
		if n := len([]rune(line)); n > 59 {
			t.Errorf("a bar of %d characters on a terminal of 60", n)
		}
	}
	if !strings.HasSuffix(out.String(), "\r\x1b[K") || !strings.Contains(out.String(), "[############------------]") {
		t.Errorf("bar is %q", out.String())
	}

	out.Reset()
	quiet := &meter{w: &out, off: true, now: func() time.Time { return now }}
	now = now.Add(time.Hour)
	quiet.show(control.Progress{What: "x", Files: 3})
	if out.Len() > 0 {
		t.Errorf("with -q it says %q", out.String())
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	if code := report(&out, nil, false); code != 0 || out.Len() > 0 {
		t.Errorf("no error is code %d and %q", code, out.String())
	}
	err := control.Fail(backends.ErrNotExist, "look elsewhere", "there is no x")
	if code := report(&out, err, false); code != control.CodeNoFile || out.String() != "tarn: there is no x\n      look elsewhere\n" {
		t.Errorf("code %d, %q", code, out.String())
	}
	out.Reset()
	if code := report(&out, err, true); code != control.CodeNoFile || out.String() != `{"error":{"code":4,"kind":"not_found","message":"there is no x","hint":"look elsewhere"}}`+"\n" {
		t.Errorf("code %d, %q", code, out.String())
	}
	out.Reset()
	if code := report(&out, accepted{}, false); code != control.CodeStaging || out.Len() > 0 {
		t.Errorf("accepted is code %d and %q", code, out.String())
	}
	if code := report(&out, errors.New("x"), false); code != control.CodeOther {
		t.Errorf("an unknown error is code %d", code)
	}
}
