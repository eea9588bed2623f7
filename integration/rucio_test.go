package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/backends/servertest"
)

// TestRucioJourney goes both ways on each kind of storage: what the real client uploads and Rucio moves is read in the mount, and what is
// written in the mount has its rule fulfilled, is moved on by Rucio, and downloaded by the real client.
func TestRucioJourney(t *testing.T) {
	for _, kind := range []string{"file", "webdav", "xrootd", "s3"} {
		t.Run(kind, func(t *testing.T) {
			g := newRucio(t, servertest.RucioOptions{})
			near, _ := g.folderDisk()
			far := g.storage(kind)
			old := g.upload(near, "old.dat", 3<<20+5)
			g.rucio("did", "add", "--type", "dataset", g.scope+":olds")
			g.rucio("did", "content", "add", "--to-did", g.scope+":olds", g.scope+":old.dat")
			g.rucio("rule", "add", g.scope+":olds", "--copies", "1", "--rses", far, "--lifetime", "3600")
			g.settled("olds")
			if got := g.replicas("old.dat"); got[far] != "AVAILABLE" {
				t.Fatalf("Rucio has not moved the file: %v", got)
			}
			g.shut(near, "read") // so that the mount has but one copy to read
			g.lake(far, "", "")
			g.mount()
			g.reads(g.scope+"/olds/old.dat", old)
			if r := g.try("verify", "/"+g.scope+"/olds/old.dat"); !strings.Contains(r.out+r.err, "1 replica good") {
				t.Errorf("verify: %s%s", r.out, r.err)
			}

			g.sh("mkdir " + g.path(g.scope, "run7"))
			data := g.write(g.scope+"/run7/new.dat", 5<<20+1)
			small := g.write(g.scope+"/run7/small.txt", 10)
			g.drain()
			g.reads(g.scope+"/run7/new.dat", data)
			rules := g.settled("run7/__files__")
			if len(rules) != 1 || rules[0].Expression != far || rules[0].Account != g.account {
				t.Errorf("rules on the new files: %+v", rules)
			}
			if got := g.replicas("new.dat"); len(got) != 1 || got[far] != "AVAILABLE" {
				t.Errorf("replicas of the new file: %v", got)
			}
			g.reopen(near, "read")
			g.rucio("rule", "add", g.scope+":run7", "--copies", "1", "--rses", near, "--lifetime", "3600")
			g.settled("run7")
			for name, want := range map[string][]byte{"new.dat": data, "small.txt": small} {
				if got := g.download(near, name); string(got) != string(want) {
					t.Errorf("rucio download of %s: %d bytes that are not the %d written", name, len(got), len(want))
				}
			}
			g.umount()
		})
	}
}

// storage makes an RSE on a real server of a kind.
func (g *rucioRig) storage(kind string) (rse string) {
	g.t.Helper()
	switch kind {
	case "webdav":
		s := servertest.NGINX(g.t, servertest.NGINXOptions{})
		g.sh("curl -fsS -X MKCOL " + s.HTTP + "/rucio/")
		return g.disk(servertest.RucioProtocol{Scheme: "http", Host: "127.0.0.1", Port: portOfURL(g.t, s.HTTP), Prefix: "/rucio/"})
	case "xrootd":
		needXrdCl(g.t)
		s := servertest.XRootD(g.t, servertest.XRootDOptions{})
		return g.disk(servertest.RucioProtocol{Scheme: "root", Host: "127.0.0.1", Port: portOfURL(g.t, s.Root), Prefix: "//data/"})
	case "s3":
		s := servertest.S3(g.t, servertest.S3Options{})
		g.t.Setenv("AWS_ACCESS_KEY_ID", servertest.S3Access)
		g.t.Setenv("AWS_SECRET_ACCESS_KEY", servertest.S3Secret)
		g.r.MoverEnv("AWS_ACCESS_KEY_ID="+servertest.S3Access, "AWS_SECRET_ACCESS_KEY="+servertest.S3Secret)
		return g.disk(servertest.RucioProtocol{Scheme: "s3", Host: "127.0.0.1", Port: portOfURL(g.t, s.S3), Prefix: "/lake/rucio/"})
	}
	rse, _ = g.folderDisk()
	return rse
}

