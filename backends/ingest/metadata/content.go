package metadata

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn/backends"
)

// maxUnpacked is how far into a .gz file is looked: what stands behind more than that is not found.
const maxUnpacked = 32 << 20

// fromContent reads what the first bytes of a file say it is. A file of another kind has no metadata, which is no error.
func (x *Extractor) fromContent(f io.ReaderAt, size int64) (backends.Meta, error) {
	if isHDF5(f, size) {
		return x.fromHDF5(f, size)
	}
	magic := make([]byte, 9)
	n, err := f.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	magic = magic[:n]
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(io.NewSectionReader(f, 0, size))
		if err != nil {
			return nil, err
		}
		limited := &io.LimitedReader{R: z, N: x.unpacked}
		m, err := x.fromFITS(stream{limited})
		if err != nil && limited.N <= 0 {
			err = fmt.Errorf("there is no end of the headers within the first %d bytes", x.unpacked)
		}
		return m, err
	case string(magic) == "SIMPLE  =": // a .fz file too: its compressed extensions are tables
		return x.fromFITS(&plain{f: f, size: size})
	}
	return nil, nil
}

// fromFITS reads the primary header and that of the first extension. The primary one wins.
func (x *Extractor) fromFITS(r blocks) (backends.Meta, error) {
	primary, err := readHeader(r, "SIMPLE")
	if errors.Is(err, errNotFITS) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && len(primary) == 0 {
		return nil, nil // something else, compressed
	}
	m, errs := x.fromCards(primary)
	if err == nil {
		var extension header
		if extension, err = next(r, primary); err == nil || len(extension) > 0 {
			more, moreErrs := x.fromCards(extension)
			for k, v := range more {
				if _, has := m[k]; !has {
					m[k] = v
				}
			}
			errs = append(errs, moreErrs...)
		}
	}
	return m, errors.Join(append(errs, err)...)
}

// next reads the header after the data of another; there need not be one.
func next(r blocks, h header) (header, error) {
	size, err := h.dataSize()
	if err != nil {
		return nil, err
	}
	if err := r.skip(size); err != nil {
		return nil, fmt.Errorf("the file ends within its data: %w", err)
	}
	extension, err := readHeader(r, "XTENSION")
	if errors.Is(err, io.EOF) || errors.Is(err, errNotFITS) { // the end, or special records: section 3.5
		return nil, nil
	}
	return extension, err
}

// fromCards takes the keywords that have a key.
func (x *Extractor) fromCards(h header) (backends.Meta, []error) {
	m := backends.Meta{}
	var errs []error
	for _, word := range slices.Sorted(maps.Keys(h)) {
		key, ok := x.rules.FITS[word]
		if !ok {
			continue
		}
		v, err := h.meta(word)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", word, err))
			continue
		}
		if v != nil {
			m[key] = v
		}
	}
	return m, errs
}

// meta gives the value of a keyword as Meta has it; that of a date is a time in UTC.
func (h header) meta(word string) (any, error) {
	s, ok := h[word].(string)
	if !ok {
		return scalar(h[word])
	}
	if word != "DATE" && !strings.HasPrefix(word, "DATE-") {
		return text(s)
	}
	day := s
	if !strings.Contains(s, "T") {
		// The companion of before the standard of 2000, which GADF still has: TIME-OBS, TIME-END.
		clock, _ := h["TIME"+strings.TrimPrefix(word, "DATE")].(string)
		if clock == "" {
			clock = "00:00:00"
		}
		s += "T" + clock
	}
	at, err := time.ParseInLocation("2006-01-02T15:04:05", strings.TrimSuffix(s, "Z"), time.UTC)
	if err != nil {
		return nil, fmt.Errorf("%q is no date", day)
	}
	system, _ := h["TIMESYS"].(string)
	if word == "DATE" { // section 4.4.2.1: always UTC
		system = "UTC"
	}
	utc, ok := toUTC(at, system)
	if !ok {
		return nil, fmt.Errorf("%q in the time system %q is not known in UTC", day, system)
	}
	return stamp(utc)
}

// leaps are the seconds of TAI before UTC, from a day on (IERS Bulletin C); earlier ones no telescope of ours has seen.
var leaps = []struct {
	from time.Time
	s    time.Duration
}{
	{time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC), 37},
	{time.Date(2015, 7, 1, 0, 0, 0, 0, time.UTC), 36},
	{time.Date(2012, 7, 1, 0, 0, 0, 0, time.UTC), 35},
	{time.Date(2009, 1, 1, 0, 0, 0, 0, time.UTC), 34},
	{time.Date(2006, 1, 1, 0, 0, 0, 0, time.UTC), 33},
	{time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), 32},
}

// toUTC turns a time of a time system (section 9.2.1) into one of UTC.
func toUTC(t time.Time, system string) (time.Time, bool) {
	switch strings.ToUpper(system) {
	case "", "UTC", "UT", "UT1", "GMT":
		return t, true
	case "TT", "TDT", "ET", "TDB": // TDB is never 2 ms from TT
		t = t.Add(-32184 * time.Millisecond)
	case "TAI", "IAT":
	case "GPS":
		t = t.Add(19 * time.Second)
	default:
		return t, false
	}
	for _, l := range leaps {
		if utc := t.Add(-l.s * time.Second); !utc.Before(l.from) {
			return utc, true
		}
	}
	return t, false
}

// isHDF5 tells whether a file is one of HDF5. A block of the user's own may stand before its begin (HDF5 File Format Specification, II.A: at
// 0, 512, 1024 and so on).
func isHDF5(f io.ReaderAt, size int64) bool {
	const signature = "\x89HDF\r\n\x1a\n"
	b := make([]byte, len(signature))
	for at := int64(0); at+int64(len(b)) <= size && at <= 1<<20; at = max(512, 2*at) {
		if _, err := f.ReadAt(b, at); err != nil {
			return false
		}
		if string(b) == signature {
			return true
		}
	}
	return false
}

// fromHDF5 asks the hook, if there is one.
func (x *Extractor) fromHDF5(f io.ReaderAt, size int64) (backends.Meta, error) {
	if x.hdf5 == nil {
		return nil, nil
	}
	attributes, err := x.hdf5(f, size, slices.Sorted(maps.Keys(x.rules.HDF5)))
	m := backends.Meta{}
	errs := []error{err}
	for attribute, v := range attributes {
		key, ok := x.rules.HDF5[attribute]
		if !ok {
			continue
		}
		if m[key], err = scalar(v); err != nil {
			delete(m, key)
			errs = append(errs, fmt.Errorf("%s: %w", attribute, err))
		}
	}
	return m, errors.Join(errs...)
}
