// Package report shows what an ingest did on one page of HTML that needs nothing but
// itself: a table of tests, and for each test its throughput and its files per stage over
// time, how long files took, and what failed.
//
//	err := report.Write(w, report.Report{Title: "LAPALMA to PIC", Tests: tests})
package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

// Report is a page.
type Report struct {
	Title string
	About string    // a paragraph below the title; "" for none
	Facts []Fact    // machine, versions, and what else is to be known of the run
	Time  time.Time // of the run; zero: not said

	// Asked is the rate that tests are compared with, in bytes a second; 0: none. Where sizes
	// are scaled no comparison is made.
	Asked float64
	Tests []Test
}

// Fact is something known of a run.
type Fact struct{ Name, Value string }

// Test is one row of the table and one section of the page.
type Test struct {
	Name   string // "1", "2.1", or the name of an ingest
	Work   string // what was to be done
	Before string // what happened elsewhere; "" in all tests: the table has no such column

	Files   int64 // that were to be taken
	Bytes   int64 // of them
	Safe    int64 // files that fulfil all rules
	Deleted int64 // files that were deleted at the source
	Took    time.Duration
	Scaled  bool // sizes are smaller than they were when the rate was asked for

	Failed   string   // why the test failed; "": it passed
	Notes    []string // what else is to be said
	Sent     []Sent
	Stages   []Sample
	Times    []Distribution
	Failures []Failure
}

// Sent is how many bytes first copies have at a moment, since the test began.
type Sent struct {
	At    time.Duration
	Bytes int64
}

// Sample is how many files have come to each stage at a moment, since the test began.
type Sample struct {
	At    time.Duration
	Files [len(StageNames)]int64
}

// StageNames are the stages that Sample.Files counts.
var StageNames = [...]string{"found", "sealed", "transferred", "verified", "registered", "safe", "deleted"}

// Failure is a reason why something failed, and how often it did.
type Failure struct {
	Reason string
	Count  int64
}

//go:embed page.html
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"bytes": byteCount, "count": group, "took": took, "rate": rate, "files": fileRate, "asked": against, "time": moment,
	"throughput": throughputChart, "stages": stagesChart, "latency": latencyChart, "before": hasBefore, "lines": strings.TrimSpace,
}).Parse(page))

// Write writes the page. Whatever names and reasons hold, it stays text.
func Write(w io.Writer, r Report) error {
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, r)
	if err == nil {
		_, err = w.Write(bytes.ToValidUTF8(b.Bytes(), []byte("\uFFFD")))
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// hasBefore tells whether any test says what happened elsewhere.
func hasBefore(tests []Test) bool {
	for _, t := range tests {
		if t.Before != "" {
			return true
		}
	}
	return false
}

// Verdict is PASS or FAIL.
func (t Test) Verdict() string {
	if t.Failed != "" {
		return "FAIL"
	}
	return "PASS"
}

// BytesPerSecond is the rate of the whole test; 0 when it took no time.
func (t Test) BytesPerSecond() float64 {
	if t.Took <= 0 {
		return 0
	}
	return float64(t.Bytes) / t.Took.Seconds()
}

// FilesPerSecond is the rate of the whole test; 0 when it took no time.
func (t Test) FilesPerSecond() float64 {
	if t.Took <= 0 {
		return 0
	}
	return float64(t.Files) / t.Took.Seconds()
}

// Text is the table for a terminal.
func (r Report) Text() string {
	var b strings.Builder
	row := func(name, files, bytes, secs, rate, frate, asked, deleted, verdict, work string) {
		fmt.Fprintf(&b, "%-6s %9s %10s %9s %11s %9s %6s %9s %-5s %s\n", name, files, bytes, secs, rate, frate, asked, deleted, verdict, work)
	}
	row("test", "files", "bytes", "time", "rate", "files/s", "asked", "deleted", "", "work")
	for _, t := range r.Tests {
		row(t.Name, group(t.Files), byteCount(t.Bytes), took(t.Took), rate(t.BytesPerSecond()), fileRate(t.FilesPerSecond()),
			against(t, r.Asked), group(t.Deleted), t.Verdict(), t.Work)
		if t.Failed != "" {
			fmt.Fprintf(&b, "       why: %s\n", t.Failed)
		}
		for _, n := range t.Notes {
			fmt.Fprintf(&b, "       %s\n", n)
		}
	}
	return b.String()
}
