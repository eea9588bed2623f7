package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// command is one run of tarn: what it prints and how it ends. With json, it is run a second
// time with --json, and each of at least rows lines must be an object with these keys.
type command struct {
	args string // split at spaces; SRC, OUT, UPLOAD and RULE stand for what is known at run time only
	code int
	out  string // of stdout, or of stderr when the code is not 0: what it must match
	rows int
	json string
}

// commands are run in this order, with a daemon and without one. They begin with a lake
// whose /ctao/dl3/set has two files on tape, run0.fits and run1.fits.
var commands = []command{
	{args: "ls /ctao", out: `^dl0/\ndl1/\ndl3/\n$`, rows: 3, json: "path type mode inode"},
	{args: "ls -l /ctao/dl3/set", out: `NEARLINE +50000 .* run0\.fits\n.*run1\.fits\n`, rows: 2, json: "path size locality mtime"},
	{args: "ls -lR /", out: `(?s)/ctao/dl3/set/run0\.fits.*/user\.`, rows: 7, json: "path type"},
	{args: "ls -d /ctao/dl3/set", out: `^set/\n$`, rows: 1, json: "path type"},
	{args: "ls /ctao/nothing", code: 4, out: `/ctao/nothing.*no nothing`},
	{args: "ls /ctao/dl3/set/run0.fits", out: `^run0\.fits\n$`, rows: 1, json: "path size"},
	{args: "ls --colour", code: 2, out: `no flag --colour`},
	{args: "stat /ctao/dl3/set/run0.fits", out: `(?s)size +50000 bytes.*locality +NEARLINE.*sha256 +[0-9a-f]{64}\n.*replica +PIC-TAPE AVAILABLE NEARLINE`, rows: 1, json: "path did size checksums locality replicas state"},
	{args: "stat /nowhere/x", code: 3, out: `nowhere`},
	{args: "stat", code: 2, out: `wants at least 1 argument`},
	{args: "find name=run0.fits", out: `^/ctao/dl3/set/run0\.fits\n$`, rows: 1, json: "path"},
	{args: "find /ctao size>1000", out: `^/ctao/dl3/set/run0\.fits\n/ctao/dl3/set/run1\.fits\n$`, rows: 2, json: "path size"},
	{args: "find obs_id>", code: 2, out: `obs_id>`},
	{args: "du /ctao/dl3", out: `100001 +2 +`, rows: 1, json: "path bytes files directories"},
	{args: "du -l /ctao/dl3", out: `nearline`, rows: 1, json: "nearline_bytes"},
	{args: "put SRC/new.txt /ctao/dl0/new.txt", out: ``},
	{args: "put SRC/new.txt /ctao/dl0/new.txt", code: 1, out: `exists already`},
	{args: "put SRC/nowhere.txt /ctao/dl0/x", code: 4, out: `nowhere\.txt`},
	{args: "put SRC/new.txt /ctao/dl9/x", code: 3, out: `dl9`},
	{args: "cat /ctao/dl0/new.txt", out: `^new\n$`},
	{args: "cat /ctao/dl0", code: 2, out: `directory`},
	{args: "get /ctao/dl0/new.txt OUT/got.txt", out: ``},
	{args: "get -r /ctao/dl0 OUT/all", out: ``},
	{args: "get /ctao/dl0/nothing OUT/x", code: 4, out: `nothing`},
	{args: "stage --dry-run /ctao/dl3/set", out: `(?s)2 files, .*to recall: 2 files, .*1 tape.* mounts?, in about`, rows: 1, json: "files bytes online tapes mounts time recall"},
	{args: "explain /ctao/dl3/set/run0.fits", out: `(?s)waits for a recall from tape.*PIC-TAPE AVAILABLE`, rows: 1, json: "path next candidates locality"},
	{args: "stage --wait /ctao/dl3/set/run0.fits", out: `^1 file staged, `},
	{args: "stage --wait /ctao/dl3/set/run0.fits", out: `all of 1 file online already`, rows: 1, json: "plan result"},
	{args: "explain /ctao/dl3/set/run0.fits", out: `served from the hot cache`},
	{args: "stage --wait /ctao/nothing", code: 4, out: `nothing`},
	{args: "pin --for 1h /ctao/dl3/set/run0.fits", out: `online already`},
	{args: "evict /ctao/dl3/set/run0.fits", code: 6, out: `(?s)run0\.fits.*in use`},
	{args: "cache ls", out: `whole`, rows: 1, json: "key size resident whole"},
	{args: "unpin /ctao/dl3/set/run0.fits", out: `^1 pin ended`},
	{args: "evict /ctao/dl3/set/run0.fits", out: `^1 file evicted, `},
	{args: "evict /ctao/dl3/set", out: `2 held nothing`, rows: 1, json: "done skipped"},
	{args: "cat /ctao/dl3/set/run1.fits", out: `^SIMPLE  =`},
	{args: "replicas /ctao/dl3/set", out: `(?s)PIC-TAPE +AVAILABLE +NEARLINE .*run0.*PIC-TAPE +AVAILABLE`, rows: 2, json: "rse pfn state locality path"},
	{args: "verify /ctao/dl0/new.txt /ctao/dl3/set/run0.fits", out: `3 replicas good, 0 not`, rows: 3, json: "rse ok path"},
	{args: "verify /ctao/nothing", code: 4, out: `nothing`},
	{args: "cache scrub", out: `0 damaged`, rows: 1, json: "files bytes"},
	{args: "uploads ls", out: `^$`},
	{args: "uploads retry nothing", code: 4, out: `upload nothing: does not exist`},
	{args: "uploads cancel nothing", code: 4, out: `upload nothing: does not exist`},
	{args: "recalls ls", out: ``},
	{args: "recalls retry nothing", code: 4, out: `nothing`},
	{args: "recalls cancel nothing", code: 4, out: `nothing`},
	{args: "recalls allow one", code: 2, out: `not a process id`},
	{args: "rse ls", out: `(?s)LAPALMA-DISK +disk .*country=ES.*PIC-TAPE +tape`, rows: 4, json: "name kind attributes total free"},
	{args: "rule ls /ctao/dl0/new.txt", out: `1 +country=ES&rse_type=DISK .*/ctao/dl0/new\.txt`, rows: 2, json: "id state copies expression path"},
	{args: "rule ls --state STUCK", out: `^$`},
	{args: "rule ls --state LOST", code: 2, out: `want OK, REPLICATING or STUCK`},
	{args: "rule add /ctao/dl1 country=IT --copies 1 --comment why", out: `^[0-9a-f]{32}\n$`},
	{args: "rule add /ctao/dl1 country=FR", code: 2, out: `matches 0 of the lake's RSEs`},
	{args: "rule add /ctao/dl1 country=(", code: 2, out: `country`},
	{args: "rule ls /ctao/dl1", out: `country=IT`, rows: 1, json: "id expression"},
	{args: "rule rm RULE", out: `1 rule removed`},
	{args: "rule rm RULE", code: 4, out: `does not exist`},
	{args: "meta set /ctao/dl3/set obs_id=5029747 level=DL3", out: `metadata of 1 path set`},
	{args: "meta get /ctao/dl3/set", out: `(?s)level +DL3\nobs_id +5029747\n`, rows: 1, json: "path meta"},
	{args: "meta get /ctao/dl3/set obs_id", out: `5029747`},
	{args: "find obs_id=5029747", out: `(?m)^/ctao/dl3/set/run1\.fits$`, rows: 3, json: "path"},
	{args: "meta set /ctao/nothing a=b", code: 4, out: `nothing`},
	{args: "put --replace SRC/newer.txt /ctao/dl0/new.txt", out: ``},
	{args: "cat /ctao/dl0/new.txt", out: `^newer\n$`},
	{args: "undelete --list /ctao/dl0", out: `new\.txt`, rows: 1, json: "path"},
	{args: "undelete /ctao/dl0/new.txt", out: ``},
	{args: "cat /ctao/dl0/new.txt", out: `^new\n$`},
	{args: "undelete /ctao/dl3/set/run0.fits", code: 4, out: `nothing of .* can be undeleted`},
	{args: "catalogue mkdir /ctao/prod5b/gamma/Data /ctao/dl3", out: `^2 directories\n$`, rows: 1, json: "Successful Failed"},
	{args: "catalogue mkdir /nowhere/x", code: 3, out: `there is no scope /nowhere`},
	{args: "catalogue mkdir /ctao/dl0/new.txt/x", code: 3, out: `collection`},
	{args: "catalogue field add -d thetaP float", out: `^thetaP declared\n$`, rows: 1, json: "done"},
	{args: "catalogue field add -f run int", out: `declared`},
	{args: "catalogue field add -f thetaP float", code: 1, out: `thetaP is declared as float of a directory: exists already`},
	{args: "catalogue field add thetaP float", code: 2, out: `-f for a field of files`},
	{args: "catalogue field add -f SE string", code: 2, out: `one of the names that every file has`},
	{args: "catalogue field add -f x number", code: 2, out: `want int, float, string or date`},
	{args: "catalogue field ls", out: `run +int +file\nthetaP +float +directory\n`, rows: 1, json: "FileMetaFields DirectoryMetaFields"},
	{args: "put SRC/new.txt /ctao/prod5b/gamma/Data/run1", out: ``},
	{args: "put SRC/newer.txt /ctao/prod5b/gamma/Data/run2", out: ``},
	{args: "catalogue meta set /ctao/prod5b/gamma thetaP=20.0 particle=gamma-diffuse", out: `of 1 path set`, rows: 1, json: "Successful Failed"},
	{args: "catalogue meta set /ctao/prod5b/gamma/Data thetaP=40", code: 1, out: `metadata conflict: thetaP is set on /ctao/prod5b/gamma already`},
	{args: "meta set /ctao/prod5b/gamma/Data/run1 run=one", code: 2, out: `run is declared int: want a whole number, not "one"`},
	{args: "catalogue meta set /ctao/prod5b/gamma/Data/run1 run=1 guid=0001", out: `set`},
	{args: "meta set /ctao/prod5b/gamma/Data/run2 run=2", out: `set`},
	{args: "catalogue meta set --from SRC/nowhere.json", code: 4, out: `nowhere`},
	{args: "catalogue meta set --from SRC/new.txt", code: 2, out: `not of the right form`},
	{args: "catalogue meta set --from SRC/meta.json", code: 6, out: `(?s)not done: /ctao/none.*1 path failed`},
	{args: "catalogue meta get /ctao/prod5b/gamma/Data/run2", out: `(?s)note +from a file.*particle +gamma-diffuse.*run +2.*thetaP +20\n`, rows: 1, json: "Successful Failed"},
	{args: "catalogue meta get --own /ctao/prod5b/gamma/Data", out: `^$`, rows: 1, json: "Successful"},
	{args: "catalogue meta rm /ctao/prod5b/gamma/Data/run2 note", out: ``},
	{args: "catalogue meta rm /ctao/prod5b/gamma/Data/run2 note", code: 4, out: `has no metadata "note" of its own`},
	{args: "catalogue find thetaP=20.0 particle=gamma-diffuse", out: `^/ctao/prod5b/gamma/Data/run1\n/ctao/prod5b/gamma/Data/run2\n$`},
	{args: "catalogue find --json thetaP=20.0 run>1", out: `^\["/ctao/prod5b/gamma/Data/run2"\]\n$`},
	{args: "catalogue find --json thetaP=40", out: `^\[\]\n$`},
	{args: `catalogue find --json -d {"thetaP":{">=":20}}`, out: `^\["/ctao/prod5b/gamma", "/ctao/prod5b/gamma/Data"\]\n$`},
	{args: "catalogue find -m --json run=1", out: `^\{"/ctao/prod5b/gamma/Data/run1": \{"guid":"0001","particle":"gamma-diffuse","run":1,"thetaP":20\}\}\n$`},
	{args: "catalogue find --replicas run=1", out: `(?s)run1 +LAPALMA-DISK +ctao/.*run1 +PIC-TAPE`},
	{args: "catalogue find -m --replicas run=1", code: 2, out: `two questions`},
	{args: "catalogue find thetaP=steep", code: 2, out: `thetaP is declared float`},
	{args: "catalogue find /ctao/nothing run=1", code: 4, out: `nothing`},
	{args: "catalogue find /ctao/dl3 Path=/ctao/prod5b run=1", out: `^$`},
	{args: "catalogue find run=", code: 2, out: `a value`},
	{args: "find Path=/ctao/prod5b SE=PIC-TAPE run=1,7", out: `^/ctao/prod5b/gamma/Data/run1\n$`, rows: 1, json: "path"},
	{args: "find thetaP=steep", code: 2, out: `thetaP is declared float`},
	{args: "catalogue values particle=Any", out: `(?s)run +1, 2\nthetaP +20\n`, rows: 1, json: "run thetaP"},
	{args: "catalogue exists /ctao/prod5b /ctao/no /nowhere/x", out: `(?s)prod5b +true.*no +false.*x +false`, rows: 1, json: "Successful Failed"},
	{args: "catalogue isfile /ctao/prod5b/gamma/Data/run1", out: `true`, rows: 1, json: "Successful"},
	{args: "catalogue isdir /ctao/prod5b/gamma/Data/run1", out: `false`},
	{args: "catalogue filesize /ctao/prod5b/gamma/Data/run1", out: ` 4\n`},
	{args: "catalogue filesize /ctao/prod5b", code: 2, out: `is a directory`},
	{args: "catalogue stat /ctao/prod5b/gamma/Data/run1", out: `(?s)ChecksumType +Adler32.*GUID +0001.*Status +AprioriGood`, rows: 1, json: "Successful"},
	{args: "catalogue stat /ctao/none /ctao/prod5b", code: 6, out: `(?s)NumberOfSubPaths +1.*not done: /ctao/none`},
	{args: "catalogue replicas /ctao/prod5b/gamma/Data/run1", out: `(?s)LAPALMA-DISK.*PIC-TAPE`, rows: 1, json: "Successful"},
	{args: "catalogue ls /ctao/prod5b/gamma/Data", out: `(?s)run1 +file +4 +adler32 +[0-9a-f]{8}\n.*run2`, rows: 1, json: "Successful Failed"},
	{args: "catalogue ls -R --replicas /ctao/prod5b", out: `(?s)/ctao/prod5b/gamma +directory.*run2 +PIC-TAPE`, rows: 1, json: "Successful Failed"},
	{args: "catalogue ls /ctao/prod5b/gamma/Data/run1", code: 3, out: `is not a directory`},
	{args: "catalogue du -l /ctao/prod5b", out: `(?s)LogicalDirectories +2.*LogicalFiles +2.*PhysicalSize .*PIC-TAPE`, rows: 1, json: "Successful Failed"},
	{args: "catalogue dataset add PROD5b_gamma /ctao thetaP=20 run=Any", out: `^PROD5b_gamma: 2 files, 10 B\n$`},
	{args: "catalogue dataset add PROD5b_gamma thetaP=20", code: 1, out: `exists already`},
	{args: "catalogue dataset ls PROD*", out: `PROD5b_gamma +Dynamic +2 +10 +thetaP = 20 and run like \*`, rows: 1, json: "Successful Failed"},
	{args: "catalogue dataset show PROD5b_gamma", out: `(?s)files +2.*meta_query.*path +/ctao\n`, rows: 1, json: "Successful"},
	{args: "catalogue dataset show nothing", code: 4, out: `no dataset nothing`},
	{args: "catalogue dataset files PROD5b_gamma --json", out: `^\["/ctao/prod5b/gamma/Data/run1", "/ctao/prod5b/gamma/Data/run2"\]\n$`},
	{args: "catalogue dataset files nothing", code: 4, out: `no dataset nothing`},
	{args: "catalogue dataset annotate PROD5b_gamma text", out: `1 dataset annotated`, rows: 1, json: "Successful"},
	{args: "catalogue dataset freeze PROD5b_gamma", out: `1 dataset frozen`},
	{args: "catalogue dataset update PROD5b_gamma", code: 12, out: `(?s)is frozen.*release`},
	{args: "catalogue ancestors add /ctao/prod5b/gamma/Data/run2 /ctao/prod5b/gamma/Data/run1 /ctao/dl0/new.txt", out: `2 ancestors noted`, rows: 1, json: "Successful"},
	{args: "catalogue ancestors add /ctao/dl0/new.txt /ctao/prod5b/gamma/Data/run2", code: 1, out: `its own ancestor`},
	{args: "catalogue ancestors get /ctao/prod5b/gamma/Data/run2", out: `(?s)/ctao/dl0/new.txt +1\n.*run1 +1\n`, rows: 1, json: "Successful"},
	{args: "catalogue descendants --depth 0 /ctao/dl0/new.txt", out: `run2 +1\n`, rows: 1, json: "Successful"},
	{args: "catalogue ancestors get /ctao/dl0", code: 2, out: `is a directory`},
	{args: "catalogue guid 0001", out: `0001 +/ctao/prod5b/gamma/Data/run1\n`, rows: 1, json: "Successful Failed"},
	{args: "catalogue guid 0002", code: 4, out: `no file has the GUID 0002`},
	{args: "catalogue pfn PIC-TAPE:nowhere", code: 4, out: `no file has the PFN`},
	{args: "catalogue sedump PIC-TAPE", out: `/ctao/prod5b/gamma/Data/run1 +ctao/\S+ +4 +adler32:[0-9a-f]{8} +AprioriGood\n`, rows: 3, json: "lfn pfn size checksum status"},
	{args: "catalogue sedump NOWHERE", code: 4, out: `no RSE`},
	{args: "catalogue status get --se PIC-TAPE /ctao/prod5b/gamma/Data/run1", out: `AprioriGood`, rows: 1, json: "Successful"},
	{args: "catalogue status get --se NOWHERE /ctao/prod5b/gamma/Data/run1", code: 4, out: `has no replica at NOWHERE`},
	{args: "catalogue status set Lost --se PIC-TAPE /ctao/prod5b/gamma/Data/run1", code: 2, out: `want AprioriGood or Problematic`},
	{args: "catalogue status set AprioriGood --se PIC-TAPE /ctao/prod5b/gamma/Data/run1", out: `1 replica set`},
	{args: "catalogue counters --all", out: `(?s)datasets +1\n.*directories +\d+.*replicas +\d+`, rows: 1, json: "files bytes datasets metadata_fields"},
	{args: "catalogue rm /ctao/prod5b/gamma/Data/run1 /ctao/prod5b/gamma/Data/none", out: `^2 files\n$`},
	{args: "catalogue rm /ctao/prod5b", code: 2, out: `is a collection`},
	{args: "catalogue dataset check PROD5b_gamma", out: `(?s)^removed +/ctao/prod5b/gamma/Data/run1\nit had 2 files, 10 B; now 1 file, 6 B\n$`, rows: 1, json: "what lfn"},
	{args: "catalogue dataset files PROD5b_gamma", out: `^(/ctao/prod5b/gamma/Data/run[12]\n){2}$`},
	{args: "catalogue dataset release PROD5b_gamma", out: `released`},
	{args: "catalogue dataset rm PROD5b_gamma", out: `forgotten`},
	{args: "catalogue islink /ctao/prod5b/gamma/Data/run2", out: `false`, rows: 1, json: "Successful"},
	{args: "catalogue readlink /ctao/prod5b/gamma/Data/run2", code: 2, out: `is no symbolic link`},
	{args: "catalogue chmod -R 750 /ctao/prod5b", out: `^1 path changed\n$`, rows: 1, json: "Successful"},
	{args: "catalogue chmod 999 /ctao/prod5b", code: 2, out: `is no mode`},
	{args: "stat /ctao/prod5b/gamma/Data/run2", out: `mode +-rw-r----- `},
	{args: "stat /ctao/prod5b/gamma/Data", out: `mode +drwxr-x--- `},
	{args: "catalogue chown 1234:5678 /ctao/prod5b/gamma/Data/run2", out: `1 path changed`},
	{args: "catalogue chown nobodyatall /ctao/prod5b", code: 2, out: `knows no user`},
	{args: "catalogue chown : /ctao/prod5b", code: 2, out: `neither a user nor a group`},
	{args: "find UID=1234 Group=5678", out: `^/ctao/prod5b/gamma/Data/run2\n$`},
	{args: "catalogue access --user 1234 /ctao/prod5b/gamma/Data/run2", out: `true`, rows: 1, json: "Successful"},
	{args: "catalogue access --user 4321 /ctao/prod5b/gamma/Data/run2", out: `false`},
	{args: "catalogue access -w --user 1234 /ctao/prod5b/gamma/Data/run2", out: `true`},
	{args: "catalogue metaset add steep thetaP=steep", code: 2, out: `thetaP is declared float`},
	{args: "catalogue metaset add set1 run=7 note=hello", out: `1 metadata set noted`},
	{args: "catalogue metaset ls", out: `(?s)set1 +note +hello\nset1 +run +7\n`, rows: 1, json: "name meta"},
	{args: "catalogue meta set /ctao/prod5b/gamma/Data/run2 --metaset set1", out: `of 1 path set`},
	{args: "catalogue meta set /ctao/prod5b/gamma/Data/run2 --metaset set2", code: 4, out: `no metadata set set2`},
	{args: "find note=hello run=7", out: `^/ctao/prod5b/gamma/Data/run2\n$`},
	{args: "catalogue metaset rm set1", out: `forgotten`},
	{args: "catalogue mkdir /ctao/prod5b/empty", out: `1 directory`},
	{args: "catalogue rmdir /ctao/prod5b/empty /ctao/prod5b/none", out: `^2 directories\n$`},
	{args: "catalogue rmdir /ctao/prod5b", code: 1, out: `is not empty`},
	{args: "catalogue field rm run thetaP", out: `run, thetaP not declared any more`},
	{args: "catalogue field rm run", code: 4, out: `run`},
	{args: "config check", out: `no fault`},
	{args: "version", out: `^tarn `, rows: 1, json: "version go"},
	{args: "frobnicate", code: 2, out: `no command "frobnicate"`},
	{args: "--lake /nowhere ls /", code: 7, out: `/nowhere`},
}

