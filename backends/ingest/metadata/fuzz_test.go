package metadata

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
	"time"

	"tarn/backends"
)

// check wants values that a catalogue can keep.
func check(t *testing.T, m backends.Meta) {
	t.Helper()
	for k, v := range m {
		switch v := v.(type) {
		case string:
			if len(v) > 3*maxText {
				t.Errorf("%s: %d bytes", k, len(v))
			}
		case float64:
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("%s: %v", k, v)
			}
		case json.Number, bool:
		default:
			t.Errorf("%s: a %T", k, v)
		}
	}
	if _, err := json.Marshal(m); err != nil {
		t.Error(err)
	}
	for k, v := range m {
		if k == "date_obs" {
			if _, err := time.Parse(time.RFC3339Nano, v.(string)); err != nil {
				t.Error(err)
			}
		}
	}
}

func FuzzFITS(f *testing.F) {
	f.Add(cards(append(primary, "DATE-OBS= '2004-12-04'", "OBJECT  = 'a&'", "CONTINUE  'b'")...))
	f.Add(append(cards("SIMPLE  = T", "BITPIX  = -64", "NAXIS   = 0"), cards("XTENSION= 'BINTABLE'", "TSTART  = 1.D0", "OBS_ID  = 'x'")...))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte("\x89HDF\r\n\x1a\n"))
	x := extractor(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _ := x.Extract("f", bytes.NewReader(b), int64(len(b)), nil)
		check(t, m)
	})
}

// FuzzCard goes for the one card that everything hangs on.
func FuzzCard(f *testing.F) {
	for _, s := range []string{"NAXIS1  = 10", "DATE-OBS= '2004-12-04T1:2:3'", "PCOUNT  = -1", "RA_PNT  = 1_0", "OBJECT  = 'it''s&'", "TSTART  = Inf"} {
		f.Add(s, "CONTINUE  'more&'")
	}
	x := extractor(f)
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(a) > cardSize || len(b) > cardSize {
			return
		}
		r := file(cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1", a, b), cards("XTENSION= 'IMAGE'", a, b))
		m, _ := x.Extract("f", r, r.Size(), nil)
		check(t, m)
	})
}

func FuzzName(f *testing.F) {
	f.Add("TEL001_SDH001_20230802T021531_SBID0000000000000000123_OBSID0000000000000000456_TEL_SHOWER_CHUNK000.fits.fz")
	f.Add("LST-1.1.Run02968.0000.fits.fz")
	f.Add("20210314_M1_05095172.001_Y_CrabNebula-W0.40+035.root")
	x := extractor(f)
	f.Fuzz(func(t *testing.T, s string) {
		m, _ := x.Extract(s, nil, 0, nil)
		check(t, m)
	})
}

func FuzzPattern(f *testing.F) {
	f.Add(`(?P<a>\d+)`, "int", "12")
	f.Add(`(?P<a>.+)`, "time 2006", "12")
	f.Fuzz(func(t *testing.T, pattern, kind, name string) {
		x, err := Rules{Names: []Name{{Pattern: pattern, Types: map[string]string{"a": kind}}}}.Compile()
		if err != nil {
			return
		}
		m, _ := x.Extract(name, nil, 0, nil)
		check(t, m)
	})
}

func FuzzSide(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":null,"c":"x","d":[1],"e":1e999}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _ := parseSide(b)
		for k, v := range m {
			if v == nil {
				delete(m, k)
			}
		}
		check(t, m)
	})
}
