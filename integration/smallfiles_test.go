package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKillKeepsSmallFiles: files that the journal has in its log only survive kill -9 when
// they were closed or synced, and what is written slowly is kept aside.
func TestKillKeepsSmallFiles(t *testing.T) {
	for _, closing := range []string{"local", "fast"} {
		t.Run(closing, func(t *testing.T) {
			s := newSite(t, "journal: {delay: 12h, close: "+closing+"}")
			s.mount()
			s.sh("mkdir ctao/k")
			want := map[string][]byte{}
			write := func(name string, b []byte) {
				t.Helper()
				must(t, os.WriteFile(filepath.Join(s.mnt, name), b, 0o644))
				want[name] = b
			}
			files := func() int {
				list, err := filepath.Glob(filepath.Join(s.dir, "journal/*.data"))
				must(t, err)
				return len(list)
			}
			for i := range 150 { // enough for a log
				write(fmt.Sprintf("ctao/k/f%03d", i), bytes.Repeat([]byte{byte(i)}, 10*i))
			}
			log := filepath.Join(s.dir, "journal/log-1")
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				if _, err := os.Stat(log); err == nil {
					break
				}
				if time.Now().After(end) {
					t.Fatal("there is no log yet")
				}
			}
			time.Sleep(500 * time.Millisecond)
			before := files()
			for i := range 100 {
				write(fmt.Sprintf("ctao/k/g%03d", i), bytes.Repeat([]byte{byte(i)}, 40*i))
			}
			t.Logf("%d of 100 small files have files in the journal", files()-before)
			s.sh("mv ctao/k/g001 ctao/k/moved; rm ctao/k/g002; printf more >> ctao/k/g003; printf X | dd of=ctao/k/g004 conv=notrunc status=none")
			want["ctao/k/moved"] = want["ctao/k/g001"]
			delete(want, "ctao/k/g001")
			delete(want, "ctao/k/g002")
			want["ctao/k/g003"] = append(want["ctao/k/g003"], "more"...)
			want["ctao/k/g004"] = append([]byte("X"), want["ctao/k/g004"][1:]...)
			// After the last fork: a child closes its copies of the descriptors.
			synced, err := os.Create(filepath.Join(s.mnt, "ctao/k/synced"))
			must(t, err)
			defer synced.Close()
			_, err = synced.WriteString("synced")
			must(t, err)
			must(t, synced.Sync())
			slow, err := os.Create(filepath.Join(s.mnt, "ctao/k/slow"))
			must(t, err)
			defer slow.Close()
			_, err = slow.WriteString("slowly written")
			must(t, err)
			time.Sleep(2500 * time.Millisecond) // slow gets files
			s.kill()
			s.mount()
			for name, b := range want {
				got, err := os.ReadFile(filepath.Join(s.mnt, name))
				if err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(b), err)
				}
			}
			if got, err := os.ReadFile(filepath.Join(s.mnt, "ctao/k/synced")); string(got) != "synced" {
				t.Errorf("synced: %q %v", got, err)
			}
			for _, name := range []string{"ctao/k/g001", "ctao/k/g002", "ctao/k/slow"} {
				if _, err := os.Stat(filepath.Join(s.mnt, name)); !os.IsNotExist(err) {
					t.Errorf("%s: %v", name, err)
				}
			}
			aside := false
			for _, r := range s.rows("uploads", "ls") {
				aside = aside || r["state"] == "ABANDONED" && strings.HasSuffix(fmt.Sprint(r["path"]), "/slow")
			}
			if !aside {
				t.Error("what was written slowly is not kept aside")
			}
		})
	}
}