// shut and reopen say what Rucio lets be done at an RSE: read, write or delete.
func (g *rucioRig) shut(rse, what string)   { g.avail(rse, what, false) }
func (g *rucioRig) reopen(rse, what string) { g.avail(rse, what, true) }
func (g *rucioRig) avail(rse, what string, is bool) {
	g.t.Helper()
	g.r.Do("PUT", "/rses/"+rse, map[string]bool{"availability_" + what: is})
	g.r.Flush()
}

// TestRucioAgrees compares what tarn and the real client tell of the same things, made by the one and by the other.
func TestRucioAgrees(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	one, _ := g.folderDisk()
	two, _ := g.folderDisk()
	g.upload(one, "theirs.dat", 1000)
	g.rucio("did", "add", "--type", "container", g.scope+":box")
	g.rucio("did", "add", "--type", "dataset", g.scope+":set")
	g.rucio("did", "content", "add", "--to-did", g.scope+":set", g.scope+":theirs.dat")
	g.rucio("did", "content", "add", "--to-did", g.scope+":box", g.scope+":set")
	g.r.Do("POST", "/dids/"+g.scope+"/theirs.dat/meta", map[string]any{"meta": map[string]any{"obs_id": 5029747, "telescope": "LST-1"}})
	g.lake(two, "", "")
	t.Setenv("TARN_CATALOGUE_TTL", "10m") // only a refresh tells of changes
	g.mount()

	// Theirs, seen here.
	if got := g.sh("ls " + g.path(g.scope) + " " + g.path(g.scope, "box") + " " + g.path(g.scope, "box/set")); !strings.Contains(got, "box\n") || strings.Contains(strings.Split(got, ":\n")[1], "theirs.dat") || !strings.Contains(got, "theirs.dat\n") {
		t.Errorf("the tree is\n%s", got)
	}
	theirs := "/" + g.scope + "/box/set/theirs.dat"
	st := g.rows("stat", theirs)[0]
	var did struct {
		Bytes   int64
		Adler32 string
		MD5     string
	}
	if err := json.Unmarshal([]byte(g.r.Do("GET", "/dids/"+g.scope+"/theirs.dat", nil)), &did); err != nil {
		t.Fatal(err)
	}
	sums, _ := st["checksums"].(map[string]any)
	if st["did"] != g.scope+":theirs.dat" || st["size"] != float64(did.Bytes) || sums["adler32"] != did.Adler32 || sums["md5"] != did.MD5 {
		t.Errorf("stat tells %v, the server %+v", st, did)
	}
	if got := g.sh("getfattr --absolute-names --only-values -n user.obs_id " + g.path(theirs[1:])); got != "5029747" {
		t.Errorf("metadata in the mount: %q", got)
	}
	if got := g.rows("find", "/"+g.scope, "obs_id=5029747"); len(got) != 1 || got[0]["path"] != theirs {
		t.Errorf("found by metadata: %v, want %s", got, theirs)
	}
	reps := g.rows("replicas", "ls", theirs)
	if len(reps) != 1 || reps[0]["rse"] != one || reps[0]["state"] != "AVAILABLE" {
		t.Errorf("replicas: %v", reps)
	}
	rules := g.rows("rule", "ls", theirs)
	if len(rules) != 1 || rules[0]["expression"] != one || rules[0]["state"] != "OK" {
		t.Errorf("rules: %v", rules)
	}

	// Ours, seen there.
	g.sh("mkdir -p " + g.path(g.scope, "box2/in"))
	g.ok("mkdir", "--dataset", g.path(g.scope, "box2/in/day"))
	data := g.write(g.scope+"/box2/in/day/ours.dat", 70000)
	g.drain()
	g.ok("meta", "set", g.path(g.scope, "box2/in/day/ours.dat"), "obs_id=17", "night=2026-11-27")
	for child, parent := range map[string]string{"in": "box2", "day": "in", "ours.dat": "day"} {
		if out := g.rucio("did", "content", "list", g.scope+":"+parent); !strings.Contains(out, g.scope+":"+child) {
			t.Errorf("rucio lists %s as\n%s\nwithout %s", parent, out, child)
		}
	}
	if out := g.rucio("did", "show", g.scope+":day"); !strings.Contains(out, "DATASET") {
		t.Errorf("mkdir --dataset made\n%s", out)
	}
	if out := g.rucio("replica", "list", "file", g.scope+":ours.dat"); !strings.Contains(out, two) {
		t.Errorf("rucio lists its replicas as\n%s", out)
	}
	if out := g.rucio("did", "metadata", "list", "--plugin", "ALL", g.scope+":ours.dat"); !strings.Contains(out, "2026-11-27") || !strings.Contains(out, "17") {
		t.Errorf("rucio lists its metadata as\n%s", out)
	}
	if rules := g.settled("day"); len(rules) != 1 || rules[0].Expression != two {
		t.Errorf("rules on the dataset: %+v", rules)
	}
	id := g.rows("rule", "add", g.path(g.scope, "box2/in/day"), one, "--lifetime", "1h")[0]["id"]
	if out := g.rucio("rule", "list", "--did", g.scope+":day"); !strings.Contains(out, fmt.Sprint(id)) || !strings.Contains(out, one) {
		t.Errorf("rucio lists the rules as\n%s\nwithout %v", out, id)
	}
	g.settled("day")
	g.ok("refresh", g.path(g.scope, "box2/in/day"))
	reps = g.rows("replicas", "ls", g.path(g.scope, "box2/in/day/ours.dat"))
	var at []string
	for _, r := range reps {
		at = append(at, fmt.Sprint(r["rse"]))
	}
	if want := []string{one, two}; !slices.Equal(slices.Sorted(slices.Values(at)), slices.Sorted(slices.Values(want))) {
		t.Errorf("after Rucio has copied it, replicas at %v, want %v", at, want)
	}
	if got := g.download(one, "ours.dat"); string(got) != string(data) {
		t.Errorf("what Rucio copied is not what was written")
	}

	// What others do here is seen within the time that answers are kept for, and at once after a refresh.
	g.rucio("did", "content", "remove", "--from-did", g.scope+":set", g.scope+":theirs.dat")
	g.ok("refresh")
	if _, err := os.Stat(g.path(theirs[1:])); !os.IsNotExist(err) {
		t.Errorf("a file that was detached: %v", err)
	}
	g.rucio("did", "content", "add", "--to-did", g.scope+":set", g.scope+":theirs.dat")
	if err := g.daemon.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "a file that was attached again is seen after SIGHUP", func() bool {
		_, err := os.Stat(g.path(theirs[1:]))
		return err == nil
	})
	// A name that is removed here is not found, and not in the collection there.
	g.sh("rm " + g.path(g.scope, "box2/in/day/ours.dat"))
	if got := g.children("day"); len(got) != 0 {
		t.Errorf("after rm the dataset has %v", got)
	}
	if out, err := g.trySh("rmdir " + g.path(g.scope, "box2/in/day") + " && mkdir " + g.path(g.scope, "box2/in/day")); err != nil && !strings.Contains(out, "File exists") {
		t.Errorf("rmdir: %v, %s", err, out)
	}
}

