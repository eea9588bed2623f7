package main

import (
	"errors"
	"io"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/cmd/tarn/control"
)

func testTerminal() *terminal {
	return &terminal{in: strings.NewReader(""), out: io.Discard, err: io.Discard, now: time.Now}
}

func TestArrange(t *testing.T) {
	app := newApp(testTerminal())
	for in, want := range map[string]string{
		"tarn":                                    "tarn",
		"tarn ls /a --json":                       "tarn --json ls -- /a",
		"tarn --lake x ls -lR /a":                 "tarn --lake=x ls --long --recursive -- /a",
		"tarn ls /a --lake=x -q":                  "tarn --lake=x --quiet ls -- /a",
		"tarn rule add /a E -n 2":                 "tarn rule add --copies=2 -- /a E",
		"tarn rule add /a --copies=2 E":           "tarn rule add --copies=2 -- /a E",
		"tarn ls -- -x --json":                    "tarn ls -- -x --json",
		"tarn find help":                          "tarn find -- help",
		"tarn ls -h":                              "tarn ls --help --",
		"tarn help":                               "tarn help",
		"tarn help ls":                            "tarn ls --help --",
		"tarn help rule add":                      "tarn rule add --help --",
		"tarn help rule":                          "tarn rule --help",
		"tarn help --json bringonline":            "tarn --json stage --help --",
		"tarn help index":                         "tarn index --help",
		"tarn rule add /a E --help":               "tarn rule add --help --",
		"tarn --version":                          "tarn --version",
		"tarn -vv ls":                             "tarn --verbose --verbose ls --",
		"tarn bringonline /a -f -":                "tarn stage --file=- -- /a",
		"tarn put - /a":                           "tarn put -- - /a",
		"tarn mount -f L M -o ro -o cache.path=x": "tarn mount --foreground --options=ro --options=cache.path=x -- L M",
		"tarn rule":                               "tarn rule",
		"tarn du -D1 /a":                          "",
	} {
		got, err := arrange(app, strings.Fields(in))
		if want == "" {
			if err == nil {
				t.Errorf("%s: %v, want an error", in, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, strings.Fields(want)) {
			t.Errorf("%s:\n got %v, %v\nwant %s", in, got, err, want)
		}
	}
}

func TestArrangeTellsWhatIsWrong(t *testing.T) {
	app := newApp(testTerminal())
	for in, want := range map[string]string{
		"tarn lss":           `tarn has no command "lss"; did you mean ls?`,
		"tarn mnt":           `did you mean mount?`,
		"tarn rule lst":      `tarn rule has no command "lst"; did you mean ls?`,
		"tarn ls --log":      `tarn ls has no flag --log; did you mean --long?`,
		"tarn ls -lx":        `tarn ls has no flag -lx`,
		"tarn stage --pin":   `--pin needs a value`,
		"tarn ls --longg=no": `did you mean --long?`,
		"tarn qqqqqqq":       `tarn has no command "qqqqqqq"`,
		"tarn help lss":      `tarn has no command "lss"; did you mean ls?`,
		"tarn help rule lst": `tarn rule has no command "lst"; did you mean ls?`,
		"tarn help ls x":     `tarn ls has no command "x"`,
		"tarn help index /a": `tarn index has no command "/a"`,
	} {
		_, err := arrange(app, strings.Fields(in))
		if err == nil || !strings.Contains(err.Error(), want) || control.Describe(err).Code != control.CodeUsage || control.Describe(err).Hint == "" {
			t.Errorf("%s: error is %v, want one with %q, code 2 and a hint", in, err, want)
		}
	}
}

func FuzzArrange(f *testing.F) {
	for _, s := range []string{"ls -lR /a --json", "rule add -n 2 -- x", "--lake", "-", "-- --", "mount -o a=b", "-vvv=3 ls"} {
		f.Add(s)
	}
	app := newApp(testTerminal())
	f.Fuzz(func(t *testing.T, s string) {
		out, err := arrange(app, append([]string{"tarn"}, strings.Split(s, " ")...))
		if err != nil && !errors.Is(err, control.ErrUsage) {
			t.Errorf("%q: error of another kind: %v", s, err)
		}
		if err == nil && (len(out) == 0 || out[0] != "tarn") {
			t.Errorf("%q gives %q", s, out)
		}
	})
}

// Every command that a person can meet has a help text, and no flag hides a global one.
func TestEveryCommandIsDescribed(t *testing.T) {
	app := newApp(testTerminal())
	for _, c := range app.Commands {
		for _, sub := range append(c.Subcommands, c) {
			if sub.Usage == "" || sub.Action == nil {
				t.Errorf("command %s %s has no usage or does nothing", c.Name, sub.Name)
			}
			for _, f := range sub.Flags {
				for _, n := range f.Names() {
					if findFlag(app.Flags, n) != nil {
						t.Errorf("flag %s of %s hides a global one", n, sub.Name)
					}
				}
			}
		}
		if c.Category == "" && !c.Hidden {
			t.Errorf("command %s is in no group", c.Name)
		}
	}
}

// What help texts show is what the program takes, and one default at most is told of a flag.
func TestHelpIsTrue(t *testing.T) {
	rule := regexp.MustCompile(`--rule '([^']*)'`)
	var each func(cmds []*cli.Command)
	each = func(cmds []*cli.Command) {
		for _, c := range cmds {
			for _, r := range rule.FindAllStringSubmatch(c.Description, -1) {
				if _, err := parseRule(r[1]); err != nil {
					t.Errorf("%s: %v", c.Name, err)
				}
			}
			for _, f := range c.Flags {
				if s := f.String(); strings.Count(s, "default") > 1 {
					t.Errorf("%s: %s", c.Name, s)
				}
			}
			each(c.Subcommands)
		}
	}
	each(newApp(testTerminal()).Commands)
}

// What is wrong with the arguments of a command is told with the help of that command, not of another one of the same name.
func TestArgumentsThatAreWrong(t *testing.T) {
	for in, want := range map[string]string{
		"tarn rule add":             "`tarn help rule add` shows how it is used",
		"tarn rule add /a E -n x":   "`tarn help rule add` shows how it is used",
		"tarn catalogue dataset":    "`tarn help catalogue dataset` shows how it is used",
		"tarn pin":                  "`tarn help pin` shows how it is used",
		"tarn ingest ls x":          "`tarn help ingest ls` shows how it is used",
		"tarn version x":            "`tarn help version` shows how it is used",
		"tarn config keys x":        "`tarn help config keys` shows how it is used",
		"tarn cache scrub x":        "`tarn help cache scrub` shows how it is used",
		"tarn catalogue counters x": "`tarn help catalogue counters` shows how it is used",
	} {
		err := run(t.Context(), strings.Fields(in), strings.NewReader(""), io.Discard, io.Discard)
		if d := control.Describe(err); d == nil || d.Code != control.CodeUsage || d.Hint != want {
			t.Errorf("%s: %+v, want code 2 and hint %q", in, d, want)
		}
	}
}

func TestMountHelperArguments(t *testing.T) {
	got := fromMountHelper([]string{"/sbin/mount.tarn", "/srv/lake", "/lake", "-s", "-n", "-o", "ro,_netdev", "-t", "fuse.tarn"})
	if want := []string{"tarn", "mount", "/srv/lake", "/lake", "-o", "ro,_netdev"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMountOptions(t *testing.T) {
	settings := map[string]string{}
	var o mountOptions
	for _, opt := range splitOptions("ro,allow-other,nosuid,_netdev,x-systemd.automount,cache_size=5G,checksums.x=[a,b],uid=7,nonempty,,umask=022") {
		if err := mountOption(opt, &o, func(_, k, v string) { settings[k] = v }); err != nil {
			t.Error(err)
		}
	}
	want := map[string]string{
		"mount.read_only": "true", "mount.allow_other": "true", "cache.limit": "5G", "checksums.x": "[a,b]", "mount.uid": "7", "mount.umask": "022",
	}
	if !reflect.DeepEqual(settings, want) || !reflect.DeepEqual(o.kernel, []string{"nosuid"}) || !o.nonempty {
		t.Errorf("settings %v, kernel %v, nonempty %v", settings, o.kernel, o.nonempty)
	}
	for _, bad := range []string{"rw2", "cash_size=3"} {
		if err := mountOption(bad, &o, func(_, _, _ string) {}); !errors.Is(err, control.ErrUsage) {
			t.Errorf("%s: %v, want a usage error", bad, err)
		}
	}
}
