// Package demodata makes valid FITS files of gamma-ray event lists, for demonstrations
// and tests: a primary header and one EVENTS table with times, energies and positions
// around the Crab Nebula, in the columns and keywords of the open gamma-astro-data
// format. The same seed makes the same bytes.
//
//	files, err := demodata.Write(ctx, "dl3", demodata.Options{Files: 10, Size: 4 << 20}, nil)
package demodata

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
)

const (
	block = 2880 // every header and data unit of FITS is padded to it
	row   = 28   // EVENT_ID 8, TIME 8, RA 4, DEC 4, ENERGY 4

	crabRA, crabDec = 83.6331, 22.0145
)

// Observation is one event list.
type Observation struct {
	ID        int64
	Telescope string  // TELESCOP
	Start     float64 // seconds since MJD 59215 (2021-01-01 TT)
	Rate      float64 // events a second
	Rows      int64
	Seed      uint64
}

// RowsFor tells how many rows make a file of at most size bytes; a file has at least one row.
func RowsFor(size int64) int64 {
	data := size - int64(headerSize())
	data -= data % block
	return max(data/row, 1)
}

// headerSize is that of both headers, which does not depend on the values in them.
func headerSize() int {
	o := Observation{Rows: 1}
	return len(o.primary()) + len(o.table(0, 1))
}