// TestRucioWhoAndUsage is about the commands that tell who one is and what one has.
func TestRucioWhoAndUsage(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	rse, _ := g.folderDisk()
	g.r.SetQuota(g.account, 1<<20, rse)
	g.lake(rse, "", "")
	g.mount()
	var who map[string]any
	for _, row := range g.rows("whoami") {
		if r, ok := row["rucio"].(map[string]any); ok {
			who = r
		}
	}
	if who["account"] != g.account || who["server"] != g.r.URL || who["expires"] == nil {
		t.Errorf("whoami: %v", who)
	}
	if out := g.try("whoami"); strings.Contains(out.out+out.err, servertest.RucioPassword) {
		t.Errorf("whoami shows the password:\n%s", out.out)
	}
	g.sh("mkdir " + g.path(g.scope, "d"))
	g.write(g.scope+"/d/f", 1234)
	g.drain()
	g.settled("d/__files__")
	g.r.Daemons("abacus")
	u := g.rows("rse", "usage", rse)[0]
	own, _ := u["own"].(map[string]any)
	if own["bytes"] != 1234.0 || own["files"] != 1.0 || u["quota"] != float64(1<<20) {
		t.Errorf("usage: %v", u)
	}
	for _, args := range [][]string{{"fsck"}, {"catalogue", "backup", g.work + "/b"}, {"catalogue", "restore", g.work + "/b"}, {"transfers"}} {
		if r := g.try(args...); r.code != 1 || !strings.Contains(r.err, "Rucio") {
			t.Errorf("tarn %v: exit %d, want 1 and a word on Rucio\n%s", args, r.code, r.err)
		}
	}
}
