package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"tarn/cmd/tarn/control"
)

// bulk writes what a command did for many names: with --json DIRAC's form, one object {"Successful": {name: value},
// "Failed": {name: reason}} as it comes, of which only the failures are kept; else a line for each, and failures to
// stderr. The values of one name have to come one after the other.
type bulk struct {
	t    *terminal
	row  func(control.LFNResult) [][]string // for people; nil: nothing is said of what went well
	l    *listing
	w    *bufio.Writer
	done int64
	bad  []control.LFNResult

	// Contents of directories are several results of one name.
	nested bool
	name   control.Text
	open   bool // an object of name is being written
	files  int
	dirs   bytes.Buffer // its directories and links, as members of an object
	links  bytes.Buffer
}

func (t *terminal) bulk(row func(control.LFNResult) [][]string) *bulk {
	b := &bulk{t: t, row: row, l: t.list("", "", "", "", "")}
	b.w = b.l.w
	return b
}

// key is a name as a key of JSON. One that is no text is written as base64:...
func key(name control.Text) string {
	if !utf8.ValidString(string(name)) {
		name = "base64:" + control.Text(base64.StdEncoding.EncodeToString([]byte(name)))
	}
	return encoded(string(name))
}

func encoded(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "null"
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// add takes one result.
func (b *bulk) add(r control.LFNResult) error {
	if r.Error != nil {
		if b.bad = append(b.bad, r); len(b.bad) == 2 {
			b.tell(b.bad[0]) // it may have been the only name
		}
		if len(b.bad) > 1 {
			b.tell(r)
		}
		return nil
	}
	if !b.t.json {
		b.done++
		if b.row == nil {
			return nil
		}
		for _, row := range b.row(r) {
			if err := b.l.add(nil, row...); err != nil {
				return err
			}
		}
		return nil
	}
	if b.nested {
		return b.inside(r)
	}
	b.member(r.LFN)
	value := r.Value
	if value == nil {
		value = json.RawMessage("true")
	}
	_, err := b.w.Write(value)
	return err
}

// tell says why something was not done. With --json it stands in the object.
func (b *bulk) tell(r control.LFNResult) {
	if !b.t.json {
		fmt.Fprintf(b.t.err, "not done: %s: %s\n", r.LFN.Quote(), r.Error.Message)
	}
}

// member begins one of the successful.
func (b *bulk) member(name control.Text) {
	if b.done == 0 {
		b.w.WriteString(`{"Successful": {`)
	} else {
		b.w.WriteString(", ")
	}
	b.done++
	b.w.WriteString(key(name) + ": ")
}

// inside takes one entry of a directory.
func (b *bulk) inside(r control.LFNResult) error {
	if !b.open || b.name != r.LFN {
		b.shut()
		b.member(r.LFN)
		b.w.WriteString(`{"Files": {`)
		b.open, b.name, b.files = true, r.LFN, 0
	}
	switch r.Kind {
	case "": // it is empty
	case "file":
		if b.files++; b.files > 1 {
			b.w.WriteString(", ")
		}
		b.w.WriteString(key(r.Path) + ": " + string(r.Value))
	default:
		to := &b.dirs
		if r.Kind == "link" {
			to = &b.links
		}
		if to.Len() > 0 {
			to.WriteString(", ")
		}
		to.WriteString(key(r.Path) + ": " + string(r.Value))
	}
	return nil
}

// shut ends the object of a directory.
func (b *bulk) shut() {
	if b.open {
		fmt.Fprintf(b.w, `}, "SubDirs": {%s}, "Links": {%s}}`, b.dirs.Bytes(), b.links.Bytes())
		b.dirs.Reset()
		b.links.Reset()
		b.open = false
	}
}

// end writes what is left, and gives the error of the whole: that of the only one there was, or that some failed.
func (b *bulk) end(what string) error {
	if b.t.json {
		b.shut()
		if b.done == 0 {
			b.w.WriteString(`{"Successful": {`)
		}
		b.w.WriteString(`}, "Failed": {`)
		for i, r := range b.bad {
			if i > 0 {
				b.w.WriteString(", ")
			}
			b.w.WriteString(key(r.LFN) + ": " + encoded(r.Error.Message))
		}
		b.w.WriteString("}}\n")
	}
	if err := b.l.end(); err != nil {
		return err
	}
	switch n := len(b.bad); {
	case n == 1 && b.done == 0:
		return b.bad[0].Error
	case n == 1:
		b.tell(b.bad[0])
		fallthrough
	case n > 1:
		return errPartial(int64(n), what)
	}
	return nil
}

// lfnsAtOnce is how many names go into one request.
const lfnsAtOnce = 10_000

// maxLine bounds a name that is read from stdin.
const maxLine = 64 << 10

// askBulk asks an operation about the names of the command line, of which "-" stands for those on stdin, one a line. Relative paths
// of a mount count on the command line only.
func (s *session) askBulk(ctx context.Context, args []string, op string, req func([]control.Text) any, b *bulk, what string) (err error) {
	var paths []string
	stdin := false
	for _, a := range args {
		if a == "-" {
			stdin = true
		} else {
			paths = append(paths, a)
		}
	}
	c, paths, err := s.connect(ctx, paths...)
	if err != nil {
		return err
	}
	defer closeClient(c, &err)
	ask := func(lfns []control.Text) error {
		return control.Call(ctx, c, op, req(lfns), b.add, nil, nil)
	}
	for len(paths) > 0 {
		n := min(len(paths), lfnsAtOnce)
		if err := ask(texts(paths[:n])); err != nil {
			return err
		}
		paths = paths[n:]
	}
	if stdin {
		if err := linesOf(s.t.in, ask); err != nil {
			return err
		}
	}
	return b.end(what)
}

// linesOf calls f for the lines of r, many at a time; empty ones are left out.
func linesOf(r io.Reader, f func([]control.Text) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	var some []control.Text
	for sc.Scan() {
		if line := strings.TrimSuffix(sc.Text(), "\r"); line != "" {
			some = append(some, control.Text(line))
		}
		if len(some) == lfnsAtOnce {
			if err := f(some); err != nil {
				return err
			}
			some = some[:0]
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return usage(nil, "a line on stdin is longer than %d bytes", maxLine)
		}
		return fmt.Errorf("read names from stdin: %w", err)
	}
	if len(some) == 0 {
		return nil
	}
	return f(some)
}
