package demodata

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// parse splits a file into its header-data units, as any FITS reader does.
func parse(t *testing.T, b []byte) (units [][]byte, heads []map[string]string) {
	t.Helper()
	for len(b) > 0 {
		h := map[string]string{}
		n := 0
		for ; ; n += 80 {
			if n+80 > len(b) {
				t.Fatal("header without END")
			}
			card := string(b[n : n+80])
			if strings.TrimRight(card, " ") == "END" {
				n += 80
				break
			}
			if card[8:10] != "= " {
				t.Fatalf("card %q has no value", card)
			}
			v, _, _ := strings.Cut(card[10:], " / ")
			h[strings.TrimSpace(card[:8])] = strings.Trim(strings.TrimSpace(v), "' ")
		}
		n += (block - n%block) % block
		if h["XTENSION"] == "BINTABLE" {
			n += (atoi(h["NAXIS1"])*atoi(h["NAXIS2"]) + block - 1) / block * block
		}
		units, heads, b = append(units, b[:n]), append(heads, h), b[n:]
	}
	return units, heads
}

func atoi(s string) (n int) {
	for _, c := range s {
		n = 10*n + int(c-'0')
	}
	return n
}

func TestObservationIsValidFITS(t *testing.T) {
	for _, rows := range []int64{1, 102, 103, 5000} {
		var b bytes.Buffer
		o := Observation{ID: 5029747, Telescope: "LST-1", Start: 1e8, Rate: 50, Rows: rows, Seed: 7}
		n, err := o.Write(&b)
		if err != nil || n != int64(b.Len()) || n%block != 0 {
			t.Fatalf("%d rows: wrote %d of %d bytes, %v", rows, n, b.Len(), err)
		}
		units, heads := parse(t, b.Bytes())
		if len(units) != 2 || heads[0]["SIMPLE"] != "T" || heads[1]["EXTNAME"] != "EVENTS" || heads[1]["OBS_ID"] != "5029747" {
			t.Fatalf("%d rows: headers are %v", rows, heads)
		}
		for i, u := range units {
			var s sum32
			s.Write(u)
			if s.value != math.MaxUint32 && s.value != 0 {
				t.Errorf("%d rows: unit %d sums to %08x, want -0", rows, i, s.value)
			}
		}
		data := units[1][len(units[1])-int((rows*row+block-1)/block*block):]
		last := 1e8
		for i := range rows {
			r := data[i*row:]
			id, when := int64(binary.BigEndian.Uint64(r)), math.Float64frombits(binary.BigEndian.Uint64(r[8:]))
			energy := math.Float32frombits(binary.BigEndian.Uint32(r[24:]))
			if id != i+1 || when < last || energy < 0.05 {
				t.Fatalf("row %d is event %d at %f with %f TeV", i, id, when, energy)
			}
			last = when
		}
	}
}

func TestWrite(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), t.TempDir()
	o := Options{Files: 3, Size: 100_000, Seed: 1}
	calls := 0
	files, err := Write(context.Background(), a, o, func(int, int64) { calls++ })
	if err != nil || len(files) != 3 || calls != 3 {
		t.Fatalf("%d files, %d calls, %v", len(files), calls, err)
	}
	if _, err := Write(context.Background(), b, o, nil); err != nil {
		t.Fatal(err)
	}
	seen := map[[32]byte]bool{}
	for _, f := range files {
		x, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(b, filepath.Base(f.Path)))
		if err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s differs in a second run with the same seed: %v", f.Path, err)
		}
		if int64(len(x)) != f.Size || f.Size > o.Size || f.Size < o.Size-2*block {
			t.Errorf("%s has %d bytes, reported %d, asked %d", f.Path, len(x), f.Size, o.Size)
		}
		seen[sha256.Sum256(x)] = true
	}
	if len(seen) != 3 {
		t.Error("files are equal to one another")
	}
	if _, err := Write(context.Background(), a, o, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second run into the same folder gives %v, want ErrExist", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Write(ctx, t.TempDir(), o, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
