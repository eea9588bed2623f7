package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const good = `
name: demo
catalogue: {type: embedded, path: catalogue, grace: 2d, free_floor: 64MiB}
cache: {path: /var/cache/demo, limit: 10G, head: 0, verify: strict}
journal: {close: registered, delay: 2s}
rses:
  - name: ES-DISK
    kind: disk
    path: rse/ES-DISK
    attributes: {country: ES, tier: 1}
  - {name: ES-TAPE, kind: tape, path: rse/ES-TAPE, attributes: {country: ES}, distance: 3, tape: {drives: 3, speed: 1000x}}
scopes:
  - name: ctao
  - {name: user.ada, mode: 0700}
write_rules:
  - {copies: 1, expression: rse_type=DISK&country=ES}
  - expression: rse_type=TAPE
checksums: [adler32, md5]
recalls:
  hold: 100ms
  readahead: {files: 4, bytes: 1G}
  policy:
    nonblock: eagain
    rules:
      - {comm: [updatedb], action: refuse}
      - {uid: [0], tty: true, action: ask}
    burst: {files: 10, window: 5s, below: 64K}
mount: {allow_other: true, xattr: off, delete: no, umask: 022, uid: 1000}
log: {level: debug, file: log/tarn.log}
`

func TestParseGood(t *testing.T) {
	c, err := Parse("/srv/lake/lake.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		what      string
		got, want any
	}{
		{"file", c.File(), "/srv/lake/lake.yaml"},
		{"name", c.Name, "demo"},
		{"run", c.Run, "/srv/lake/run"},
		{"catalogue.path", c.Catalogue.Path, "/srv/lake/catalogue"},
		{"grace", c.Catalogue.Grace.D(), 48 * time.Hour},
		{"cache.path", c.Cache.Path, "/var/cache/demo"},
		{"limit", c.Cache.Limit, 10 * GiB},
		{"head", c.Cache.Head, Size(0)},
		{"tail keeps its default", c.Cache.Tail, MiB},
		{"journal.path", c.Journal.Path, "/srv/lake/journal"},
		{"rse path", c.RSEs[0].Path, "/srv/lake/rse/ES-DISK"},
		{"attribute that looks like a number", c.RSEs[0].Attributes["tier"], "1"},
		{"tape.drives", c.RSEs[1].Tape.Drives, 3},
		{"tape.buffer has its default", c.RSEs[1].Tape.Buffer, 10 * GiB},
		{"speed", c.RSEs[1].Tape.Speed, Speed(1000)},
		{"layout", c.Scopes[0].Layout, "lfn"},
		{"mode", c.Scopes[1].Mode, Mode(0o700)},
		{"copies", c.WriteRules[1].Copies, 1},
		{"checksums", c.Checksums, []string{"adler32", "md5"}},
		{"rules replace the default", len(c.Recalls.Policy.Rules), 2},
		{"tty", *c.Recalls.Policy.Rules[1].TTY, true},
		{"xattr", c.Mount.XAttr, false},
		{"delete", c.Mount.Delete, false},
		{"umask", *c.Mount.Umask, Mode(0o22)},
		{"uid", *c.Mount.UID, uint32(1000)},
		{"log.file", c.Log.File, "/srv/lake/log/tarn.log"},
	} {
		if !reflect.DeepEqual(p.got, p.want) {
			t.Errorf("%s is %v, want %v", p.what, p.got, p.want)
		}
	}
}

// What a file lacks is not known where it cannot be read: one fault, and no others that it has not.
func TestParseUnreadable(t *testing.T) {
	for text, want := range map[string]string{
		"name: x\nrses:\n\t- {name: A}\n": "line 3: found character that cannot start any token: indent with blanks, not with tabs",
		good + "---\nname: y\n":           "one document only",
		"\x01\x02":                        "control characters",
		"[1, 2]":                          "want keys and values, not a list",
		"hello":                           "want keys and values, not a single value",
	} {
		_, err := Parse("/srv/lake/lake.yaml", []byte(text))
		var bad *Error
		if !errors.As(err, &bad) || len(bad.Faults) != 1 || !strings.Contains(bad.Faults[0].What, want) {
			t.Errorf("%q: %v, want one fault with %q", text, err, want)
		}
	}
}

