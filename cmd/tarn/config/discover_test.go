package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	for _, p := range []string{"lake/lake.yaml", "conf/a.yaml", "conf/b/lake.yaml", "etc/b.yaml", "etc/c.yaml", "other.yml"} {
		p = filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(root)
	folders := []string{filepath.Join(root, "conf"), filepath.Join(root, "etc")}
	for arg, want := range map[string]string{
		"lake": "lake/lake.yaml", "./lake": "lake/lake.yaml", filepath.Join(root, "lake"): "lake/lake.yaml",
		"lake/lake.yaml": "lake/lake.yaml", "other.yml": "other.yml",
		"a": "conf/a.yaml", "b": "conf/b/lake.yaml", "c": "etc/c.yaml",
	} {
		if got, err := Find(arg, folders); err != nil || got != filepath.Join(root, want) {
			t.Errorf("Find(%q) is %s, %v; want %s", arg, got, err, want)
		}
	}
	for _, arg := range []string{"", "d", "conf", "./a", "other.yml/x", ".", "a\x00b"} {
		if got, err := Find(arg, folders); !errors.Is(err, ErrNoLake) {
			t.Errorf("Find(%q) is %s, %v; want ErrNoLake", arg, got, err)
		}
	}
	_, err := Find("zz", folders)
	for _, f := range folders {
		if err == nil || !strings.Contains(err.Error(), filepath.Join(f, "zz.yaml")) {
			t.Errorf("error does not say that %s was searched: %v", f, err)
		}
	}
}

func TestFolders(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	for _, p := range []struct {
		env  map[string]string
		want []string
	}{
		{map[string]string{"HOME": "/h"}, []string{"/h/.config/tarn", "/etc/tarn"}},
		{map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, []string{"/x/tarn", "/etc/tarn"}},
		{map[string]string{"XDG_CONFIG_HOME": "rel"}, []string{"/etc/tarn"}},
	} {
		if got := Folders(env(p.env)); !reflect.DeepEqual(got, p.want) {
			t.Errorf("Folders(%v) is %v, want %v", p.env, got, p.want)
		}
	}
}

const mountinfo = `22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 22 0:50 / /mnt/lake rw,nosuid,nodev shared:7 - fuse.tarn /srv/lake/lake.yaml rw,user_id=0
91 90 0:51 / /mnt/lake/in rw - fuse.tarn /srv/in\040ner/lake.yaml rw
92 22 0:52 / /mnt/with\040sp\134ace rw - fuse.tarn /srv/b.yaml rw
93 22 0:53 / /mnt/ssh rw - fuse.sshfs host: rw
94 22 0:54 / /mnt/lake rw master:1 propagate_from:2 - fuse.tarn /srv/second.yaml rw
garbage
`

func TestMounts(t *testing.T) {
	ms := Mounts(mountinfo)
	want := []MountOf{
		{Point: "/mnt/lake", Lake: "/srv/lake/lake.yaml"}, {Point: "/mnt/lake/in", Lake: "/srv/in ner/lake.yaml"},
		{Point: `/mnt/with sp\ace`, Lake: "/srv/b.yaml"}, {Point: "/mnt/lake", Lake: "/srv/second.yaml"},
	}
	if !reflect.DeepEqual(ms, want) {
		t.Fatalf("mounts are %v", ms)
	}
	for _, p := range []struct{ path, lake, rel string }{
		{"/mnt/lake", "/srv/second.yaml", "/"},
		{"/mnt/lake/", "/srv/second.yaml", "/"},
		{"/mnt/lake/a/../b", "/srv/second.yaml", "/b"},
		{"/mnt/lake/in/x", "/srv/in ner/lake.yaml", "/x"},
		{"/mnt/lake/inn", "/srv/second.yaml", "/inn"},
		{"/mnt/lakes", "", ""},
		{"/mnt/ssh/a", "", ""},
		{`/mnt/with sp\ace/d`, "/srv/b.yaml", "/d"},
	} {
		m, rel, ok := Within(ms, p.path)
		if m.Lake != p.lake || rel != p.rel || ok != (p.lake != "") {
			t.Errorf("Within(%s) is %v, %q, %v", p.path, m, rel, ok)
		}
	}
	if _, rel, ok := Within([]MountOf{{Point: "/", Lake: "/l"}}, "/a/b"); !ok || rel != "/a/b" {
		t.Errorf("a lake mounted at / gives %q, %v", rel, ok)
	}
}

func FuzzMounts(f *testing.F) {
	f.Add(mountinfo)
	f.Add(`1 2 3:4 / /a\1 rw - fuse.tarn \777 rw`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, m := range Mounts(s) {
			if _, rel, ok := Within([]MountOf{m}, m.Point); ok && rel != "/" {
				t.Errorf("%q is %q within itself", m.Point, rel)
			}
		}
	})
}

func TestMountsOfSeveralLakes(t *testing.T) {
	ms := Mounts(`30 1 0:41 / /grid rw - fuse.tarn-lakes /srv/grid.yaml rw
31 30 0:42 / /grid/B rw - fuse.tarn /srv/b.yaml rw
32 30 0:43 / /grid/A rw - fuse.tarn /srv/a.yaml rw
33 32 0:44 / /grid/A/deep rw - fuse.tarn /srv/c.yaml rw
34 1 0:45 / /other rw - fuse.tarn-lakesx /srv/d.yaml rw
`)
	if len(ms) != 4 || !ms[0].Grid || ms[1].Grid {
		t.Fatalf("mounts are %v", ms)
	}
	below := ms[0].Below(ms)
	if len(below) != 2 || below[0].Point != "/grid/B" || below[1].Point != "/grid/A" || len(ms[2].Below(ms)) != 0 {
		t.Errorf("below the root are %v", below)
	}
	for path, want := range map[string]string{"/grid": "/grid", "/grid/C/x": "/grid", "/grid/A/x": "/grid/A", "/grid/A/deep/x": "/grid/A/deep"} {
		if m, _, _ := Within(ms, path); m.Point != want {
			t.Errorf("%s is in %s, want %s", path, m.Point, want)
		}
	}
}
