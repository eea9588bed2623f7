package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"iter"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tarn/backends/ingest"
)

// hostile is what a name of a file or the reason of a failure may hold.
const hostile = `<script>alert("x")</script>&'` + "\x00\x1b\xff\n</svg></title></style>"

// sampled is a test of n files over so many samples.
func sampled(name string, n int64, samples int) Test {
	t := Test{Name: name, Work: "LAPALMA to PIC", Files: n, Bytes: n * 1_500_000, Safe: n, Deleted: n, Took: 90 * time.Second}
	var times Times
	for i := range samples {
		s := Sample{At: time.Duration(i) * t.Took / time.Duration(samples-1)}
		for k := range s.Files {
			s.Files[k] = n * int64(i) / int64(samples-1)
		}
		t.Stages = append(t.Stages, s)
		t.Sent = append(t.Sent, Sent{At: s.At, Bytes: t.Bytes * int64(i) / int64(samples-1)})
		times.Add(time.Duration(i*i) * time.Millisecond)
	}
	t.Times = []Distribution{times.Distribution("found → verified")}
	return t
}

func render(t *testing.T, r Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var svgs = regexp.MustCompile(`(?s)<svg .*?</svg>`)

// wellFormed wants XML.
func wellFormed(t *testing.T, s string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(s)); ; {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, s)
		}
	}
}

func TestPageHasAllOfATest(t *testing.T) {
	page := render(t, Report{
		Title: "Long haul", Time: time.Date(2026, 11, 27, 17, 0, 0, 0, time.UTC), Asked: 463e6, Facts: []Fact{{"machine", "2 CPUs"}},
		Tests: []Test{
			{Name: "1", Work: "GridFTP", Before: "done", Files: 190, Bytes: 285e9, Took: 500 * time.Second, Deleted: 190, Failures: []Failure{{"connection refused", 12345}}},
			{Name: "4", Work: "small", Files: 32000, Bytes: 4.8e9, Took: time.Minute, Scaled: true, Failed: "3 files are not at CNAF"},
			sampled("3", 8000, 5000),
		},
	})
	for _, want := range []string{"<title>Long haul</title>", "2026-11-27 17:00 UTC", "2 CPUs", "463 MB/s", "what happened there", "32,000", "570 MB/s", ">1.23<", ">–<",
		"FAIL", "3 files are not at CNAF", "PASS", "12,345", "connection refused", "found → verified", "median"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	all := svgs.FindAllString(page, -1)
	if len(all) != 3 {
		t.Errorf("%d charts, want throughput, stages and a distribution", len(all))
	}
	for _, s := range all {
		wellFormed(t, s)
		if strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
			t.Errorf("a number is none: %s", s)
		}
	}
	if len(page) > 200_000 {
		t.Errorf("%d bytes for 5,000 samples", len(page))
	}
	for _, not := range []string{"<script", "http://", "https://", "@import", "url("} {
		if strings.Contains(strings.ReplaceAll(page, `xmlns="http://www.w3.org/2000/svg"`, ""), not) {
			t.Errorf("the page has %q: it is to need nothing but itself", not)
		}
	}
}

// Names and reasons come from files and servers of others.
func TestHostileNamesStayText(t *testing.T) {
	odd := sampled(hostile, 10, 10)
	odd.Work, odd.Before, odd.Failed, odd.Notes, odd.Failures = hostile, hostile, hostile, []string{hostile}, []Failure{{hostile, 1}}
	odd.Times[0].Name = hostile
	page := render(t, Report{Title: hostile, About: hostile, Facts: []Fact{{hostile, hostile}}, Tests: []Test{odd}})
	for _, not := range []string{"<script", `alert("x")`} {
		if strings.Contains(page, not) {
			t.Errorf("the page has %q", not)
		}
	}
	if !utf8.ValidString(page) {
		t.Error("the page is not UTF-8")
	}
	for _, tag := range []string{"</svg>", "</style>", "</title>"} {
		open := strings.ReplaceAll(tag, "/", "")
		if got, want := strings.Count(page, tag), strings.Count(page, open)+strings.Count(page, strings.TrimSuffix(open, ">")+" "); got != want {
			t.Errorf("%d %s for %d %s", got, tag, want, open)
		}
	}
	for _, s := range svgs.FindAllString(page, -1) {
		wellFormed(t, s)
	}
}

func TestNothingToShow(t *testing.T) {
	for name, r := range map[string]Report{
		"empty":      {},
		"no samples": {Tests: []Test{{Name: "1"}}},
		"one":        {Tests: []Test{{Name: "1", Sent: []Sent{{}}, Stages: []Sample{{}}, Times: []Distribution{distribute()}}}},
		"no time":    {Asked: 1, Tests: []Test{{Name: "1", Sent: []Sent{{0, 1}, {0, 2}}, Stages: []Sample{{}, {}}}}},
		"one value":  {Tests: []Test{{Name: "1", Times: []Distribution{distribute(0)}}}},
	} {
		page := render(t, r)
		if strings.Contains(page, "NaN") || strings.Contains(page, "Inf") || !strings.HasSuffix(page, "</html>\n") {
			t.Errorf("%s: %s", name, page)
		}
	}
}

func distribute(all ...time.Duration) Distribution {
	var t Times
	for _, d := range all {
		t.Add(d)
	}
	return t.Distribution("x")
}

