package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pjdExceptions are the cases of pjdfstest that tarn fails on purpose, with the row of
// docs/semantics.md that says why. Every other failure is a fault.
var pjdExceptions = []struct {
	cases *regexp.Regexp
	why   string
}{
	{regexp.MustCompile(`::(fifo|block|char|socket)$|^(mkfifo|mknod)::|^open::(fifo_nonblock_wronly|socket_error)$`), "N8: no devices, pipes and sockets"},
	{regexp.MustCompile(`^link::|^(unlink::update_ctime_success|unlink::unchanged_ctime_failed|rename::preserve_metadata|rename::to_multiply_linked)::regular$`), "N8: no hard links"},
	{regexp.MustCompile(`^rename::updates_link_parent$`), "N5: directories have one link"},
	{regexp.MustCompile(`^utimensat::(subsecond|changes_timestamps::(regular|dir)|follow_symlink|utime_omit|y2038)$`), "access times are not kept"},
}

const pjdConfig = `
[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
`

// TestPjdfstest runs the suite where it is installed (`make pjdfstest` does that), on unsent
// files and on such as are published while it runs.
func TestPjdfstest(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("pjdfstest")
	if err != nil {
		t.Skip("pjdfstest is not installed (make pjdfstest)")
	}
	needRoot(t)
	for name, delay := range map[string]string{"unsent": "1h", "published": "1ms"} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "journal: {delay: "+delay+"}\ncache: {limit: 8G}\n") // a case writes beyond 2 GiB
			config := filepath.Join(s.dir, "pjdfstest.toml")
			put(t, config, pjdConfig)
			for p := filepath.Dir(s.mnt); strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) {
				must(t, os.Chmod(p, 0o755)) // the other users must get as far as the mount
			}
			s.mount("--allow-other")
			dir := s.path("ctao/pjd")
			must(t, errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)))
			out, err := exec.Command(program, "-c", config, "-p", dir).CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			passed, excepted := 0, map[string]int{}
			for line := range strings.Lines(string(out)) {
				f := strings.Fields(line)
				if len(f) != 2 || !strings.Contains(f[0], "::") {
					continue
				}
				switch f[1] {
				case "ok":
					passed++
				case "FAILED":
					why := ""
					for _, x := range pjdExceptions {
						if x.cases.MatchString(f[0]) {
							why = x.why
						}
					}
					if excepted[why]++; why == "" {
						_, after, _ := strings.Cut(string(out), line)
						t.Errorf("%s:\n%s", f[0], after[:min(len(after), 600)])
					}
				}
			}
			t.Logf("%d cases passed; exceptions: %v", passed, excepted)
			if passed < 150 {
				t.Errorf("that few cases are not the suite:\n%s", lastLines(string(out), 20))
			}
			s.kill()
		})
	}
}
