package metadata

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"tarn/backends"
)

func num(s string) json.Number { return json.Number(s) }

func extractor(t testing.TB) *Extractor {
	t.Helper()
	x, err := Default().Compile()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestNames(t *testing.T) {
	x := extractor(t)
	for _, c := range []struct {
		name string
		want backends.Meta
	}{
		{"TEL001_SDH0000_20250204T213354_SBID0000000002000000066_OBSID0000000002000000200_CHUNK001.fits.fz", backends.Meta{
			"observatory": "CTAO", "tel_id": num("1"), "data_source": "SDH0000", "start_time": "2025-02-04T21:33:54Z",
			"sb_id": num("2000000066"), "obs_id": num("2000000200"), "chunk": num("1"),
		}},
		{"2025/02/04/TEL001_SDH001_20230802T021531_SBID9000000000000000123_OBSID0000000000000000456_TEL_SHOWER_CHUNK000.fits.fz", backends.Meta{
			"observatory": "CTAO", "tel_id": num("1"), "data_source": "SDH001", "start_time": "2023-08-02T02:15:31Z",
			"sb_id": num("9000000000000000123"), "obs_id": num("456"), "data_type": "TEL_SHOWER", "chunk": num("0"),
		}},
		{"SUB000_SWAT000_20250204T213405_SBID0000000002000000066_OBSID0000000002000000200_SUBARRAY_CHUNK000.fits.fz", backends.Meta{
			"observatory": "CTAO", "subarray_id": num("0"), "data_source": "SWAT000", "start_time": "2025-02-04T21:34:05Z",
			"sb_id": num("2000000066"), "obs_id": num("2000000200"), "data_type": "SUBARRAY", "chunk": num("0"),
		}},
		{"TEL001_SDH0000_20251022T230327_SBID0000000002000000076_OBSID0000000002000000232_CALIB_CHUNK000.mon.dl1.h5", backends.Meta{
			"observatory": "CTAO", "tel_id": num("1"), "data_source": "SDH0000", "start_time": "2025-10-22T23:03:27Z",
			"sb_id": num("2000000076"), "obs_id": num("2000000232"), "data_type": "CALIB", "chunk": num("0"),
		}},
		{"TEL001_SDH0000_20251022T230327_CALIB_CHUNK000.fits.fz", backends.Meta{
			"observatory": "CTAO", "tel_id": num("1"), "data_source": "SDH0000", "start_time": "2025-10-22T23:03:27Z",
			"data_type": "CALIB", "chunk": num("0"),
		}},
		{"AUX021_CAMERA01_20231011T030105_SBID0000000000000012345_OBSID0000000000000006789_FILE001.fits", backends.Meta{
			"observatory": "CTAO", "aux_id": num("21"), "data_source": "CAMERA01", "start_time": "2023-10-11T03:01:05Z",
			"sb_id": num("12345"), "obs_id": num("6789"), "file_id": num("1"),
		}},
		{"TEL001_EVB_20231011_DRS4CORR_FILE002.fits", backends.Meta{
			"observatory": "CTAO", "tel_id": num("1"), "data_source": "EVB", "date": "2023-10-11T00:00:00Z", "data_type": "DRS4CORR", "file_id": num("2"),
		}},
		{"Tel001_SDH_3001_20231003T204445_sbid2000000008_obid2000000016_9.fits.fz", backends.Meta{
			"observatory": "CTAO", "tel_id": num("1"), "data_source": "SDH_3001", "start_time": "2023-10-03T20:44:45Z",
			"sb_id": num("2000000008"), "obs_id": num("2000000016"), "chunk": num("9"),
		}},
		{"LST-1.1.Run02968.0000.fits.fz", backends.Meta{"telescope": "LST-1", "stream": num("1"), "run": num("2968"), "subrun": num("0")}},
		{"dl1_LST-1.Run15134.0002.h5", backends.Meta{"data_level": "dl1", "telescope": "LST-1", "run": num("15134"), "subrun": num("2")}},
		{"interleaved_LST-1.Run16643.0000.h5", backends.Meta{"telescope": "LST-1", "run": num("16643"), "subrun": num("0")}},
		{"dl3_LST-1.Run02968.fits.gz", backends.Meta{"data_level": "dl3", "telescope": "LST-1", "run": num("2968")}},
		{"20131004_05029747_DL3_CrabNebula-W0.40+035.fits", backends.Meta{
			"observatory": "MAGIC", "night": "2013-10-04T00:00:00Z", "run": num("5029747"), "data_type": "DL3",
			"object": "CrabNebula", "wobble_offset": 0.4, "wobble_angle": num("35"),
		}},
		{"20210314_M1_05095172.001_Y_CrabNebula-W0.40+035.root", backends.Meta{
			"observatory": "MAGIC", "night": "2021-03-14T00:00:00Z", "telescope": "M1", "run": num("5095172"), "subrun": num("1"), "data_type": "Y",
			"object": "CrabNebula", "wobble_offset": 0.4, "wobble_angle": num("35"),
		}},
		{"20210314_05095172_S_1ES1959+650-W0.40+035.root", backends.Meta{
			"observatory": "MAGIC", "night": "2021-03-14T00:00:00Z", "run": num("5095172"), "data_type": "S",
			"object": "1ES1959+650", "wobble_offset": 0.4, "wobble_angle": num("35"),
		}},
		{"notes.txt", backends.Meta{}},
	} {
		got, err := x.Extract(c.name, nil, 0, nil)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v\nnot %v", c.name, got, err, c.want)
		}
	}
	got, err := x.Extract("TEL001_SDH0000_20251399T230327_CHUNK000.fits.fz", nil, 0, nil)
	if err == nil || got["chunk"] != num("0") || got["start_time"] != nil {
		t.Errorf("a month 13: %v, %v", got, err)
	}
}

