package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// keepEnds is a lake.local.yaml whose hot cache keeps little of the ends of a file, so
// that small files are not whole by that: at the start as much as the kernel reads ahead of
// somebody who wants one block.
const keepEnds = "cache: {block: 4K, head: 16K, tail: 1K}\n"

// lakeStat is one of the lake's counters in .tarn/stats.
func (s *site) lakeStat(name string) int {
	s.t.Helper()
	lake, ok := s.stats()["lake"].(map[string]any)
	if !ok {
		s.t.Fatalf(".tarn/stats has no lake counters: %v", s.stats())
	}
	n, ok := lake[name].(float64)
	if !ok {
		s.t.Fatalf(".tarn/stats has no %s: %v", name, lake)
	}
	return int(n)
}

// tapeWork is what the machinery of PIC-TAPE has done since the mount.
type tapeWork struct {
	Mounts   int64         `json:"mounts"`
	Requests int64         `json:"requests"`
	Staged   int64         `json:"staged"`
	TapeTime time.Duration `json:"tape_time"`
}

func (a tapeWork) minus(b tapeWork) tapeWork {
	return tapeWork{a.Mounts - b.Mounts, a.Requests - b.Requests, a.Staged - b.Staged, a.TapeTime - b.TapeTime}
}

func (w tapeWork) String() string {
	return fmt.Sprintf("%d files in %d requests, %d mounts, %v of tape time", w.Staged, w.Requests, w.Mounts, w.TapeTime.Round(time.Second))
}

func (s *site) tape() (w tapeWork) {
	s.t.Helper()
	var all struct {
		RSEs map[string]tapeWork `json:"rses"`
	}
	b, err := os.ReadFile(filepath.Join(s.mnt, ".tarn/stats"))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &all); err != nil {
		s.t.Fatal(err)
	}
	w, ok := all.RSEs["PIC-TAPE"]
	if !ok {
		s.t.Fatalf(".tarn/stats has no counters of PIC-TAPE: %s", b)
	}
	return w
}

// content is n bytes that depend on seed, and do not compress.
func content(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	b := make([]byte, n)
	r.Read(b) // never fails
	return b
}

// fits makes something that file(1) takes for FITS: a primary header and n bytes in all.
func fits(seed uint64, n int) []byte {
	b := content(seed, n)
	h := bytes.Repeat([]byte(" "), 2880)
	for i, card := range []string{"SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0", "END"} {
		copy(h[i*80:], card)
	}
	copy(b, h)
	return b
}

// folder makes files below a new temporary folder: name to size.
func folder(t testing.TB, files map[string]int) string {
	t.Helper()
	dir := t.TempDir()
	seed := uint64(1)
	for name, size := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		seed++
		if err := os.WriteFile(p, fits(seed, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// onTape imports dir to tape and drops every local copy.
func (s *site) onTape(dir, at string) {
	s.t.Helper()
	s.ok("import", dir, at, "--rse", "PIC-TAPE")
	s.taped(at)
	s.ok("evict", at)
}

// taped waits until every file below at lies on a tape, and not in the buffer only.
func (s *site) taped(at string) {
	s.t.Helper()
	s.within(time.Minute, "on tape", func() bool {
		for _, r := range s.rows("replicas", at) {
			if l, ok := r["locality"].(string); r["rse"] == "PIC-TAPE" && (!ok || l != "NEARLINE" && l != "ONLINE_AND_NEARLINE") {
				return false
			}
		}
		return true
	})
}

// within waits until ok holds.
func (s *site) within(d time.Duration, what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("not %s after %v", what, d)
		}
	}
}

// path is a path below the mountpoint.
func (s *site) path(elem ...string) string {
	return filepath.Join(append([]string{s.mnt}, elem...)...)
}

// json decodes a file of the mount.
func (s *site) json(name string, to any) {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal(b, to); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, b)
	}
}

// tapeWith is a lake.local.yaml text with the demo's storages, whose tape library has these
// settings.
func tapeWith(settings string) string {
	return `rses:
  - {name: LAPALMA-DISK, kind: disk, path: rse/LAPALMA-DISK, attributes: {country: ES}}
  - {name: PIC-DISK, kind: disk, path: rse/PIC-DISK, attributes: {country: ES}, distance: 1}
  - {name: CNAF-DISK, kind: disk, path: rse/CNAF-DISK, attributes: {country: IT}, distance: 2}
  - {name: PIC-TAPE, kind: tape, path: rse/PIC-TAPE, attributes: {country: ES}, distance: 3, tape: {` + settings + "}}\n"
}

// number is what a variable of the environment says, for tests that can be longer.
func number(name string, short int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return short
}

// writeFiles makes files with these texts in a folder.
func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
