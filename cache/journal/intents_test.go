package journal

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIntents(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	want := map[string]string{"a": "1", "a/b": "2", "..": "3", "\x00\xff": "", "~x": "5"}
	for n, v := range want {
		if err := errors.Join(j.PutIntent(n, []byte("old")), j.PutIntent(n, []byte(v))); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(j.intentDir(), "~left"), []byte("half"), 0o600)
	j = open(t, crash(t, j))
	got, err := j.Intents()
	if err != nil || len(got) != len(want) {
		t.Fatal(got, err)
	}
	for n, v := range want {
		if string(got[n]) != v {
			t.Errorf("%q: %q", n, got[n])
		}
	}
	if _, err := os.Stat(filepath.Join(j.intentDir(), "~left")); err == nil {
		t.Error("an unfinished note was left")
	}
	if err := errors.Join(j.DropIntent("a"), j.DropIntent("a")); err != nil {
		t.Fatal(err)
	}
	file, _ := j.intentFile("a/b")
	flip(t, file, -1)
	if got, err = j.Intents(); err != nil || len(got) != len(want)-2 {
		t.Fatal(got, err)
	}
	if kept, _ := filepath.Glob(filepath.Join(j.orphanDir(), "*.intent")); len(kept) != 1 {
		t.Fatal(kept)
	}
	if err := j.PutIntent(strings.Repeat("x", 300), nil); !errors.Is(err, ErrName) {
		t.Fatal(err)
	}
	if err := j.PutIntent("", nil); !errors.Is(err, ErrName) {
		t.Fatal(err)
	}
	if err := j.PutIntent("x", make([]byte, intentLimit+1)); !errors.Is(err, ErrTooBig) {
		t.Fatal(err)
	}
}