func TestRulesThatAreWrong(t *testing.T) {
	for _, c := range []struct {
		rules Rules
		want  string
	}{
		{Rules{Names: []Name{{Pattern: "("}}}, "missing"},
		{Rules{Names: []Name{{Pattern: "abc"}}}, "no named group"},
		{Rules{Names: []Name{{Pattern: "(?P<a>.)", Types: map[string]string{"a": "date"}}}}, "type \"date\""},
		{Rules{Names: []Name{{Pattern: "(?P<a>.)", Types: map[string]string{"b": "int"}}}}, "no group"},
		{Rules{Names: []Name{{Pattern: "a", Set: map[string]any{"k": []any{1}}}}}, "set k"},
		{Rules{FITS: map[string]string{"obs_id": "obs_id"}}, "keyword"},
		{Rules{FITS: map[string]string{"OBS_ID": ""}}, "key \"\""},
		{Rules{Sides: []string{"/etc/passwd"}}, "sides"},
	} {
		_, err := c.rules.Compile()
		if !errors.Is(err, backends.ErrName) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, not %q", c.rules, err, c.want)
		}
	}
}

func TestRulesAreYAML(t *testing.T) {
	var r Rules
	dec := yaml.NewDecoder(strings.NewReader(`
names:
  - pattern: '(?P<telescope>[A-Z]+)-(?P<start_time>\d{8})-(?P<run>\d+)\.fits'
    types: {start_time: time 20060102, run: int}
    set: {observatory: mine, number: 3}
fits: {OBS_ID: run}
sides: [.json]
`))
	dec.KnownFields(true)
	if err := dec.Decode(&r); err != nil {
		t.Fatal(err)
	}
	x, err := r.Compile()
	if err != nil {
		t.Fatal(err)
	}
	got, err := x.Extract("ABC-20240229-0007.fits", nil, 0, nil)
	want := backends.Meta{"telescope": "ABC", "start_time": "2024-02-29T00:00:00Z", "run": num("7"), "observatory": "mine", "number": num("3")}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

// cards makes one header, padded.
func cards(lines ...string) []byte {
	var b bytes.Buffer
	for _, l := range append(lines, "END") {
		fmt.Fprintf(&b, "%-80s", l)
	}
	b.Write(bytes.Repeat([]byte{' '}, (blockSize-b.Len()%blockSize)%blockSize))
	return b.Bytes()
}

func padded(n int) []byte { return make([]byte, (n+blockSize-1)/blockSize*blockSize) }

func file(parts ...[]byte) *bytes.Reader { return bytes.NewReader(bytes.Join(parts, nil)) }

var primary = []string{"SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2", "NAXIS1  =                 1000", "NAXIS2  =                   70"}

func TestHeaders(t *testing.T) {
	x := extractor(t)
	data := padded(1000 * 70 * 2)
	f := file(cards(append(primary, "TELESCOP= 'O''Neill  '        / quote", "OBS_ID  =                   42", "COMMENT = 'no value'")...), data,
		cards("XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 0",
			"OBS_ID  = 43 / the primary one wins", "TSTART  = 1.5D3", "TSTOP   = +2000.", "RA_PNT  =  -8.3E-1/deg", "DEADC   = (1.0, 2.0)", "N_TELS  =",
			"OBJECT  = 'a long &'", "CONTINUE  'name that&'", "CONTINUE  ' goes on' / yes", "ORIGIN  = 'not ended", "INSTRUME= ''",
			"DATE-OBS= '2004-12-04'", "TIME-OBS= '22:08:10.184'", "TIMESYS = 'TT      '", "DATE-END= '2008-08-04T15:43:36.0000'", "OBSERVER=   'free'"))
	got, err := x.Extract("x.bin", f, f.Size(), nil)
	want := backends.Meta{
		"telescope": "O'Neill", "obs_id": num("42"), "tstart": 1500.0, "tstop": 2000.0, "ra_pnt": -0.83,
		"object": "a long name that goes on", "instrument": "", "timesys": "TT", "observer": "free",
		"date_obs": "2004-12-04T22:07:06Z", "date_end": "2008-08-04T15:42:30.816Z",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v\nnot %v", got, err, want)
	}
}

// reads counts what is read of a file.
type reads struct {
	io.ReaderAt
	n int
}

func (r *reads) ReadAt(p []byte, off int64) (int, error) {
	r.n += len(p)
	return r.ReaderAt.ReadAt(p, off)
}

func TestDataIsNotRead(t *testing.T) {
	f := file(cards(primary...), padded(140000), cards("XTENSION= 'IMAGE'", "OBS_ID  = 7"))
	r := &reads{ReaderAt: f}
	got, err := extractor(t).Extract("x", r, f.Size(), nil)
	if err != nil || got["obs_id"] != num("7") || r.n > 3*blockSize {
		t.Errorf("%v, %v, %d bytes read", got, err, r.n)
	}
}

func TestCompressedHeaders(t *testing.T) {
	raw := append(append(cards(primary...), padded(140000)...), cards("XTENSION= 'IMAGE'", "OBS_ID  = 7")...)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(raw)
	w.Close()
	got, err := extractor(t).Extract("x.fits.gz", bytes.NewReader(z.Bytes()), int64(z.Len()), nil)
	if err != nil || got["obs_id"] != num("7") {
		t.Errorf("%v, %v", got, err)
	}
	// A cut in the middle: the primary header was there.
	got, err = extractor(t).Extract("x.fits.gz", bytes.NewReader(z.Bytes()[:z.Len()-60]), int64(z.Len()-60), nil)
	if err == nil {
		t.Errorf("cut: %v, %v", got, err)
	}
	// More zeros than anybody wants to unpack.
	z.Reset()
	w = gzip.NewWriter(&z)
	_, _ = w.Write(cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 100000000000", "OBS_ID  = 5"))
	_, _ = w.Write(make([]byte, 2<<20))
	w.Close()
	x := extractor(t)
	x.unpacked = 1 << 20
	got, err = x.Extract("x.fits.gz", bytes.NewReader(z.Bytes()), int64(z.Len()), nil)
	if err == nil || !strings.Contains(err.Error(), "within the first") || got["obs_id"] != num("5") {
		t.Errorf("far: %v, %v", got, err)
	}
	// Something else that is compressed.
	z.Reset()
	w = gzip.NewWriter(&z)
	_, _ = w.Write([]byte("hello"))
	w.Close()
	if got, err = extractor(t).Extract("x.gz", bytes.NewReader(z.Bytes()), int64(z.Len()), nil); err != nil || len(got) != 0 {
		t.Errorf("text: %v, %v", got, err)
	}
}

func TestBrokenHeaders(t *testing.T) {
	x := extractor(t)
	endless := bytes.Repeat([]byte(fmt.Sprintf("%-80s", "COMMENT on and on")), 36*(maxBlocks+10))
	begin := func(lines ...string) []byte {
		return cards(append([]string{"SIMPLE  = T", "OBS_ID  = 1"}, lines...)...)
	}
	for _, c := range []struct {
		what string
		f    *bytes.Reader
		keep bool // OBS_ID is read
	}{
		{"cut within the header", file(begin()[:1000]), false},
		{"no END", file([]byte(fmt.Sprintf("%-80s%-80s", "SIMPLE  = T", "OBS_ID  = 1")), endless), true},
		{"no BITPIX", file(begin("NAXIS   = 0")), true},
		{"BITPIX 7", file(begin("BITPIX  = 7", "NAXIS   = 0")), true},
		{"negative axis", file(begin("BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = -1")), true},
		{"many axes", file(begin("BITPIX  = 8", "NAXIS   = 1000")), true},
		{"overflow", file(begin("BITPIX  = 64", "NAXIS   = 3", "NAXIS1  = 4000000000", "NAXIS2  = 4000000000", "NAXIS3  = 4000000000")), true},
		{"overflow to nothing", file(begin("BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 4294967296", "NAXIS2  = 4294967296"), cards("XTENSION= 'IMAGE'")), true},
		{"overflow by PCOUNT", file(begin("BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 9223372036854775807", "PCOUNT  = 9223372036854775807")), true},
		{"data that is not there", file(begin("BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 1000000")), true},
		{"cut in the extension", file(begin("BITPIX  = 8", "NAXIS   = 0"), cards("XTENSION= 'IMAGE'")[:100]), true},
		{"no date", file(begin("BITPIX  = 8", "NAXIS   = 0", "DATE-OBS= 'yesterday'")), true},
	} {
		got, err := x.Extract("f", c.f, c.f.Size(), nil)
		if c.what != "cut within the header" && err == nil {
			t.Errorf("%s: no error", c.what)
		}
		if (got["obs_id"] == num("1")) != c.keep {
			t.Errorf("%s: %v, %v", c.what, got, err)
		}
	}
	f := file([]byte("\x89HDF\r\n\x1a\nrest"))
	if m, err := x.Extract("f.h5", f, f.Size(), nil); err != nil || len(m) != 0 {
		t.Errorf("HDF5 without a hook: %v, %v", m, err)
	}
	x.rules.HDF5 = map[string]string{"CTA": "level"}
	hook := func(io.ReaderAt, int64, []string) (map[string]any, error) {
		return map[string]any{"CTA": "DL1", "other": 1}, nil
	}
	if m, err := x.WithHDF5(hook).Extract("f.h5", f, f.Size(), nil); err != nil || m["level"] != "DL1" || len(m) != 1 {
		t.Errorf("HDF5 with a hook: %v, %v", m, err)
	}
}

func TestSideFileWins(t *testing.T) {
	x := extractor(t)
	f := file(cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", "OBS_ID  = 9", "OBJECT  = 'Crab'", "TELESCOP= 'LSTCAM'"))
	sides := map[string]string{".json": `{"object": "Crab Nebula", "telescope": null, "n": 12345678901234567890, "list": [1], "ok": true}`}
	side := func(suffix string) ([]byte, error) {
		if s, ok := sides[suffix]; ok {
			return []byte(s), nil
		}
		return nil, fmt.Errorf("open: %w", backends.ErrNotExist)
	}
	got, err := x.Extract("LST-1.1.Run02968.0000.fits.fz", f, f.Size(), side)
	want := backends.Meta{"stream": num("1"), "run": num("2968"), "subrun": num("0"), "obs_id": num("9"), "object": "Crab Nebula", "n": num("12345678901234567890"), "ok": true}
	if err == nil || !strings.Contains(err.Error(), "list") || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{``, `[]`, `{"a":1} {}`, `{"a":`, `null`, `{"a":1e999}`, `{"a":"` + strings.Repeat("x", maxSide) + `"}`} {
		sides[".json"] = bad
		if got, err := x.Extract("LST-1.1.Run02968.0000.fits.fz", f, f.Size(), side); err == nil || got["obs_id"] != num("9") {
			t.Errorf("%.20q: %v, %v", bad, got, err)
		}
	}
}

func TestRealFiles(t *testing.T) {
	folder := cmp.Or(os.Getenv("TARN_CRAB"), "../../../../shared/data/joint-crab")
	if _, err := os.Stat(filepath.Join(folder, "fact")); err != nil {
		t.Skip("joint-crab data is not here (set TARN_CRAB)")
	}
	x := extractor(t)
	for _, c := range []struct {
		name string
		want backends.Meta
	}{
		{"fact/20131103_103_dl3.fits", backends.Meta{"telescope": "FACT", "obs_id": num("20131103103"), "object": "Crab", "date_obs": "2013-11-04T01:59:14Z", "observer": "The FACT collaboration"}},
		{"hess/data/hess_dl3_dr1_obs_id_023523.fits.gz", backends.Meta{"telescope": "HESS", "obs_id": num("23523"), "date_obs": "2004-12-04T22:07:06Z", "ra_pnt": 83.633333333333}},
		{"fermi/events.fits.gz", backends.Meta{"telescope": "GLAST", "instrument": "LAT", "tstart": 239557417.0, "date_obs": "2008-08-04T15:42:30.816Z"}},
		{"fermi/psf.fits.gz", backends.Meta{}},
	} {
		f, err := os.Open(filepath.Join(folder, c.name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, _ := f.Stat()
		got, err := x.Extract(c.name, f, st.Size(), nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for k, v := range c.want {
			if got[k] != v {
				t.Errorf("%s: %s is %v, not %v", c.name, k, got[k], v)
			}
		}
	}
}
