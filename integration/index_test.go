package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"tarn/backends/servertest"
)

const fromIndex = "from the index as of"

// finds runs tarn find, and tells what it prints on stdout and whether that is from the index.
func (s *site) finds(args ...string) (paths string, indexed bool) {
	s.t.Helper()
	r := s.try(append([]string{"find"}, args...)...)
	if r.code != 0 {
		s.t.Fatalf("find %q: %s", args, r.err)
	}
	return r.out, strings.Contains(r.err, fromIndex)
}

// foundInIndex wants these paths, from the index.
func (s *site) foundInIndex(want string, args ...string) {
	s.t.Helper()
	if got, indexed := s.finds(args...); got != want || !indexed {
		s.t.Errorf("find %q gives %q (from the index: %v), want %q", args, got, indexed, want)
	}
	if got, indexed := s.finds(append(args, "--no-index")...); got != want || indexed {
		s.t.Errorf("find %q --no-index gives %q (from the index: %v), want %q", args, got, indexed, want)
	}
}

// An index is made through the daemon, has what is written in the mount at once, and is right after kill -9 and without a daemon.
func TestIndex(t *testing.T) {
	s := newSite(t, "")
	s.mount()
	s.sh("mkdir -p ctao/dl3/set && echo 1 > ctao/dl3/set/a && echo 2 > ctao/dl3/set/b && setfattr -n user.level -v DL3 ctao/dl3/set")
	s.drain()
	if _, indexed := s.finds("level=DL3"); indexed {
		t.Error("there is an index of nothing")
	}
	if rows := s.rows("index"); len(rows) != 1 || rows[0]["path"] != "/" {
		t.Errorf("index: %v", rows)
	}
	all := "/ctao/dl3/set/\n/ctao/dl3/set/a\n/ctao/dl3/set/b\n"
	s.foundInIndex(all, "level=DL3")
	s.sh("echo 3 > ctao/dl3/set/c; mv ctao/dl3/set/a ctao/dl3/moved; setfattr -n user.level -v DL4 ctao/dl3/set/b; rm ctao/dl3/moved")
	s.drain()
	s.foundInIndex("/ctao/dl3/set/\n/ctao/dl3/set/c\n", "level=DL3")
	s.foundInIndex("/ctao/dl3/set/b\n", "/ctao/dl3", "level=DL4")
	if got := s.sh("ls .tarn/find/level=DL4"); got != "b\n" {
		t.Errorf(".tarn/find gives %q", got)
	}
	s.ok("undelete", "/ctao/dl3/moved")
	s.foundInIndex("/ctao/dl3/moved\n", "name=moved")
	s.kill()
	s.ok("umount", s.mnt)
	s.foundInIndex("/ctao/dl3/set/b\n", "level=DL4")
	s.ok("meta", "set", "/ctao/dl3/set/c", "level=DL5")
	if r := s.try("find", "level=DL5", "--set", "index.max_age=1ms"); strings.Contains(r.err, fromIndex) || !strings.Contains(r.err, "`tarn index` makes it anew") {
		t.Errorf("of an index that is too old it is said: %s", r.err)
	}
	s.mount()
	s.foundInIndex("/ctao/dl3/set/c\n", "level=DL5")
	s.ok("index", "/ctao/dl3")
	if rows := s.rows("index", "ls"); len(rows) != 2 || rows[0]["path"] != "/ctao/dl3" {
		t.Errorf("index ls: %v", rows)
	}
	s.foundInIndex("/ctao/dl3/set/c\n", "/ctao/dl3", "level=DL5")
	s.ok("index", "rm")
	if _, indexed := s.finds("level=DL5"); indexed {
		t.Error("what was forgotten answers")
	}
	if r := s.try("index", "rm"); r.code != 9 {
		t.Errorf("index rm of nothing ends with %d, want 9", r.code)
	}
	s.umount()
}

// A daemon makes what is indexed anew by itself.
func TestIndexEvery(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("make test-long runs it") // it takes a minute
	}
	s := newSite(t, "index: {every: 1m}\n")
	s.ok("index")
	was := s.rows("index", "ls")[0]["as_of"]
	s.mount()
	s.within(90*time.Second, "it is made anew", func() bool { return s.rows("index", "ls")[0]["as_of"] != was })
	s.umount()
}

// On a Rucio server's lake the index has what is changed here at once, and what others change when it is made again.
func TestRucioIndex(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	disk, _ := g.folderDisk()
	g.upload(disk, "old.dat", 1000)
	g.rucio("did", "add", "--type", "dataset", g.scope+":olds")
	g.rucio("did", "content", "add", "--to-did", g.scope+":olds", g.scope+":old.dat")
	g.rucio("did", "metadata", "add", "--key", "level", "--value", "DL3", g.scope+":olds")
	g.lake(disk, "", "")
	g.mount()
	g.ok("index")
	top := "/" + g.scope
	olds := top + "/olds/\n" + top + "/olds/old.dat\n"
	g.foundInIndex(olds, "level=DL3")
	g.foundInIndex(olds, top, "level=DL3")
	g.sh("mkdir " + g.path(g.scope, "run7"))
	g.write(g.scope+"/run7/new.dat", 2000)
	g.drain()
	g.ok("meta", "set", top+"/run7", "level=DL4")
	g.foundInIndex(top+"/run7/\n"+top+"/run7/new.dat\n", "level=DL4")
	g.upload(disk, "other.dat", 500)
	g.rucio("did", "content", "add", "--to-did", g.scope+":olds", g.scope+":other.dat")
	if got, indexed := g.finds("level=DL3"); got != olds || !indexed {
		t.Errorf("before it is made again the index gives %q (%v)", got, indexed)
	}
	g.ok("index")
	g.foundInIndex(olds+top+"/olds/other.dat\n", "level=DL3")
	g.umount()
}
