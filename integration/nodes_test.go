package integration

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
)

// TestNodesStayBounded walks over more files than a daemon with little memory keeps nodes
// for, while a process stands in a directory, files are open and a listing is read; all of
// them find what they had (N4, N6), and the number of nodes stays bounded (N12).
func TestNodesStayBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, "memory: 128MiB\njournal: {delay: 1ms}\n")
	s.ok("ls", "/") // makes the catalogue
	const dirs, each, flat = 40, 1000, 30000
	c, err := embedded.Open(embedded.Options{Dir: filepath.Join(s.dir, "catalogue")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Import(context.Background(), func(yield func(backends.Entry, error) bool) {
		add := func(typ backends.Type, mode uint32, p string, args ...any) bool {
			did := backends.DID{Scope: "ctao", Name: "/ctao/" + fmt.Sprintf(p, args...)}
			return yield(backends.Entry{Info: backends.Info{DID: did, Type: typ, Mode: mode}}, nil)
		}
		ok := add(backends.Dataset, 0o755, "flat") && add(backends.Dataset, 0o755, "deep")
		for i := 0; ok && i < flat; i++ {
			ok = add(backends.File, 0o644, "flat/f%05d", i)
		}
		for i := 0; ok && i < dirs*each; i++ {
			ok = (i%each > 0 || add(backends.Dataset, 0o755, "deep/d%02d", i/each)) && add(backends.File, 0o600, "deep/d%02d/f%05d", i/each, i)
		}
	})
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	s.mount()
	limit := int(s.stats()["nodes_limit"].(float64))
	if limit > (flat+dirs*each)/2 {
		t.Fatalf("a limit of %d nodes: too many for this test", limit)
	}

	stands := exec.Command("sh", "-c", "echo there; read go; /bin/pwd; ls | wc -l; ls -l d07/f07001 | cut -c1-10")
	stands.Dir = s.path("ctao/deep")
	in, err := stands.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := stands.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stands.Start(); err != nil {
		t.Fatal(err)
	}
	defer stands.Process.Kill()
	said := bufio.NewScanner(out)
	said.Scan()

	text := strings.Repeat("kept ", 10000)
	if err := os.WriteFile(s.path("ctao/kept"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	kept, err := os.Open(s.path("ctao/kept"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	list, err := os.Open(s.path("ctao/flat"))
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	seen, err := list.Readdirnames(1000)
	if err != nil {
		t.Fatal(err)
	}
	sample := func() string {
		return s.sh("stat -c '%n %i %s %a' ctao/kept ctao/deep ctao/deep/d0[37] ctao/deep/d03/f03*7 ctao/flat/f*00")
	}
	before := sample()

	most := 0
	for _, walk := range []string{"ls -lR ctao/deep", "ls -l ctao/flat", "find ctao -size +1k"} {
		s.sh(walk + " >/dev/null")
		n := int(s.stats()["nodes"].(float64))
		most = max(most, n)
		s.within(20*time.Second, "within the limit", func() bool { return s.stats()["nodes"].(float64) <= float64(limit) })
	}
	t.Logf("limit %d, at most %d nodes behind a walk; the kernel was asked to forget %v", limit, most, s.stats()["nodes_forget"])
	if most > limit+limit/2 {
		t.Errorf("%d nodes behind a walk, with a limit of %d", most, limit)
	}

	if after := sample(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	rest, err := list.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	once := map[string]bool{}
	for _, n := range append(seen, rest...) {
		once[n] = true
	}
	if len(seen)+len(rest) != flat || len(once) != flat {
		t.Errorf("the listing has %d names, %d different ones", len(seen)+len(rest), len(once))
	}
	b := make([]byte, len(text)+1)
	if n, _ := kept.ReadAt(b, 0); string(b[:n]) != text {
		t.Errorf("the open file has %d bytes of %d", n, len(text))
	}
	fmt.Fprintln(in, "go")
	for _, want := range []string{s.path("ctao/deep"), fmt.Sprint(dirs), "-rw-------"} {
		if said.Scan(); said.Text() != want {
			t.Errorf("the process that stood in a directory says %q, want %q", said.Text(), want)
		}
	}
	if err := stands.Wait(); err != nil {
		t.Error(err)
	}
}
