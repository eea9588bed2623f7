package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends/storage/xrootd"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

func TestInit(t *testing.T) {
	t.Setenv("USER", "ada")
	t.Setenv("TARN_LAKE", "")
	c := tester{t: t}
	base := t.TempDir()

	demo := filepath.Join(base, "demo")
	c.ok("init", "--demo", demo)
	cfg, err := config.Load(filepath.Join(demo, "lake.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var rses []string
	for _, r := range cfg.RSEs {
		rses = append(rses, r.Name+" "+r.Kind+" "+r.Attributes["country"])
		if !strings.HasPrefix(r.Path, demo+"/") {
			t.Errorf("RSE %s is at %s, not below the lake's folder", r.Name, r.Path)
		}
	}
	if got, want := strings.Join(rses, ", "), "LAPALMA-DISK disk ES, PIC-DISK disk ES, CNAF-DISK disk IT, PIC-TAPE tape ES"; got != want {
		t.Errorf("RSEs are %s", got)
	}
	if cfg.RSEs[3].Tape.Speed != 1000 {
		t.Errorf("the tape's speed is %v", cfg.RSEs[3].Tape.Speed)
	}
	if got := c.ok("--lake", demo, "ls", "-R", "/"); got != "/ctao/\n/ctao/dl0/\n/ctao/dl1/\n/ctao/dl3/\n/user.ada/\n" {
		t.Errorf("the new lake holds\n%s", got)
	}
	for _, p := range []string{"catalogue", "cache", "journal", "run", "rse/PIC-TAPE", "rse/PIC-DISK"} {
		st, err := os.Stat(filepath.Join(demo, p))
		if err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", p, st, err)
		}
	}

	before, _ := os.ReadFile(filepath.Join(demo, "lake.yaml"))
	if out := c.ok("init", "--demo", demo); !strings.Contains(out, "is a lake already; nothing was changed") {
		t.Errorf("init of a lake says %q", out)
	}
	if after, _ := os.ReadFile(filepath.Join(demo, "lake.yaml")); !bytes.Equal(before, after) {
		t.Error("init changed the lake file")
	}

	plain := filepath.Join(base, "plain lake")
	c.ok("init", plain)
	if got := c.ok("--lake", plain, "ls", "/"); got != "user.ada/\n" {
		t.Errorf("the plain lake holds %q", got)
	}
	c.fails(control.CodeOther, []string{"is a lake already, and not that of the demonstration"}, "init", "--demo", plain)

	// Who mistyped a server's name is not told that all is well when he tries again with the right one.
	grid := filepath.Join(base, "grid")
	writeTree(t, grid, map[string]string{"lake.yaml": "catalogue: {type: rucio, url: \"https://a.example.org\", account: ada}\n"})
	if out := c.ok("init", "--rucio", "https://a.example.org", grid); !strings.Contains(out, "is a lake already; nothing was changed") {
		t.Errorf("init of a lake says %q", out)
	}
	c.fails(control.CodeOther, []string{"not that of https://b.example.org", "lake.yaml"}, "init", "--rucio", "https://b.example.org", grid)
	c.fails(control.CodeOther, []string{"not that of bob at https://a.example.org"}, "init", "--rucio", "https://a.example.org", "--account", "bob", grid)
	c.fails(control.CodeOther, []string{"not that of https://a.example.org"}, "init", "--rucio", "https://a.example.org", plain)

	full := filepath.Join(base, "full")
	writeTree(t, full, map[string]string{"precious": "x"})
	c.fails(control.CodeOther, []string{"is not empty", "precious"}, "init", full)
	c.fails(control.CodeNoDir, []string{"is a file"}, "init", filepath.Join(full, "precious"))
	if names, _ := os.ReadDir(full); len(names) != 1 {
		t.Errorf("a refused init left %v", names)
	}
	c.fails(control.CodeFatal, []string{"name: want 1 to 63"}, "init", "--name", "a/b", filepath.Join(base, "n"))
	c.fails(control.CodeUsage, nil, "init")

	// Folders that are not there, of this machine and of the lake.
	file, none := filepath.Join(base, "file"), filepath.Join(base, "none")
	writeTree(t, base, map[string]string{"file": "x"})
	c.ok("--lake", demo, "put", file, "/ctao/dl0/f", "--wait")
	c.fails(control.CodeNoDir, []string{"there is no folder " + none, "mkdir -p " + none}, "--lake", demo, "get", "/ctao/dl0/f", none+"/")
	c.fails(control.CodeNoDir, []string{"there is no folder " + none}, "--lake", demo, "catalogue", "backup", filepath.Join(none, "b"))
	c.fails(control.CodeNoDir, []string{"there is no new in /ctao", "-p makes"}, "--lake", demo, "mkdir", "/ctao/new/below")
	c.fails(control.CodeCorrupt, []string{"take another backup"}, "--lake", demo, "catalogue", "restore", file)

	// Written by hand, and completed.
	hand := filepath.Join(base, "hand")
	writeTree(t, hand, map[string]string{"lake.yaml": "rses: [{name: D, path: d}]\nscopes: [{name: s}]\n"})
	c.fails(control.CodeFatal, []string{"is not there", "tarn init"}, "--lake", hand, "ls", "/")
	if out := c.ok("init", hand); !strings.Contains(out, "completed") {
		t.Errorf("init of a lake.yaml says %q", out)
	}
	if got := c.ok("--lake", hand, "ls", "/"); got != "s/\n" {
		t.Errorf("it holds %q", got)
	}
}

// USER may be missing, or no scope.
func TestUserScope(t *testing.T) {
	uid := "user." + itoa(os.Getuid())
	for user, want := range map[string]string{"ada": "user.ada", "a b": uid, strings.Repeat("x", 30): uid, "ü": uid} {
		t.Setenv("USER", user)
		if got := userScope(); got != want {
			t.Errorf("USER=%q gives %s, want %s", user, got, want)
		}
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestNoLake(t *testing.T) {
	t.Setenv("TARN_LAKE", "")
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	c := tester{t: t}
	c.fails(control.CodeFatal, []string{"looked for", "--lake or TARN_LAKE"}, "--lake", "nowhere", "ls")
	bad := filepath.Join(t.TempDir(), "lake.yaml")
	writeTree(t, filepath.Dir(bad), map[string]string{"lake.yaml": "nmae: x\ncache: {limit: lots}\n"})
	c.fails(control.CodeFatal, []string{`nmae: unknown key; did you mean "name"?`, `"lots" is not a size`, "want at least one RSE"}, "config", "check", bad)
	c.fails(control.CodeFatal, []string{"--set: cache.hed: unknown key"}, "--set", "cache.hed=3", "config", "check", bad)
}

// What is wrong, where, why, and what to do, with the exit codes of docs/cli.md.
func TestErrorsOfCommands(t *testing.T) {
	c := newDemoLake(t)
	c.fails(control.CodeNoFile, []string{"/ctao/dl2: there is no dl2 in /ctao", "is it /ctao/dl"}, "ls", "/ctao/dl2")
	c.fails(control.CodeNoDir, []string{"there is no nope in /ctao"}, "ls", "/ctao/nope/x/y")
	c.fails(control.CodeUsage, []string{"is a relative path", "absolute"}, "ls", "ctao")
	c.fails(control.CodeUsage, []string{"character"}, "find", "a = = b")
	c.fails(control.CodeUsage, []string{"a query is missing"}, "find", "/ctao")
	c.fails(control.CodeUsage, []string{"want at least one PATH"}, "meta", "set", "a=b")
	c.fails(control.CodeUsage, []string{"is a directory"}, "cat", "/ctao")
	c.fails(control.CodeUsage, []string{"--rse"}, "import", ".", "/ctao")
	c.fails(control.CodeNoFile, []string{`RSE "X"`}, "import", ".", "/ctao/x", "--rse", "X")
	c.fails(control.CodeNoFile, []string{"no scope"}, "import", ".", "/nope/x", "--rse", "PIC-DISK")
	c.fails(control.CodeNoFile, []string{"no such file"}, "import", "/no/such/dir", "/ctao/x", "--rse", "PIC-DISK")
	c.fails(control.CodeUsage, []string{"duration"}, "pin", "--for", "long", "/ctao")
	c.fails(control.CodeNoFile, nil, "recalls", "allow", "4194305")
	c.fails(control.CodeNothing, []string{"no upload has failed"}, "uploads", "retry", "--all")
	c.fails(control.CodeFatal, []string{"no daemon", "tarn mount"}, "cache", "limit", "3G")
	c.fails(control.CodeNothing, []string{"is not a mount of tarn"}, "umount", t.TempDir())
	out, _, err := c.run("ls", "/ctao/nope", "--json")
	if err == nil || out != "" {
		t.Errorf("a failed listing wrote %q, %v", out, err)
	}
}

// A second command waits for the first, which has the lake open; one that waits too
// long is told.
func TestLakeIsLocked(t *testing.T) {
	c := newDemoLake(t)
	cfg, err := config.Load(filepath.Join(c.lake, "lake.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: testTerminal()}
	o, err := openLake(cfg, openOptions{Log: s.logger(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	late := &session{t: testTerminal()}
	far := time.Now()
	late.t.now = func() time.Time { far = far.Add(3 * time.Second); return far }
	_, err = late.connectTo(t.Context(), cfg)
	if e := control.Describe(err); e == nil || e.Code != control.CodeFatal || e.Kind != "busy" {
		t.Errorf("a locked lake gives %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := c.run("ls", "/")
		done <- err
	}()
	time.Sleep(100 * time.Millisecond) // let it find the lock
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("a command that waited for another one: %v", err)
	}
}

func TestSmallCommands(t *testing.T) {
	c := tester{t: t}
	if out := c.ok("version"); !strings.HasPrefix(out, "tarn ") || !strings.Contains(out, "go1") {
		t.Errorf("version is %q", out)
	}
	if lib := xrootd.Library(); !strings.Contains(c.ok("version"), cmp.Or(lib, "without libXrdCl")) {
		t.Errorf("version is %q, which does not speak of %q", c.ok("version"), lib)
	}
	if c.ok("--version") != c.ok("version") {
		t.Error("--version and version differ")
	}
	for shell, want := range map[string]string{"bash": "complete -o", "zsh": "#compdef tarn", "fish": "complete -c tarn"} {
		if out := c.ok("completion", shell); !strings.Contains(out, want) {
			t.Errorf("completion %s has no %q", shell, want)
		}
	}
	args := os.Args
	os.Args = []string{"tarn", completionFlag} // the library looks there
	t.Cleanup(func() { os.Args = args })
	if out := c.ok(completionFlag); !strings.Contains(out, "import") {
		t.Errorf("completion gives %q", out)
	}
	c.fails(control.CodeUsage, nil, "completion", "tcsh")
	if out := c.ok("help", "stage"); !strings.Contains(out, "--dry-run") || !strings.Contains(out, "Examples:") {
		t.Errorf("help stage is %q", out)
	}
	if out := c.ok("config", "keys"); !strings.Contains(out, "cache.limit") || !strings.Contains(out, "rses[].tape.drives") {
		t.Errorf("config keys gives %q", out)
	}
	dir := filepath.Join(t.TempDir(), "d")
	if out := c.ok("demo-data", dir, "--files", "2", "--size", "20K"); !strings.HasPrefix(out, "2 FITS files") {
		t.Errorf("demo-data says %q", out)
	}
	lake := newDemoLake(t)
	shown := lake.ok("config", "show")
	cfg, err := config.Parse(filepath.Join(lake.lake, "lake.yaml"), []byte(shown))
	if err != nil || cfg.Name == "" {
		t.Errorf("what config show prints is not a lake file: %v\n%s", err, shown)
	}
}

// A mountpoint that cannot be used is refused with the reason, before anything is started.
func TestMountRefuses(t *testing.T) {
	c := newDemoLake(t)
	base := t.TempDir()
	c.fails(control.CodeNoDir, []string{"does not exist", "mkdir -p"}, "mount", c.lake, filepath.Join(base, "no"))
	writeTree(t, base, map[string]string{"full/x": ""})
	c.fails(control.CodeOther, []string{"is not empty"}, "mount", c.lake, filepath.Join(base, "full"))
	c.fails(control.CodeNoDir, []string{"is not a directory"}, "mount", c.lake, filepath.Join(base, "full/x"))
	c.fails(control.CodeUsage, []string{"which the lake needs"}, "mount", c.lake, filepath.Join(c.lake, "cache"))
	c.fails(control.CodeUsage, []string{"which the lake needs"}, "mount", c.lake, c.lake)
	c.fails(control.CodeUsage, []string{"no mount option frobnicate"}, "mount", "-o", "frobnicate", c.lake, base)
	c.fails(control.CodeFatal, []string{`"maybe"`}, "mount", "--close", "maybe", c.lake, base)
	c.fails(control.CodeUsage, nil, "mount")
}

// noHosts is a name server that knows no name, for this process.
func noHosts(t *testing.T) {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", c.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		c.Close()
	})
	go func() {
		for b := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if n > 3 { // RFC 1035, 4.1.1: a response, NXDOMAIN
				b[2], b[3] = b[2]|0x80, b[3]&0xf0|3
				_, _ = c.WriteTo(b[:n], from)
			}
		}
	}()
}

// All that is wrong with the protocols of a lake is told at once, by check and by mount in the same words. Mount goes on
// without hosts that do not exist.
func TestFaultsOfProtocols(t *testing.T) {
	noHosts(t)
	t.Setenv("TARN_LAKE", "")
	dir, point := t.TempDir(), t.TempDir()
	writeTree(t, dir, map[string]string{"lake.yaml": `rses:
  - name: ONE
    protocols:
      - url: gopher://127.0.0.1/x
      - url: davs://ada:hunter2@localhost/x
      - url: davs://no-such-door.example.org/x
      - url: davs://localhost/x/../../etc
  - name: TWO
    protocols:
      - {url: "davs://localhost/two", read: 0}
      - {url: "gsiftp://no-such-door.example.org/two", read: 0}
scopes: [{name: s}]
`})
	said := map[string]string{}
	for _, args := range [][]string{{"config", "check", dir}, {"mount", dir, point}} {
		_, _, err := tester{t: t}.run(args...)
		var b strings.Builder
		if code := report(&b, err, false); code != control.CodeFatal {
			t.Errorf("%v: exit code %d: %s", args, code, b.String())
		}
		said[args[0]] = b.String()
	}
	var same []string
	for l := range strings.Lines(said["config"]) {
		if !strings.Contains(l, "does not resolve") {
			same = append(same, l)
		}
	}
	if strings.Replace(strings.Join(same, ""), "6 faults", "4 faults", 1) != said["mount"] {
		t.Errorf("check says\n%s\nmount says\n%s", said["config"], said["mount"])
	}
	for _, want := range []string{
		"lake.yaml:4: rses[0].protocols[0].url: want a scheme of",
		"lake.yaml:5: rses[0].protocols[1].url: has a user or password in it: name a",
		"lake.yaml:6: rses[0].protocols[2].url: the host no-such-door.example.org does not resolve",
		"lake.yaml:7: rses[0].protocols[3].url: want a path without ..",
		"lake.yaml:10: rses[1].protocols: none of them reads",
		"lake.yaml:11: rses[1].protocols[1].url: the host no-such-door.example.org does not resolve",
	} {
		if !strings.Contains(said["config"], want) {
			t.Errorf("%q is not told:\n%s", want, said["config"])
		}
	}
	if strings.Contains(said["config"], "hunter2") || !strings.HasPrefix(said["config"], "tarn: 6 faults") {
		t.Errorf("too much is told:\n%s", said["config"])
	}
	// Other commands do not ask: the lake works while its name server does not.
	writeTree(t, dir, map[string]string{"lake.yaml": "rses: [{name: A, protocols: [{url: \"davs://no-such-door.example.org/x\"}]}]\nscopes: [{name: s}]\n"})
	tester{t: t}.ok("config", "show", dir)
	// And a name server that is not there is no fault of the file.
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("down") }}
	tester{t: t}.ok("config", "check", dir)
}