// Write streams the file to w and returns its size.
func (o Observation) Write(w io.Writer) (int64, error) {
	if o.Rate <= 0 {
		o.Rate = 50
	}
	if o.Rows < 1 {
		o.Rows = 1
	}
	// The sum of the data stands before the data. The data is the same on every pass,
	// so it is made twice and never held.
	var sum sum32
	_, last, err := o.data(&sum)
	if err != nil {
		return 0, err
	}
	n := int64(0)
	for _, h := range [][]byte{o.primary(), o.table(sum.value, math.Ceil(last))} {
		m, err := w.Write(h)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	m, _, err := o.data(w)
	return n + m, err
}

// data writes the rows, padded to whole blocks, and tells the time of the last event.
func (o Observation) data(w io.Writer) (n int64, t float64, err error) {
	r := rand.New(rand.NewPCG(o.Seed, uint64(o.ID)))
	buf := make([]byte, 0, 1000*row)
	t = o.Start
	flush := func() error {
		m, err := w.Write(buf)
		n += int64(m)
		buf = buf[:0]
		return err
	}
	for i := range o.Rows {
		t += r.ExpFloat64() / o.Rate
		// The Crab's spectrum falls as E^-2.6; half the events come from the source, the
		// rest from all of the field.
		energy := 0.05 * math.Pow(1-r.Float64(), -1/1.6)
		width := 0.07
		if r.IntN(2) == 0 {
			width = 1.2
		}
		buf = binary.BigEndian.AppendUint64(buf, uint64(i+1))
		buf = binary.BigEndian.AppendUint64(buf, math.Float64bits(t))
		buf = binary.BigEndian.AppendUint32(buf, math.Float32bits(float32(crabRA+width*r.NormFloat64())))
		buf = binary.BigEndian.AppendUint32(buf, math.Float32bits(float32(crabDec+width*r.NormFloat64())))
		buf = binary.BigEndian.AppendUint32(buf, math.Float32bits(float32(energy)))
		if len(buf) == cap(buf) {
			if err := flush(); err != nil {
				return n, t, err
			}
		}
	}
	if err := flush(); err != nil {
		return n, t, err
	}
	buf = append(buf, make([]byte, (block-n%block)%block)...)
	err = flush()
	return n, t, err
}

func (o Observation) primary() []byte {
	var c cards
	c.logical("SIMPLE", true, "file conforms to the FITS standard")
	c.integer("BITPIX", 8, "")
	c.integer("NAXIS", 0, "no image here")
	c.logical("EXTEND", true, "")
	c.text("TELESCOP", o.Telescope, "")
	c.text("CREATOR", "tarn demo-data", "simulated, not an observation")
	return c.finish(0)
}

func (o Observation) table(datasum uint32, stop float64) []byte {
	var c cards
	c.text("XTENSION", "BINTABLE", "binary table")
	c.integer("BITPIX", 8, "")
	c.integer("NAXIS", 2, "")
	c.integer("NAXIS1", row, "bytes of a row")
	c.integer("NAXIS2", o.Rows, "rows")
	c.integer("PCOUNT", 0, "")
	c.integer("GCOUNT", 1, "")
	c.integer("TFIELDS", 5, "")
	for i, f := range [][3]string{{"EVENT_ID", "1K", ""}, {"TIME", "1D", "s"}, {"RA", "1E", "deg"}, {"DEC", "1E", "deg"}, {"ENERGY", "1E", "TeV"}} {
		c.text(fmt.Sprintf("TTYPE%d", i+1), f[0], "")
		c.text(fmt.Sprintf("TFORM%d", i+1), f[1], "")
		if f[2] != "" {
			c.text(fmt.Sprintf("TUNIT%d", i+1), f[2], "")
		}
	}
	c.text("EXTNAME", "EVENTS", "")
	c.text("HDUCLASS", "GADF", "")
	c.text("HDUVERS", "0.3", "")
	c.text("HDUCLAS1", "EVENTS", "")
	c.integer("OBS_ID", o.ID, "observation")
	c.text("TELESCOP", o.Telescope, "")
	c.text("INSTRUME", o.Telescope, "")
	c.text("OBJECT", "Crab Nebula", "")
	c.float("RA_OBJ", crabRA, "[deg]")
	c.float("DEC_OBJ", crabDec, "[deg]")
	c.float("RA_PNT", crabRA, "[deg]")
	c.float("DEC_PNT", crabDec+0.5, "[deg]")
	c.text("RADESYS", "ICRS", "")
	c.float("TSTART", o.Start, "[s]")
	c.float("TSTOP", stop, "[s]")
	c.float("ONTIME", stop-o.Start, "[s]")
	c.float("LIVETIME", 0.95*(stop-o.Start), "[s]")
	c.float("DEADC", 0.95, "")
	c.integer("MJDREFI", 59215, "[d]")
	c.float("MJDREFF", 0, "[d]")
	c.text("TIMEUNIT", "s", "")
	c.text("TIMESYS", "TT", "")
	c.text("TIMEREF", "LOCAL", "")
	return c.finish(datasum)
}

// cards is a FITS header in the making: 80 characters a card, values in fixed columns.
type cards struct{ buf bytes.Buffer }

func (c *cards) card(key, value, comment string) {
	s := fmt.Sprintf("%-8s= %s", key, value)
	if comment != "" {
		s += " / " + comment
	}
	fmt.Fprintf(&c.buf, "%-80.80s", s)
}

func (c *cards) logical(key string, v bool, comment string) {
	c.card(key, fmt.Sprintf("%20s", map[bool]string{true: "T", false: "F"}[v]), comment)
}

func (c *cards) integer(key string, v int64, comment string) {
	c.card(key, fmt.Sprintf("%20d", v), comment)
}

func (c *cards) float(key string, v float64, comment string) {
	s := fmt.Sprintf("%.10G", v)
	if !strings.ContainsAny(s, ".E") {
		s += "."
	}
	c.card(key, fmt.Sprintf("%20s", s), comment)
}

func (c *cards) text(key, v, comment string) {
	c.card(key, fmt.Sprintf("%-20s", fmt.Sprintf("'%-8s'", strings.ReplaceAll(v, "'", "''"))), comment)
}

// finish adds the checksums and END and pads the header. FITS 4.0, section 4.4.2.7
// and appendix J: with CHECKSUM in place the whole unit sums up to -0.
func (c *cards) finish(datasum uint32) []byte {
	c.text("DATASUM", fmt.Sprint(datasum), "")
	at := c.buf.Len() + len("CHECKSUM= '")
	c.text("CHECKSUM", strings.Repeat("0", 16), "")
	fmt.Fprintf(&c.buf, "%-80s", "END")
	c.buf.WriteString(strings.Repeat(" ", (block-c.buf.Len()%block)%block))
	h := c.buf.Bytes()
	s := sum32{value: datasum}
	s.Write(h)
	copy(h[at:], encodeSum(^s.value))
	return h
}

// sum32 is the 1's complement sum of big-endian words; what is written to it comes in
// multiples of four bytes.
type sum32 struct{ value uint32 }

// Write never fails.
func (s *sum32) Write(p []byte) (int, error) {
	v := uint64(s.value)
	for i := 0; i+4 <= len(p); i += 4 {
		v += uint64(binary.BigEndian.Uint32(p[i:]))
	}
	for v>>32 != 0 {
		v = v&math.MaxUint32 + v>>32
	}
	s.value = uint32(v)
	return len(p), nil
}

// encodeSum spreads each byte of the sum over four letters or digits that add up to
// it, skips punctuation, and turns the result by one place, since the card's text
// begins one byte before a word.
func encodeSum(v uint32) []byte {
	var ascii [16]byte
	for i := range 4 {
		b := int(v >> (24 - 8*i) & 0xff)
		quotient, rest := b/4+'0', b%4
		ch := [4]int{quotient + rest, quotient, quotient, quotient}
		for again := true; again; {
			again = false
			for j := 0; j < 4; j += 2 {
				for isPunct(ch[j]) || isPunct(ch[j+1]) {
					ch[j]++
					ch[j+1]--
					again = true
				}
			}
		}
		for j := range 4 {
			ascii[4*j+i] = byte(ch[j])
		}
	}
	out := make([]byte, 16)
	for i := range out {
		out[(i+1)%16] = ascii[i]
	}
	return out
}

func isPunct(c int) bool { return c > '9' && c < 'A' || c > 'Z' && c < 'a' }
