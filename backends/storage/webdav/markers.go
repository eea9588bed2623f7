package webdav

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/storage/marker"
	"tarn/backends/storage/wire"
)

// What a server says of a copy, in lines: a performance marker every few seconds, and at last "success: ..." or "failure: ...".
// The status of the answer tells nothing: it came before the copy began.

var (
	// errFailed is a copy of which the server said so; others may yet be made.
	errFailed = fmt.Errorf("the server says that the copy has failed: %w", &backends.AnsweredError{Err: errTrouble})
	// errSilent is one of which it said nothing, or what is no marker: pages of servers that know no copies to others.
	errSilent = fmt.Errorf("the server did not say how the copy went: %w", &backends.AnsweredError{Err: errTrouble})
)

const (
	maxLine = 64 << 10
	// stillFor is for how many times Options.Stall markers may tell of no more bytes: the receiving server may be computing
	// a checksum.
	stillFor = 5
)

// follow reads markers until the server says how the copy went. Bytes count for nothing that are no whole marker, and markers
// for a while only unless more bytes have arrived. Lines with one of the secrets in them are not shown.
func (c *copying) follow(at *Storage, f *wire.Flight, body io.Reader, secrets ...string) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 4<<10), maxLine)
	var stripes marker.Stripes
	grew := time.Now()
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		key, value, _ := strings.Cut(line, ":")
		key = strings.ToLower(key)
		switch {
		case strings.HasPrefix(key, "success"):
			return nil
		case strings.HasPrefix(key, "fail"), strings.HasPrefix(key, "abort"):
			if why := tidy(strings.TrimSpace(value), secrets...); why != "" {
				return fmt.Errorf("%s: %w", why, errFailed)
			}
			return errFailed
		case stripes.Line(line):
			f.Progress()
			if c.tell(stripes.Arrived()) {
				grew = time.Now()
			} else if time.Since(grew) > stillFor*at.o.Stall {
				return down("the server says that it copies, but for %v no more bytes have arrived", stillFor*at.o.Stall)
			}
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return wrong("the server told of a copy in a line of more than %d bytes", maxLine)
	case err != nil:
		return fmt.Errorf("the copy was not followed to its end: %w", at.broken(f, err))
	case stripes.Any():
		return fmt.Errorf("after %d of %d bytes: %w", c.told, c.size, errCut)
	}
	return errSilent
}

// errCut is a copy that the server stopped telling of.
var errCut = down("the server ended its answer without saying how the copy went")
