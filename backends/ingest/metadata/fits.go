package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// The layout of a FITS file: FITS standard 4.0, sections 3 and 4.
const (
	blockSize = 2880
	cardSize  = 80
	maxBlocks = 200 // of a header
	maxAxes   = 999 // section 4.4.1.1
)

// errNotFITS is for a file that does not begin as one.
var errNotFITS = errors.New("no FITS file")

// header is what the cards of one header say: string, bool, int64 or float64 by keyword. The
// first of several counts.
type header map[string]any

// blocks gives a file block by block, and passes over parts of it.
type blocks interface {
	next(b []byte) error // io.EOF at the end, io.ErrUnexpectedEOF within the block
	skip(n int64) error  // beyond the end: an error of the next call
}

// readHeader reads one header up to and including the block that has its END. first is the
// keyword that it must begin with. What was read before an error is returned with it.
func readHeader(r blocks, first string) (header, error) {
	h := header{}
	var last string // the keyword whose text goes on in the next card, by CONTINUE
	b := make([]byte, blockSize)
	for n := range maxBlocks {
		if err := r.next(b); err != nil {
			return h, err
		}
		for i := 0; i < blockSize; i += cardSize {
			card := b[i : i+cardSize]
			word := strings.TrimRight(string(card[:8]), " ")
			if n == 0 && i == 0 && word != first {
				return h, errNotFITS
			}
			switch {
			case word == "END" && len(bytes.TrimRight(card, " ")) == 3:
				return h, nil
			case word == "CONTINUE" && last != "": // section 4.2.1.2
				part, ok := quoted(string(card[8:]))
				s := h[last].(string)
				if !ok || !strings.HasSuffix(s, "&") {
					last = ""
					continue
				}
				h[last] = strings.TrimSuffix(s, "&") + part
				continue
			}
			last = ""
			if string(card[8:10]) != "= " || !keyword(word) { // a comment, history, or nothing
				continue
			}
			if _, twice := h[word]; twice {
				continue
			}
			if v, ok := value(string(card[10:])); ok {
				h[word] = v
				if s, is := v.(string); is && strings.HasSuffix(s, "&") {
					last = word
				}
			}
		}
	}
	return h, fmt.Errorf("the header has no END within %d blocks", maxBlocks)
}

// keyword tells whether a word is one: section 4.1.2.1.
func keyword(word string) bool {
	if word == "" || len(word) > 8 {
		return false
	}
	for _, c := range []byte(word) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// value reads the value of a card, in fixed or free format: section 4.2. One that is undefined or complex is none.
func value(s string) (any, bool) {
	s = strings.TrimLeft(s, " ")
	if strings.HasPrefix(s, "'") {
		return quoted(s)
	}
	s, _, _ = strings.Cut(s, "/")
	s = strings.TrimSpace(s)
	switch s {
	case "":
		return nil, false
	case "T":
		return true, true
	case "F":
		return false, true
	}
	if strings.Trim(s, "+-.0123456789DEde") != "" {
		return nil, false // ParseFloat knows more than FITS: Inf, hexadecimal, underscores
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(strings.NewReplacer("D", "E", "d", "e").Replace(s), 64)
	return f, err == nil && !math.IsInf(f, 0)
}

// quoted reads a text between quotes, in which two quotes are one: section 4.2.1. Blanks at its end mean nothing.
func quoted(s string) (string, bool) {
	s, ok := strings.CutPrefix(strings.TrimLeft(s, " "), "'")
	if !ok {
		return "", false
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\'' {
			out.WriteByte(s[i])
			continue
		}
		if i+1 >= len(s) || s[i+1] != '\'' {
			return strings.TrimRight(out.String(), " "), true
		}
		out.WriteByte('\'')
		i++
	}
	return "", false // it does not end within the card
}

// dataSize is how many bytes follow a header, with the padding of the last block: sections 4.4.1 and 6.1.
func (h header) dataSize() (int64, error) {
	bitpix, ok := h["BITPIX"].(int64)
	switch {
	case !ok:
		return 0, errors.New("the header has no BITPIX")
	case bitpix != 8 && bitpix != 16 && bitpix != 32 && bitpix != 64 && bitpix != -32 && bitpix != -64:
		return 0, fmt.Errorf("BITPIX is %d", bitpix)
	}
	axes, ok := h["NAXIS"].(int64)
	if !ok || axes < 0 || axes > maxAxes {
		return 0, errors.New("NAXIS is missing, or no number of axes")
	}
	if axes == 0 {
		return 0, nil
	}
	groups, _ := h["GROUPS"].(bool)
	n := int64(1)
	for i := int64(1); i <= axes; i++ {
		length, ok := h["NAXIS"+strconv.FormatInt(i, 10)].(int64)
		if !ok || length < 0 {
			return 0, fmt.Errorf("NAXIS%d is missing, or no length", i)
		}
		if i == 1 && length == 0 && groups {
			continue // random groups
		}
		if n, ok = times(n, length); !ok {
			return 0, errors.New("the data is larger than any file")
		}
	}
	parameters, err := h.count("PCOUNT", 0)
	if err != nil {
		return 0, err
	}
	count, err := h.count("GCOUNT", 1)
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64-parameters {
		return 0, errors.New("the data is larger than any file")
	}
	n += parameters
	for _, by := range []int64{count, max(bitpix, -bitpix) / 8} {
		if n, ok = times(n, by); !ok {
			return 0, errors.New("the data is larger than any file")
		}
	}
	if n > math.MaxInt64-blockSize {
		return 0, errors.New("the data is larger than any file")
	}
	return (n + blockSize - 1) / blockSize * blockSize, nil
}

func (h header) count(word string, def int64) (int64, error) {
	v, there := h[word]
	if !there {
		return def, nil
	}
	n, ok := v.(int64)
	if !ok || n < 0 {
		return 0, fmt.Errorf("%s is %v", word, v)
	}
	return n, nil
}

func times(a, b int64) (int64, bool) {
	if b != 0 && a > math.MaxInt64/b {
		return 0, false
	}
	return a * b, true
}

// plain are the blocks of a file as it is; what is skipped is not read.
type plain struct {
	f         io.ReaderAt
	off, size int64
}

func (p *plain) next(b []byte) error {
	if p.off >= p.size {
		return io.EOF
	}
	n, err := p.f.ReadAt(b, p.off)
	p.off += int64(n)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

func (p *plain) skip(n int64) error {
	if n > p.size-p.off {
		p.off = p.size
		return io.ErrUnexpectedEOF
	}
	p.off += n
	return nil
}

// stream are the blocks of what can be read from the front only.
type stream struct{ r io.Reader }

func (s stream) next(b []byte) error {
	_, err := io.ReadFull(s.r, b)
	return err
}

func (s stream) skip(n int64) error {
	_, err := io.CopyN(io.Discard, s.r, n)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