// TestCommandsAlone runs the commands on a lake that nobody has open.
func TestCommandsAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, keepEnds)
	runCommands(t, s)
	if r := s.try("status"); r.code == 7 {
		t.Errorf("status without a mount: %+v", r)
	}
	if r := s.try("cache", "limit", "1G"); r.code != 7 || !strings.Contains(r.err, "no daemon") {
		t.Errorf("cache limit without a daemon: %+v", r)
	}
	if r := s.try("umount", s.mnt); r.code == 0 {
		t.Errorf("umount of what is not mounted: %+v", r)
	}
}

// TestCommandsWithDaemon runs the same beside a mount; the daemon serves them.
func TestCommandsWithDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t, keepEnds+"journal: {delay: 50ms}\n")
	s.mount()
	runCommands(t, s)
	if got := s.ok("status"); !strings.Contains(got, s.mnt) || !strings.Contains(got, "hot cache") {
		t.Errorf("status: %q", got)
	}
	if rows := s.rows("status"); !slices.ContainsFunc(rows, func(r map[string]any) bool { return r["mountpoint"] == s.mnt }) {
		t.Errorf("status --json: %v", rows)
	}
	s.ok("cache", "limit", "1G")
	if st := s.stats()["cache"].(map[string]any); st["Limit"] != float64(1<<30) {
		t.Errorf("after cache limit 1G: %v", st)
	}
	// Without --wait a stage is accepted and goes on behind.
	s.ok("evict", "/ctao/dl3/set")
	if r := s.try("stage", "/ctao/dl3/set"); r.code != 11 {
		t.Errorf("stage without --wait: %+v, want exit 11", r)
	}
	s.within(20*time.Second, "staged", func() bool { return s.try("stage", "/ctao/dl3/set").code == 0 })
	// A path in the mount, and a relative one, find the lake by themselves.
	for _, script := range []string{
		"env -u TARN_LAKE " + tarn + " ls " + s.path("ctao/dl3/set"),
		"cd ctao/dl3/set; env -u TARN_LAKE " + tarn + " ls .",
		"cd ctao/dl3/set; env -u TARN_LAKE " + tarn + " ls",
	} {
		if got := s.sh(script); got != "run0.fits\nrun1.fits\n" {
			t.Errorf("%s: %q", script, got)
		}
	}
	// What is changed by a command is seen in the mount at once.
	if b, err := os.ReadFile(s.path("ctao/dl0/new.txt")); err != nil || string(b) != "new\n" {
		t.Errorf("read in the mount: %q, %v", b, err)
	}
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("newest\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.ok("put", "--replace", src, "/ctao/dl0/new.txt")
	s.ok("put", src, "/ctao/dl0/second.txt")
	for _, name := range []string{"new.txt", "second.txt"} {
		if b, err := os.ReadFile(s.path("ctao/dl0", name)); err != nil || string(b) != "newest\n" {
			t.Errorf("%s after tarn put: %q, %v", name, b, err)
		}
	}
}

