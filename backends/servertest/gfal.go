package servertest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"tarn/integration/needed"
)

// GfalCopy runs gfal-copy, the client that sites and FTS use, which judges storages from outside. vars are added to its
// environment.
func GfalCopy(t testing.TB, vars []string, args ...string) {
	t.Helper()
	needed.Server(t)
	bin, err := exec.LookPath("gfal-copy")
	if err != nil {
		needed.Missing(t, "gfal-copy is not installed (packages gfal2-util-scripts and python3-gfal2-util)")
	}
	plugins, _ := filepath.Glob("/usr/lib/*/gfal2-plugins/libgfal_plugin_*.so")
	if len(plugins) < 3 {
		needed.Missing(t, "gfal-copy lacks protocols (packages gfal2-plugin-file, gfal2-plugin-gridftp, gfal2-plugin-http, gfal2-plugin-xrootd)")
	}
	cmd := exec.Command(bin, append([]string{"-t", "120"}, args...)...)
	// Its script looks for a python that Debian has not got.
	cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir(), "GFAL_PYTHONBIN=/usr/bin/python3"), vars...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	// It aborts now and then when it is done and ends: the bytes decide, which the test compares.
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err != nil && !(ok && st.Signaled() && st.Signal() == syscall.SIGABRT) {
		t.Fatalf("gfal-copy %q: %v\n%s", args, err, out)
	}
}

// Seen is a storage as its own client sees it, and gfal-copy.
type Seen struct {
	URL  string
	Vars []string // of gfal-copy's environment
	Args []string // of gfal-copy when it writes
	Put  func(path string, data []byte)
	Get  func(path string) ([]byte, error)
}

// GfalSeesTheSame wants gfal-copy to read what the storage's client wrote, and the client to read what gfal-copy wrote.
func GfalSeesTheSame(t testing.TB, s Seen) {
	t.Helper()
	data := make([]byte, 5<<20+3)
	rand.NewChaCha8([32]byte{13}).Read(data)
	s.Put("d/ours", data)
	copied := filepath.Join(t.TempDir(), "copy")
	GfalCopy(t, s.Vars, s.URL+"/d/ours", "file://"+copied)
	if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, data) {
		t.Errorf("gfal-copy reads other bytes: %v", err)
	}
	args := append(slices.Clone(s.Args), "-K", "adler32", "file://"+copied, s.URL+"/d/theirs")
	GfalCopy(t, s.Vars, args...)
	if got, err := s.Get("d/theirs"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("we read other bytes than gfal-copy wrote: %v", err)
	}
}
