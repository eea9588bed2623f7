package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends/storage/xrootd"
	"tarn/integration/needed"
)

// tarn is the program under test, built once.
var tarn string

// roles are what this program does as a child of a test, by name; see helper.
var roles = map[string]func(args []string) error{}

// helper is this program as a process of its own, in a role.
func helper(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "TARN_TEST_ROLE="+role, "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	return owned(cmd, syscall.SIGKILL)
}

// owned makes a process get a signal when this one ends, even by kill -9.
func owned(cmd *exec.Cmd, sig syscall.Signal) *exec.Cmd {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = sig
	return cmd
}

func TestMain(m *testing.M) {
	if role := os.Getenv("TARN_TEST_ROLE"); role != "" {
		if err := roles[role](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	syscall.Exit(run(m)) // as tarn does
}

func run(m *testing.M) int {
	// A program built with -race waits for a second before it ends, unless told not to.
	os.Setenv("GORACE", "halt_on_error=1 atexit_sleep_ms=0")
	if tarn = os.Getenv("TARN_BIN"); tarn != "" {
		return m.Run() // a program that is there already
	}
	dir, err := os.MkdirTemp("", "tarn-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	tarn = filepath.Join(dir, "tarn")
	args := []string{"build", "-o", tarn}
	if raceEnabled {
		args = append(args, "-race") // the daemon is where the races are
	}
	if xrootd.Library() != "" {
		args = append(args, "-tags", "xrdcl") // as these tests
	}
	cmd := exec.Command("go", append(args, "../cmd/tarn")...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build tarn:", err)
		return 1
	}
	return m.Run()
}

// missing ends a test that needs what this machine has not.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	needed.Missing(t, format, args...)
}

// needTools asks for programs.
func needTools(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			missing(t, "%s is not installed (scripts/setup.sh installs it)", n)
		}
	}
}

// crab is the folder of real event lists, which does not travel with the project.
func crab(t testing.TB) string {
	t.Helper()
	for _, p := range []string{os.Getenv("TARN_CRAB"), "../../shared/data/joint-crab"} {
		if st, err := os.Stat(p); p != "" && err == nil && st.IsDir() {
			abs, err := filepath.Abs(p)
			if err != nil {
				t.Fatal(err)
			}
			return abs
		}
	}
	t.Skip("joint-crab data is not here (set TARN_CRAB)")
	return ""
}

// site is a demo lake in a temporary folder, and its mount while there is one.
type site struct {
	t      testing.TB
	dir    string // the lake's
	mnt    string
	cache  string // where the hot cache is
	daemon *exec.Cmd
	log    *tail
	exited chan error

	below      string // the directory of the mount that is a lake, where it is the root of several
	supervised bool   // mount as users do; without it kill is the end of the only process

	logs     []*tail          // of all daemons so far
	expected []*regexp.Regexp // of what they may complain about
}

// tail keeps the last lines of a daemon, for a test that fails, and all its complaints.
type tail struct {
	mu     sync.Mutex
	lines  []string
	errors []string
}

// complaint tells a line of a log that no healthy daemon writes.
func complaint(line string) bool {
	return strings.Contains(line, "level=ERROR") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") ||
		strings.HasPrefix(line, "unexpected fault address") || strings.Contains(line, "DATA RACE")
}

// expect names complaints of the daemon that the test provokes; every other one fails it.
func (s *site) expect(patterns ...string) {
	for _, p := range patterns {
		s.expected = append(s.expected, regexp.MustCompile(p))
	}
}

func (l *tail) follow(r io.Reader, done func()) {
	defer done()
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		l.mu.Lock()
		if l.lines = append(l.lines, sc.Text()); len(l.lines) > 4000 {
			l.lines = l.lines[1000:]
		}
		if complaint(sc.Text()) && len(l.errors) < 100 {
			l.errors = append(l.errors, sc.Text())
		}
		l.mu.Unlock()
	}
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// newSite makes a demo lake; local is the text of its lake.local.yaml. Tape runs
// 100,000 times as fast as real unless local says otherwise.
func newSite(t testing.TB, local string) *site {
	t.Helper()
	s := bareSite(t)
	s.ok("init", "--demo", s.dir)
	if local == "" {
		local = "{}"
	}
	writeFiles(t, s.dir, map[string]string{"lake.local.yaml": local})
	return s
}

