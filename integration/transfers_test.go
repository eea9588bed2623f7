package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
