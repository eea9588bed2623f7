package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// A copy that cannot be made is listed with its cause, and one that was made is counted.
func TestTransfers(t *testing.T) {
	s := newSite(t, crashLake+"write_rules: [{copies: 1, expression: LAPALMA-DISK}]\n")
	if r := s.try("transfers"); r.code != 7 {
		t.Errorf("without a daemon: exit %d\n%s", r.code, r.err)
	}
	s.mount()
	s.sh("echo x > ctao/f")
	s.drain()
	blocked := filepath.Join(s.dir, "rse/PIC-DISK")
	if err := os.Rename(blocked, blocked+".away"); err != nil {
		t.Fatal(err)
	}
	s.ok("rule", "add", "/ctao/f", "PIC-DISK")
	s.within(time.Minute, "listed with an error", func() bool {
		for _, r := range s.rows("transfers") {
			if e, _ := r["error"].(string); r["path"] == "/ctao/f" && e != "" {
				return true
			}
		}
		return false
	})
	if out := s.ok("transfers"); !strings.Contains(out, "/ctao/f") || !strings.Contains(out, "WAITING") && !strings.Contains(out, "RUNNING") && !strings.Contains(out, "QUEUED") {
		t.Errorf("for people:\n%s", out)
	}
	if err := os.Rename(blocked+".away", blocked); err != nil {
		t.Fatal(err)
	}
	s.within(2*time.Minute, "copied", func() bool {
		rows := s.rows("transfers")
		st, _ := rows[len(rows)-1]["status"].(map[string]any)
		n, _ := st["copied"].(float64)
		return n >= 1
	})
	s.umount()
}

// evict tells a pinned file from one in use.
func TestEvictSaysPinned(t *testing.T) {
	s := newSite(t, crashLake)
	s.mount()
	s.sh("head -c 3000000 /dev/zero > ctao/p")
	s.drain()
	s.sh("cat ctao/p > /dev/null")
	s.ok("pin", "--for", "1h", "/ctao/p")
	if r := s.try("evict", "/ctao/p"); r.code != 6 || !strings.Contains(r.out+r.err, "pinned until") {
		t.Errorf("evict of a pinned file: exit %d\n%s%s", r.code, r.out, r.err)
	}
	s.umount()
}

// TestUploadsGoOnAfterBreaks: an upload whose connection is cut again and again goes on from what the server has.
func TestUploadsGoOnAfterBreaks(t *testing.T) {
	needXrdCl(t)
	const size = 32 << 20
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	d, url := before(t, srv.Root)
	s := newLake(t, fmt.Sprintf(`name: cut
rses: [{name: ONE, protocols: [{url: %q, limits: {write: 8MiB/s}}]}]
scopes: [{name: ctao}]
write_rules: [{copies: 1, expression: ONE}]
cache: {limit: 256MiB, free_floor: 0, head: 0, tail: 0}
journal: {delay: 0s}
`, url+"//data"))
	s.mount()
	data := backendstest.Bytes(13, size)
	must(t, os.WriteFile(s.path("ctao/f"), data, 0o644))
	for range 2 {
		time.Sleep(1500 * time.Millisecond)
		d.Stop()
		time.Sleep(300 * time.Millisecond)
		must(t, d.Start())
	}
	s.drain()
	resumed := regexp.MustCompile(`an upload goes on where it was" at=(\d+)`).FindAllStringSubmatch(s.log.String(), -1)
	if len(resumed) < 2 {
		t.Errorf("it went on %d times:\n%s", len(resumed), s.log.String())
	}
	for i, r := range resumed {
		if at, _ := strconv.Atoi(r[1]); at < (i+1)*(4<<20) {
			t.Errorf("break %d: it went on at %d", i+1, at)
		}
	}
	if r := s.try("verify", "/ctao/f"); !strings.Contains(r.out+r.err, "1 replica good") {
		t.Errorf("verify: %s%s", r.out, r.err)
	}
	s.umount()
}