// newLake makes the lake of a lake.yaml, which says nothing of where the hot cache is.
func newLake(t testing.TB, yaml string) *site {
	t.Helper()
	s := bareSite(t)
	writeFiles(t, s.dir, map[string]string{"lake.yaml": yaml})
	s.ok("config", "check", s.dir)
	s.ok("init", s.dir)
	return s
}

// bareSite has a folder for a lake, and a mount point.
func bareSite(t testing.TB) *site {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		missing(t, "no /dev/fuse: %v", err)
	}
	needTools(t, "fusermount3")
	dir := t.TempDir()
	s := &site{t: t, dir: filepath.Join(dir, "lake"), mnt: filepath.Join(dir, "mnt"), cache: filepath.Join(dir, "lake/cache")}
	if err := os.Mkdir(s.mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.down)
	return s
}

// mount starts the daemon in the foreground of a child process and waits until the
// mount is usable; wrap is a command put before it (strace, prlimit).
func (s *site) mount(args ...string) { s.mountWith(nil, args...) }

func (s *site) mountWith(wrap []string, args ...string) {
	s.t.Helper()
	if err := s.tryMount(wrap, args...); err != nil {
		s.t.Fatalf("mount: %v\n%s", err, s.log)
	}
}

func (s *site) tryMount(wrap []string, args ...string) error {
	s.t.Helper()
	argv := append(append(append([]string{}, wrap...), tarn, "mount", "-f", fmt.Sprintf("--supervise=%v", s.supervised), s.dir, s.mnt), args...)
	s.daemon = owned(exec.Command(argv[0], argv[1:]...), syscall.SIGTERM)
	s.daemon.Env = append(os.Environ(), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	pr, pw, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.daemon.Stdout, s.daemon.Stderr = pw, pw
	if err := s.daemon.Start(); err != nil {
		s.t.Fatal(err)
	}
	pw.Close()
	s.log = &tail{}
	s.logs = append(s.logs, s.log)
	drained := make(chan struct{})
	go s.log.follow(pr, func() { pr.Close(); close(drained) })
	exited := make(chan error, 1)
	s.exited = exited
	cmd := s.daemon
	go func() {
		err := cmd.Wait()
		<-drained
		exited <- err
	}()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-exited:
			s.daemon = nil
			return fmt.Errorf("daemon ended: %v", err)
		default:
		}
		if s.mounted() {
			return nil
		}
	}
	return errors.New("not mounted after 20 s")
}

// mounted tells whether the mountpoint answers as a tarn mount: in a dead one stat may
// succeed from the kernel's memory and a read does not; the folder below has no .tarn.
func (s *site) mounted() bool {
	b, err := os.ReadFile(filepath.Join(s.mnt, s.below, ".tarn/stats"))
	return err == nil && len(b) > 0
}

// kill is a kill -9 of the daemon; the dead mount is left as it is.
func (s *site) kill() {
	s.t.Helper()
	if s.daemon == nil {
		return
	}
	if err := s.daemon.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	s.buried(s.daemon.Process.Pid)
}

