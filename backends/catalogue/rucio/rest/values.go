package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// decode reads JSON as Rucio writes it: with Infinity and NaN, which are not JSON, as null.
func decode(b []byte, out any) error {
	d := json.NewDecoder(bytes.NewReader(plain(b)))
	d.UseNumber()
	if err := d.Decode(out); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}

// plain puts null in the place of Infinity, -Infinity and NaN outside of strings.
func plain(b []byte) []byte {
	if !bytes.Contains(b, []byte("Infinity")) && !bytes.Contains(b, []byte("NaN")) {
		return b
	}
	out := make([]byte, 0, len(b))
	inString := false
	for i := 0; i < len(b); i++ {
		switch ch := b[i]; {
		case inString && ch == '\\' && i+1 < len(b):
			out = append(out, ch, b[i+1])
			i++
			continue
		case ch == '"':
			inString = !inString
		case !inString:
			found := false
			for _, w := range []string{"-Infinity", "Infinity", "NaN"} {
				if bytes.HasPrefix(b[i:], []byte(w)) {
					out = append(out, "null"...)
					i += len(w) - 1
					found = true
					break
				}
			}
			if found {
				continue
			}
		}
		out = append(out, b[i])
	}
	return out
}

// Int is a number of bytes or files: Rucio writes an integer, a float where it is a sum on PostgreSQL, or null, which is
// Unknown here (a dataset that is open, a quota without limit).
type Int int64

// Unknown is an Int that the server does not know, or that has no bound.
const Unknown Int = -1

// UnmarshalJSON reads an integer, a float, a string of digits, or null.
func (n *Int) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" || s == "" || s == "None" {
		*n = Unknown
		return nil
	}
	if v, err := strconv.ParseInt(s, 10, 64); err == nil {
		*n = Int(v)
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("number %q", s)
	}
	if math.IsInf(f, 0) || math.IsNaN(f) || f >= math.MaxInt64 || f <= math.MinInt64 {
		*n = Unknown
		return nil
	}
	*n = Int(f)
	return nil
}

// Time is a time of Rucio's: RFC 1123 with the word UTC, or ISO without a zone, which is UTC too; null is zero.
type Time struct{ time.Time }

var layouts = []string{time.RFC1123, "2006-01-02T15:04:05", "2006-01-02T15:04:05.999999", "2006-01-02 15:04:05", time.RFC3339Nano}

// UnmarshalJSON reads any of the formats. One that is none of them is zero: a date that cannot be read must not hide a file.
func (t *Time) UnmarshalJSON(b []byte) error {
	t.Time = ParseTime(strings.Trim(string(b), `"`))
	return nil
}

// ParseTime reads a time of Rucio's; zero if it is none.
func ParseTime(s string) time.Time {
	for _, l := range layouts {
		if v, err := time.Parse(l, s); err == nil {
			return v.UTC()
		}
	}
	return time.Time{}
}