// Faults of every kind are reported together, each with its line.
func TestParseReportsAllFaults(t *testing.T) {
	text := `nmae: x
catalogue: {type: dirac, grace: soon}
cache:
  limit: lots
  streams: many
  block: 3000
  limit: 5G
rses:
  - {name: A-DISK, kind: disk, path: rse/a}
  - {name: A-DISK, kind: disk, path: rse/b}
  - {name: "B DISK", kind: floppy, path: rse/a}
  - {name: T, kind: tape, path: rse/a/in}
  - name: U
    kind: disk
    path: rse/u
    tape: {drives: 0.5}
    attributes: [1]
scopes:
  - name: ctao
  - name: ctao
  - {name: .., layout: flat, mode: 0999}
write_rules:
  - {copies: 2, expression: country=ES}
  - {expression: "(("}
  - {copies: 2, expression: U}
checksums: [crc32]
recalls: {timeout: 1ms, policy: {nonblock: maybe, rules: [{action: run, comm: [a-name-too-long-for-comm]}]}}
mount: {xattr: perhaps, umask: 1777}
log: {level: loud}
journal: []
`
	_, err := Parse("/srv/lake/lake.yaml", []byte(text))
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatalf("error is %v, want *Error", err)
	}
	got := err.Error()
	for _, want := range []string{
		`lake.yaml:1: nmae: unknown key; did you mean "name"?`,
		`lake.yaml:2: catalogue.type: want embedded or rucio, not "dirac"`,
		`lake.yaml:2: catalogue.grace: "soon" is not a duration`,
		`lake.yaml:4: cache.limit: "lots" is not a size`,
		`lake.yaml:5: cache.streams: want a whole number, not "many"`,
		`lake.yaml:6: cache.block: want 4KiB to 64MiB, not 3000`,
		`lake.yaml:7: cache.limit: given twice, first in line 4`,
		`lake.yaml:10: rses[1].name: duplicate RSE "A-DISK", first in line 9`,
		`lake.yaml:11: rses[2].name: want letters, digits`,
		`lake.yaml:11: rses[2].kind: want disk or tape, not "floppy"`,
		`lake.yaml:11: rses[2].path: is the same folder as rses[0].path`,
		`lake.yaml:12: rses[3].tape: a tape RSE needs tape settings`,
		`lake.yaml:12: rses[3].path: /srv/lake/rse/a/in lies inside rses[0].path`,
		`lake.yaml:16: rses[4].tape.drives: want a whole number, not "0.5"`,
		`lake.yaml:16: rses[4].tape: a disk RSE has no tape settings`,
		`lake.yaml:17: rses[4].attributes: want keys and values, not a list`,
		`lake.yaml:20: scopes[1].name: duplicate scope "ctao", first in line 19`,
		`lake.yaml:21: scopes[2].name: scope ".."`,
		`lake.yaml:21: scopes[2].layout: want lfn or contents, not "flat"`,
		`lake.yaml:21: scopes[2].mode: "0999" is not a mode`,
		`lake.yaml:23: write_rules[0].expression: "country=ES" matches no RSE`,
		`lake.yaml:24: write_rules[1].expression: `,
		`lake.yaml:25: write_rules[2].expression: "U" matches 1 RSE that can be written, 2 copies want as many`,
		`lake.yaml:26: checksums[0]: want adler32 or md5 or sha256, not "crc32"`,
		`lake.yaml:27: recalls.timeout: want more than recalls.hold`,
		`lake.yaml:27: recalls.policy.nonblock: want resident or eagain`,
		`lake.yaml:27: recalls.policy.rules[0].action: want recall or refuse or ask`,
		`lake.yaml:27: recalls.policy.rules[0].comm[0]: "a-name-too-long-for-comm": want a process name of 1 to 15 bytes`,
		`lake.yaml:28: mount.xattr: want true or false, not "perhaps"`,
		`lake.yaml:28: mount.umask: want 0 to 0777`,
		`lake.yaml:29: log.level: want debug or info or warn or error, not "loud"`,
		`lake.yaml:30: journal: want keys and values, not a list`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	line := 0
	for _, f := range bad.Faults {
		if f.Line < line {
			t.Errorf("not in the order of the file: %v after line %d", f, line)
		}
		line = f.Line
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestParseOddDocuments(t *testing.T) {
	for _, p := range []struct{ name, text, want string }{
		{"empty", "", "want at least one RSE"},
		{"comment", "# nothing\n", "want at least one RSE"},
		{"null sections", "cache:\nrses:\nscopes:\n", "want at least one scope"},
		{"a list", "- a\n", "want keys and values, not a list"},
		{"a word", "hello\n", "want keys and values, not a single value"},
		{"two documents", good + "\n---\nname: b\n", "one document only"},
		{"not YAML", "a: [\n", "line "},
		{"unknown deep key", good + "\nrun: {a: 1}\n", "run: want a text, not a group of keys"},
	} {
		t.Run(p.name, func(t *testing.T) {
			_, err := Parse("/l/lake.yaml", []byte(p.text))
			if err == nil || !strings.Contains(err.Error(), p.want) {
				t.Errorf("error is %v, want one with %q", err, p.want)
			}
		})
	}
}

// Rank: file, then lake.local.yaml, then the environment, then flags.
func TestLoadRank(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("lake.yaml", good)
	write("lake.local.yaml", `
cache: {limit: 20G}
journal: {close: local}
rses:
  - {name: ES-DISK, path: /data/es}
  - {name: IT-DISK, kind: disk, path: it}
`)
	env := Environment([]string{"HOME=/x", "TARN_CACHE_LIMIT=30G", "TARN_LAKE=zz", "TARN_LOG_LEVEL=warn", "TARN_NAME=77", "TARN_MEMORY=300MiB"})
	c, err := Load(filepath.Join(dir, "lake.yaml"), append(env, Setting{"--set", "log.level", "error"}, Setting{"--set", "checksums", "[sha256]"})...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		what      string
		got, want any
	}{
		{"flag over environment", c.Log.Level, "error"},
		{"environment over local", c.Cache.Limit, 30 * GiB},
		{"key without a section", c.Memory, 300 * MiB},
		{"local over file", c.Journal.Close, "local"},
		{"file", c.Journal.Delay.D(), 2 * time.Second},
		{"RSE merged by name", c.RSEs[0].Path, "/data/es"},
		{"RSE keeps the rest", c.RSEs[0].Attributes["country"], "ES"},
		{"RSE added", c.RSEs[2].Path, filepath.Join(dir, "it")},
		{"number as name", c.Name, "77"},
		{"list by flag", c.Checksums, []string{"sha256"}},
	} {
		if !reflect.DeepEqual(p.got, p.want) {
			t.Errorf("%s: %v, want %v", p.what, p.got, p.want)
		}
	}

	write("lake.local.yaml", "cache: {limits: 1G}\nlog: {level: 3}\n")
	_, err = Load(filepath.Join(dir, "lake.yaml"), Setting{"TARN_CACHE_HEAD", "cache.head", "big"}, Setting{"--set", "cache.hed", "1"})
	for _, want := range []string{
		`lake.local.yaml:1: cache.limits: unknown key; did you mean "limit"?`,
		`lake.local.yaml:2: log.level: want debug or info`,
		`TARN_CACHE_HEAD: cache.head: "big" is not a size`,
		`--set: cache.hed: unknown key; did you mean "head"?`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in %v", want, err)
		}
	}
}

// Two lakes described in one folder must not share their state.
func TestDefaultPathsOfNamedLake(t *testing.T) {
	c, err := Parse("/etc/tarn/north.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Run != "/etc/tarn/north/run" || c.Journal.Path != "/etc/tarn/north/journal" {
		t.Errorf("run %s, journal %s", c.Run, c.Journal.Path)
	}
}

func TestValidateByHand(t *testing.T) {
	c := Default("")
	err := c.Validate()
	if err == nil || !strings.Contains(err.Error(), "want at least one RSE") {
		t.Errorf("error is %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("a: &x {b: *x}\n")
	f.Add("rses: [{name: a}, null, 3]\nscopes: {a: b}\n")
	f.Add("? [a]\n: b\n")
	f.Add("<<: {name: x}\n")
	f.Add("cache: !!binary aGk=\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("/l/lake.yaml", []byte(text))
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v and error %v", c, err)
		}
		if err == nil && c.Validate() != nil {
			t.Fatal("parsed, but not valid")
		}
	})
}

func TestSettingIsMeantAsItStands(t *testing.T) {
	for _, p := range []struct{ value, want string }{
		{"a: b", "a: b"}, {"- c", "- c"}, {"-", "-"}, {"d #1", "d #1"}, {"&e", "&e"},
		{`"f"`, "f"}, {"2024", "2024"},
	} {
		c, err := Load(writeLake(t, good), Setting{From: "--set", Key: "log.file", Value: p.value})
		if err != nil {
			t.Errorf("%q: %v", p.value, err)
			continue
		}
		if got := filepath.Base(c.Log.File); got != p.want {
			t.Errorf("log.file=%s is %q", p.value, c.Log.File)
		}
	}
}

// writeLake writes a lake file and gives its name.
func writeLake(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "lake.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTransfers(t *testing.T) {
	const lake = "rses: [{name: A, path: a, attributes: {site: X}}, {name: B, path: b}]\nscopes: [{name: s}]\n"
	c, err := Parse("/srv/lake/lake.yaml", []byte(lake+"transfers: {at_a_time: 4, per_link: 2, third_party: 2MiB, activities: [{name: raw data, share: 3}], links: [{from: site=X, to: B, copies: -1}, {from: A, to: '*'}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Transfers{4, 2, 2 * MiB, []Activity{{"raw data", 3}}, []Link{{"site=X", "B", -1}, {"A", "*", 0}}}
	if !reflect.DeepEqual(c.Transfers, want) {
		t.Errorf("%+v", c.Transfers)
	}
	_, err = Parse("/srv/lake/lake.yaml", []byte(lake+"transfers: {at_a_time: -1, activities: [{name: a, share: 0}, {name: a, share: 1}], links: [{from: '((', to: C, copies: -2}]}\n"))
	for _, says := range []string{"transfers.at_a_time: want 0 to 1000", "activities[0].share: want 1", `activities[1].name: "a" is given twice`, "links[0].from: ", `links[0].to: "C" matches no RSE`, "links[0].copies: want -1"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}