// buried waits for the end of a daemon that was killed. One that cannot end before its mount
// does is freed as its supervisor would: not by a command, because a child of ours would
// first close its copies of our open files there, and so hang as well.
func (s *site) buried(pid int) {
	s.t.Helper()
	for end := time.Now().Add(15 * time.Second); ; {
		select {
		case <-s.exited:
			s.daemon = nil
			return
		case <-time.After(500 * time.Millisecond):
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		undead := strings.Contains(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z ")
		late := time.Now().After(end)
		if late || undead {
			if err := unix.Unmount(s.mnt, unix.MNT_FORCE); err != nil && err != unix.EBUSY && err != unix.EINVAL {
				s.t.Errorf("umount by force: %v", err)
			}
		}
		if late {
			s.t.Errorf("the daemon lives 15 s after kill -9\n%s", s.log)
			end = time.Now().Add(time.Hour) // the end of the test ends it, or its time limit
		}
	}
}

// umount ends the mount as a user does and wants the daemon gone, with exit code 0.
func (s *site) umount(args ...string) {
	s.t.Helper()
	s.ok(append(append([]string{"umount"}, args...), s.mnt)...)
	select {
	case err := <-s.exited:
		if err != nil {
			s.t.Errorf("daemon after umount: %v\n%s", err, s.log)
		}
	case <-time.After(30 * time.Second):
		s.t.Fatalf("daemon lives 30 s after umount\n%s", s.log)
	}
	s.daemon = nil
}

// down cleans up whatever state a test left.
func (s *site) down() {
	if s.t.Failed() && s.log != nil {
		s.t.Logf("daemon's log:\n%s", lastLines(s.log.String(), 60))
	}
	if s.log != nil && strings.Contains(s.log.String(), "DATA RACE") {
		s.t.Errorf("data race in the daemon:\n%s", s.log)
	}
	if s.daemon != nil {
		s.daemon.Process.Signal(syscall.SIGKILL) // an error means it has ended
		s.buried(s.daemon.Process.Pid)
	}
	for range 3 {
		if b, _ := os.ReadFile("/proc/self/mounts"); !strings.Contains(string(b), " "+s.mnt+" ") {
			break
		}
		exec.Command("fusermount3", "-u", "-z", s.mnt).Run() // what fails is seen by the next look
	}
	if b, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(b), " "+s.mnt+" ") {
		s.t.Errorf("%s is still mounted", s.mnt)
	}
	for _, l := range s.logs {
		l.mu.Lock()
		for _, e := range l.errors {
			if !slices.ContainsFunc(s.expected, func(r *regexp.Regexp) bool { return r.MatchString(e) }) {
				s.t.Errorf("the daemon complained: %s", e)
			}
		}
		l.mu.Unlock()
	}
}

func lastLines(s string, n int) string {
	l := strings.Split(s, "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// result is what a command printed and how it ended.
type result struct {
	out, err string
	code     int
}

// try runs a tarn command.
func (s *site) try(args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tarn, args...)
	cmd.Env = append(os.Environ(), "TARN_LAKE="+s.dir, "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		s.t.Fatalf("tarn %q: %v", args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok runs a tarn command that must succeed, and gives its stdout.
func (s *site) ok(args ...string) string {
	s.t.Helper()
	r := s.try(args...)
	if r.code != 0 {
		s.t.Fatalf("tarn %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// rows runs a tarn command with --json and decodes its lines.
func (s *site) rows(args ...string) (out []map[string]any) {
	s.t.Helper()
	dec := json.NewDecoder(strings.NewReader(s.ok(append(args, "--json")...)))
	for {
		var m map[string]any
		err := dec.Decode(&m)
		if err == io.EOF {
			return out
		}
		if err != nil {
			s.t.Fatalf("tarn %q --json: %v", args, err)
		}
		out = append(out, m)
	}
}

// sh runs a shell command in the mount and wants exit code 0.
func (s *site) sh(script string) string {
	s.t.Helper()
	out, err := s.trySh(script)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (s *site) trySh(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -e -o pipefail; "+script)
	cmd.Dir = s.mnt
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// stats reads the mount's own counters.
func (s *site) stats() map[string]any {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.mnt, ".tarn/stats"))
	if err != nil {
		s.t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// recalled is how many files were brought from tape since the mount began.
func (s *site) recalled() int {
	s.t.Helper()
	lake, ok := s.stats()["lake"].(map[string]any)
	if !ok {
		s.t.Fatalf(".tarn/stats has no lake counters: %v", s.stats())
	}
	n, ok := lake["files_recalled"].(float64)
	if !ok {
		s.t.Fatalf(".tarn/stats has no files_recalled: %v", lake)
	}
	return int(n)
}

// drain waits until nothing is unsent.
func (s *site) drain() {
	s.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left := s.rows("uploads", "ls")
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("unsent after a minute: %v", left)
		}
	}
}

func sum(t testing.TB, path string) string {
	t.Helper()
	out, err := sha256Of(path)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sha256Of(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// tree gives the checksum of every regular file below dir, by relative path. One that vanishes
// between the listing and the reading is not there.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		s, err := sha256Of(p)
		if errors.Is(err, os.ErrNotExist) {
			return nil // a site's old generations are removed meanwhile
		}
		out[rel] = s
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
