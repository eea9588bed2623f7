package integration

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTwoUsers: on a mount for all users the catalogue's owner and mode decide, also about
// what is in the cache already, and the daemon's own files are closed to others.
func TestTwoUsers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needTools(t, "setpriv")
	s := newSite(t, "journal: {delay: 12h}\n")
	for p := filepath.Dir(s.mnt); strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755)) // the others must get as far as the mount
	}
	s.mount("--allow-other")
	as := func(uid int, script string) (string, error) {
		id := fmt.Sprint(uid)
		cmd := exec.Command("setpriv", "--reuid="+id, "--regid="+id, "--clear-groups", "--", "sh", "-c", script)
		cmd.Dir = s.path("ctao/dl3")
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	const a, b = 61001, 61002
	ok := func(uid int, script string) {
		t.Helper()
		if out, err := as(uid, script); err != nil {
			t.Errorf("%d: %s: %v: %s", uid, script, err, out)
		}
	}
	refused := func(uid int, words, script string) {
		t.Helper()
		if out, err := as(uid, script); err == nil || !strings.Contains(out, words) {
			t.Errorf("%d: %s: %v: %s; want %s", uid, script, err, out, words)
		}
	}
	must(t, os.Mkdir(s.path("ctao/dl3/a"), 0o755))
	must(t, os.Chown(s.path("ctao/dl3/a"), a, a))
	must(t, os.Mkdir(s.path("ctao/dl3/all"), 0o777))
	must(t, unix.Chmod(s.path("ctao/dl3/all"), 0o1777))
	ok(a, "umask 077; echo secret > a/secret; mkdir a/closed; echo inside > a/closed/f; echo shown > a/shown; chmod 644 a/shown; echo mine > all/f; chmod 666 all/f; "+
		"umask 022; echo open > a/later; chmod 600 a/later")
	check := func(when string) {
		t.Helper()
		t.Log(when)
		const no, notMine = "Permission denied", "Operation not permitted"
		for range 2 { // before and after the owner writes anew, which begins another content
			ok(a, "cat a/secret a/closed/f a/shown a/later >/dev/null")
			for _, name := range []string{"a/secret", "a/later", "a/closed/f"} {
				refused(b, no, "cat "+name)
				ok(a, "echo more >> "+name)
			}
		}
		ok(b, "cat a/shown >/dev/null; ls a >/dev/null")
		for _, script := range []string{"cat a/secret", "cat a/closed/f", "ls a/closed", "echo x > a/new", "echo x >> a/shown", "mkdir a/d", "rm -f a/shown", "mv a/shown a/other", ": > a/secret", "ln -s x a/link"} {
			refused(b, no, script)
		}
		for _, script := range []string{"chmod 777 a/shown", "chown 61002 a/shown", "rm -f all/f", "mv all/f all/g"} {
			refused(b, notMine, script)
		}
		refused(a, notMine, "chown 61002 a/shown")
		ok(b, "echo x >> all/f")
	}
	check("unsent")
	s.kill()
	s.mount("--allow-other")
	check("unsent, after a crash")
	s.kill()
	put(t, filepath.Join(s.dir, "lake.local.yaml"), "journal: {delay: 20ms}\n")
	s.mount("--allow-other")
	s.drain()
	check("published, in the cache")
	s.drain()
	s.umount()
	s.mount("--allow-other")
	check("after a restart")
	s.drain()
	for _, dir := range []string{"cache", "journal", "catalogue", "run"} {
		root := filepath.Join(s.dir, dir)
		if st, err := os.Stat(root); err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v; want it closed to others", dir, st.Mode(), err)
		}
		refused(b, "Permission denied", "ls "+root)
		if dir == "catalogue" {
			continue // its database makes files of its own modes in there
		}
		must(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			in, ierr := os.Lstat(p)
			if err == nil && ierr == nil && d.Type()&fs.ModeSymlink == 0 && in.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", p, in.Mode())
			}
			return nil // what is gone meanwhile is nobody's
		}))
	}
	s.umount()
}
