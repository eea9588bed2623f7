package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The proof of the long haul is worth as much as what it notices: here a healthy lake passes it, and each harm does not.
func TestLongHaulProofNotices(t *testing.T) {
	h := newHaul(t, haulOptions{local: "write_rules: [{copies: 1, expression: PIC-DISK}, {copies: 1, expression: PIC-TAPE}, {copies: 1, expression: CNAF-DISK}]\njournal: {delay: 0s}\n"})
	h.mount()
	dir := t.TempDir()
	m := newManifest(dir, "/ctao/dl0")
	must(t, m.fill(0, 4, 100_000))
	h.sh("cp -r " + dir + " ctao/dl0")
	h.drain()
	h.taped("/ctao/dl0")
	prove := func() faults {
		t.Helper()
		var f faults
		h.proveCatalogue(&f, m, longRSEs)
		for _, rse := range []string{"PIC-DISK", "CNAF-DISK"} {
			must(t, h.proveServer(&f, rse, h.servers[rse].Dir, m))
		}
		must(t, h.proveTape(&f, "PIC-TAPE", m))
		return f
	}
	h.within(time.Minute, "proved", func() bool { f := prove(); return f.err() == nil })
	left, err := regular(dir)
	must(t, err)
	if err := h.deletedOnlySafe(m, left[1:]); err != nil {
		t.Errorf("of a file that is safe: %v", err)
	}
	at := func(rse string) string {
		files, err := regular(h.servers[rse].Dir)
		must(t, err)
		return filepath.Join(h.servers[rse].Dir, files[0])
	}
	want := func(kinds ...string) {
		t.Helper()
		f := prove()
		for _, k := range kinds {
			if len(f.kinds[k]) == 0 {
				t.Errorf("not noticed: %s; it says %v", k, f.err())
			}
		}
	}
	flip(t, at("CNAF-DISK"), 5000)
	want("not at CNAF-DISK", "strange at CNAF-DISK")
	var damaged string
	for name, e := range m.files {
		files, err := regular(h.servers["CNAF-DISK"].Dir)
		must(t, err)
		there := false
		for _, p := range files {
			there = there || sum(t, filepath.Join(h.servers["CNAF-DISK"].Dir, p)) == e.sum
		}
		if !there {
			damaged = name
		}
	}
	var others []string
	for _, p := range left {
		if p != damaged {
			others = append(others, p)
		}
	}
	if err := h.deletedOnlySafe(m, others); err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("deleted with a damaged copy: %v", err)
	}
	must(t, os.Rename(at("PIC-DISK"), filepath.Join(h.servers["PIC-DISK"].Dir, "elsewhere")))
	want("not at its path at PIC-DISK")
	must(t, os.WriteFile(filepath.Join(h.servers["PIC-DISK"].Dir, "stranger"), []byte("x"), 0o644))
	want("strange at PIC-DISK")
	cartridge, off := h.cartridgeWith(block(1, 0, 100_000, make([]byte, 1<<20)))
	flip(t, cartridge, off+50_000)
	want("not on PIC-TAPE", "strange or twice on PIC-TAPE")
	must(t, os.Remove(h.path(m.lakePath(fileName(2)))))
	want("not where the rules say")
	h.umount("--now", "--force")
}
