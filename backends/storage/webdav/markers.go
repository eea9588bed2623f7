package webdav

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

// What a server says of a copy, in lines:
//
//	Perf Marker
//	Timestamp: 1795775284
//	Stripe Index: 0
//	Stripe Bytes Transferred: 238745
//	Total Stripe Count: 1
//	End
//
// every few seconds, and at last "success: ..." or "failure: ...". The status of the answer tells nothing: it came before
// the copy began.

var (
	// errFailed is a copy of which the server said so; others may yet be made.
	errFailed = fmt.Errorf("the server says that the copy has failed: %w", &backends.AnsweredError{Err: errTrouble})
	// errSilent is one of which it said nothing, or what is no marker: pages of servers that know no copies to others.
	errSilent = fmt.Errorf("the server did not say how the copy went: %w", &backends.AnsweredError{Err: errTrouble})
)

const (
	maxLine    = 64 << 10
	maxStripes = 1 << 10
	// stillFor is for how many times Options.Stall markers may tell of no more bytes: the receiving server may be computing
	// a checksum.
	stillFor = 5
)

// follow reads markers until the server says how the copy went. Bytes count for nothing that are no whole marker, and markers
// for a while only unless more bytes have arrived. Lines with one of the secrets in them are not shown.
func (c *copying) follow(at *Storage, f *wire.Flight, body io.Reader, secrets ...string) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 4<<10), maxLine)
	stripes, stripe, any := map[int64]int64{}, int64(0), false
	grew := time.Now()
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		key, value, _ := strings.Cut(line, ":")
		key, value = strings.ToLower(key), strings.TrimSpace(value)
		any = any || key == "perf marker" || key == "end"
		switch {
		case strings.HasPrefix(key, "success"):
			return nil
		case strings.HasPrefix(key, "fail"), strings.HasPrefix(key, "abort"):
			if why := tidy(value, secrets...); why != "" {
				return fmt.Errorf("%s: %w", why, errFailed)
			}
			return errFailed
		case key == "stripe index":
			stripe, _ = strconv.ParseInt(value, 10, 64)
		case key == "stripe bytes transferred":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 {
				stripes[stripe] = min(n, c.size)
			}
			if len(stripes) > maxStripes {
				return wrong("the server tells of more than %d stripes of one copy", maxStripes)
			}
		case key == "end":
			f.Progress()
			sum := int64(0)
			for _, n := range stripes {
				sum = min(sum+n, c.size)
			}
			if c.tell(sum) {
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
	case any:
		return fmt.Errorf("after %d of %d bytes: %w", c.told, c.size, errCut)
	}
	return errSilent
}

// errCut is a copy that the server stopped telling of.
var errCut = down("the server ended its answer without saying how the copy went")