func TestDistribution(t *testing.T) {
	var all []time.Duration
	for i := range 1000 {
		all = append(all, time.Duration(1000-i)*10*time.Millisecond)
	}
	d := distribute(all...)
	for _, q := range []struct {
		name      string
		got, want time.Duration
	}{{"median", d.Median, 5 * time.Second}, {"95 %", d.P95, 9500 * time.Millisecond}, {"99 %", d.P99, 9900 * time.Millisecond}} {
		if part := float64(q.got) / float64(q.want); part < 0.999 || part > 1.02 {
			t.Errorf("%s is %v, want %v", q.name, q.got, q.want)
		}
	}
	var n int64
	for i, b := range d.Buckets {
		n += b.Files
		if i > 0 && b.UpTo <= d.Buckets[i-1].UpTo {
			t.Errorf("bucket %d ends at %v, the one before at %v", i, b.UpTo, d.Buckets[i-1].UpTo)
		}
	}
	if n != 1000 || d.Buckets[len(d.Buckets)-1].UpTo < 10*time.Second || d.Buckets[len(d.Buckets)-1].UpTo > 13*time.Second {
		t.Errorf("%d files in %v", n, d.Buckets)
	}
	if wide := distribute(-time.Second, 0, 30*24*time.Hour); len(wide.Buckets) > 150 || wide.Files != 3 || wide.Buckets[0].Files != 2 {
		t.Errorf("%d buckets, %v", len(wide.Buckets), wide)
	}
	if one := distribute(7 * time.Second); one.Median != 7*time.Second || one.P99 != 7*time.Second {
		t.Errorf("of one value: %v", one)
	}
}

// The records of an ingest tell its course.
func TestOfAnIngest(t *testing.T) {
	began := time.Date(2026, 11, 27, 17, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	all := []ingest.Record{
		{Path: "a", Stage: ingest.Deleted, Size: 100, FoundAt: at(0), SealedAt: at(1), TransferredAt: at(2), VerifiedAt: at(3), RegisteredAt: at(4), SafeAt: at(5), DeletedAt: at(6)},
		{Path: "b", Stage: ingest.Safe, Size: 200, FoundAt: at(2), SealedAt: at(3), TransferredAt: at(8), VerifiedAt: at(9), RegisteredAt: at(9), SafeAt: at(10)},
		{Path: "c", Stage: ingest.Sealed, Size: 300, FoundAt: at(3), SealedAt: at(4), Error: "connection refused"},
	}
	files := func() iter.Seq2[ingest.Record, error] {
		return func(yield func(ingest.Record, error) bool) {
			for _, r := range all {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
	got, err := Of(ingest.Status{Definition: ingest.Definition{Name: "n", Dir: "/d", Target: "/t"}}, nil, files)
	if err != nil {
		t.Fatal(err)
	}
	if got.Files != 3 || got.Bytes != 600 || got.Safe != 2 || got.Deleted != 1 || got.Took != 10*time.Second {
		t.Errorf("%d files, %d bytes, %d safe, %d deleted, in %v", got.Files, got.Bytes, got.Safe, got.Deleted, got.Took)
	}
	if want := []Failure{{"connection refused", 1}}; !slices.Equal(got.Failures, want) {
		t.Errorf("failures %v", got.Failures)
	}
	for _, s := range got.Stages {
		var want [len(StageNames)]int64
		for _, r := range all {
			for k, when := range times(r) {
				if !when.IsZero() && when.Sub(began) <= s.At {
					want[k]++
				}
			}
		}
		if s.Files != want {
			t.Errorf("after %v: %v, want %v", s.At, s.Files, want)
		}
	}
	if n := len(got.Sent); n == 0 || got.Sent[n-1] != (Sent{10 * time.Second, 300}) {
		t.Errorf("sent %v", got.Sent)
	}
	if len(got.Times) != 3 || got.Times[1].Files != 2 || got.Times[1].P99 != 8*time.Second || got.Times[2].Files != 1 {
		t.Errorf("times %v", got.Times)
	}
	samples := []ingest.Sample{{Time: at(1), Bytes: 50}, {Time: at(3), Bytes: 150}}
	if got, err = Of(ingest.Status{}, samples, files); err != nil || len(got.Sent) != 2 || got.Sent[1] != (Sent{2 * time.Second, 100}) {
		t.Errorf("with samples: %v, %v", got.Sent, err)
	}
	broken := func() iter.Seq2[ingest.Record, error] {
		return func(yield func(ingest.Record, error) bool) { yield(ingest.Record{}, errors.New("damaged")) }
	}
	if _, err := Of(ingest.Status{}, nil, broken); err == nil {
		t.Error("records that cannot be read make a report")
	}
}

func TestTextTable(t *testing.T) {
	s := Report{Asked: 463e6, Tests: []Test{{Name: "1", Work: "GridFTP", Files: 190, Bytes: 285e9, Took: 500 * time.Second, Deleted: 189, Failed: "a file is left", Notes: []string{"noted"}}}}.Text()
	for _, want := range []string{"190", "285 GB", "8m20s", "570 MB/s", "1.23", "189", "FAIL", "a file is left", "noted"} {
		if !strings.Contains(s, want) {
			t.Errorf("the table has no %q:\n%s", want, s)
		}
	}
}