func runCommands(t *testing.T, s *site) {
	src := folder(t, map[string]int{"run0.fits": 50000, "run1.fits": 50001})
	s.onTape(src, "/ctao/dl3/set")
	src, out := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"new.txt": "new\n", "newer.txt": "newer\n",
		"meta.json": `{"/ctao/prod5b/gamma/Data/run2": {"note": "from a file"}, "/ctao/none": {"a": 1}}`} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rule := ""
	for _, c := range commands {
		line := strings.NewReplacer("SRC", src, "OUT", out, "RULE", rule).Replace(c.args)
		args := strings.Fields(line)
		r := s.try(args...)
		text := r.out
		if c.code != 0 {
			text = r.out + r.err
		}
		if r.code != c.code || !regexp.MustCompile(c.out).MatchString(text) {
			t.Errorf("tarn %s: exit %d, want %d\n%s%swant %s", line, r.code, c.code, r.out, r.err, c.out)
		}
		if c.code != 0 && (r.err == "" || strings.Contains(r.err, "goroutine ")) {
			t.Errorf("tarn %s fails with the words %q", line, r.err)
		}
		if strings.HasPrefix(c.args, "put") && s.daemon != nil {
			s.drain() // alone, put waits for the copies
		}
		if strings.HasPrefix(c.args, "rule add") && r.code == 0 {
			rule = strings.TrimSpace(r.out)
		}
		if c.json == "" {
			if c.code != 0 && s.daemon == nil {
				wantJSONError(t, s, args)
			}
			continue
		}
		rows := s.rows(args...)
		if len(rows) < c.rows {
			t.Errorf("tarn %s --json: %d rows, want at least %d: %v", line, len(rows), c.rows, rows)
		}
		for _, row := range rows[:min(len(rows), c.rows)] {
			for _, k := range strings.Fields(c.json) {
				if _, ok := row[k]; !ok {
					t.Errorf("tarn %s --json: no %s in %v", line, k, row)
				}
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(out, "got.txt")); err != nil || string(b) != "new\n" {
		t.Errorf("what get brought: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(out, "all/new.txt")); err != nil || string(b) != "new\n" {
		t.Errorf("what get -r brought: %q, %v", b, err)
	}
}

// wantJSONError: with --json the error is the last line of stderr, as an object.
func wantJSONError(t *testing.T, s *site, args []string) {
	t.Helper()
	r := s.try(append(slices.Clone(args), "--json")...)
	lines := strings.Split(strings.TrimSpace(r.err), "\n")
	var e map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
		t.Errorf("tarn %s --json: its error is %q: %v", strings.Join(args, " "), r.err, err)
		return
	}
	if fmt.Sprint(e) == "map[]" {
		t.Errorf("tarn %s --json: an empty error", strings.Join(args, " "))
	}
}
