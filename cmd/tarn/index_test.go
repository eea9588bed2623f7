package main

import (
	"os"
	"path/filepath"
	"testing"
)

// An index is not that of a catalogue that was made anew in the same place.
func TestInitForgetsTheIndex(t *testing.T) {
	c := newDemoLake(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"f": "hello"})
	c.ok("put", filepath.Join(src, "f"), "/ctao/f")
	c.ok("index")
	if out := c.ok("find", "/", "name=f"); out != "/ctao/f\n" {
		t.Errorf("find gives %q", out)
	}
	if err := os.RemoveAll(filepath.Join(c.lake, "catalogue")); err != nil {
		t.Fatal(err)
	}
	tester{t: t}.ok("init", c.lake)
	if out := c.ok("find", "/", "name=f"); out != "" {
		t.Errorf("of the new catalogue find gives %q", out)
	}
}
