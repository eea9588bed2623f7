package integration

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// posixExceptions are the tests of go-fuse's suite that tarn fails on purpose.
var posixExceptions = map[string]string{
	"Link":             "N8: a DID has one name",
	"LinkUnlinkRename": "N8: a DID has one name",
	// It wants EAGAIN from a process's own lock, which POSIX converts, as local disks do.
	"FcntlFlockLocksFile": "not what POSIX says",
}

// TestPosix runs go-fuse's own suite below a scope.
func TestPosix(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	s.mount()
	names := slices.Sorted(maps.Keys(posixtest.All))
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			if why, ok := posixExceptions[name]; ok {
				t.Skip(why)
			}
			dir := s.path("ctao", "dl0", name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, dir)
		})
	}
	for name := range posixExceptions {
		if posixtest.All[name] == nil {
			t.Errorf("exception %s is no test of the suite", name)
		}
	}
	s.drain()
}

// TestSharedChecks runs black-box check scripts that are kept beside the project, where they are.
func TestSharedChecks(t *testing.T) {
	t.Parallel()
	dir, err := filepath.Abs("../../shared/checks")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the check scripts do not travel with the project")
	}
	needTools(t, "gcc", "rsync", "sqlite3", "git", "setfattr")
	rel := t.TempDir()
	env := append(os.Environ(), "REL="+rel, "NICE=")
	build := exec.Command("go", "build", "-o", filepath.Join(rel, "build", "fscheck"), ".")
	build.Dir = filepath.Join(dir, "src", "fscheck")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build fscheck: %v\n%s", err, out)
	}
	s := newSite(t, "")
	s.mount()
	failures := regexp.MustCompile(`(?m)^RESULT .* fail=0 `)
	t.Run("all", func(t *testing.T) {
		names := []string{"semantics", "names", "mmap", "locks", "sqlite"}
		if !raceEnabled && !testing.Short() {
			names = append(names, "git", "roundtrip") // long, and not about what the detector looks for
		}
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				work := s.path("ctao", "dl0")
				cmd := exec.Command("bash", filepath.Join(dir, "t-"+name+".sh"), work)
				cmd.Env = env
				out, err := cmd.CombinedOutput()
				if err != nil || !failures.Match(out) {
					t.Errorf("%v\n%s", err, out)
				}
				for line := range strings.Lines(string(out)) {
					if strings.HasPrefix(line, "RESULT") || strings.HasPrefix(line, "skip") {
						t.Log(strings.TrimSpace(line))
					}
				}
			})
		}
	})
}
