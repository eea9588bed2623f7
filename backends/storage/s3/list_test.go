package s3

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
	"tarn/backends/storage/wire"
)

// Random folders come in the order of names, whole and once, however few entries may be held.
func TestOrderAgainstAModel(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for round := range 3000 {
		keys := map[string]bool{} // a folder ends with a slash
		for range r.IntN(40) {
			var b strings.Builder
			for range 1 + r.IntN(5) {
				b.WriteByte("ab-.!0"[r.IntN(6)])
			}
			if wire.CheckPath(b.String(), "S3") == nil {
				keys[b.String()+strings.Repeat("/", r.IntN(2))] = true
			}
		}
		var want, got []string
		for k := range keys {
			if name := strings.TrimSuffix(k, "/"); name == k || !keys[name] { // a file hides a folder of its name
				want = append(want, name)
			}
		}
		slices.Sort(want)
		sorted := make([]string, 0, len(keys))
		for k := range keys {
			sorted = append(sorted, k)
		}
		slices.Sort(sorted)
		o := order{limit: r.IntN(6), give: func(e entry) bool {
			if e.dir != keys[e.name+"/"] && !keys[e.name] {
				t.Errorf("%q is a folder: %v", e.name, e.dir)
			}
			got = append(got, e.name)
			return true
		}, isFolder: func(name string) (bool, error) { return keys[name+"/"], nil }}
		for _, k := range sorted {
			if _, err := o.add(entry{name: strings.TrimSuffix(k, "/"), dir: strings.HasSuffix(k, "/")}); err != nil {
				t.Fatal(err)
			}
			if len(o.held) > o.limit {
				t.Fatalf("%d entries are held", len(o.held))
			}
		}
		o.flush(true)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d, round %d: keys %q\ngot  %q\nwant %q", seed, round, sorted, got, want)
		}
	}
}

// The bucket can stand in the name of the host.
func TestHostStyle(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{Domain: "s3.test"})
	addr := strings.TrimPrefix(srv.HTTP, "http://")
	_, port, _ := net.SplitHostPort(addr)
	var mu sync.Mutex
	var asked []string
	s := open(t, Options{URL: "s3://s3.test:" + port + "/lake/x", Style: "host", dial: func(ctx context.Context, network, to string) (net.Conn, error) {
		mu.Lock()
		asked = append(asked, to)
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, addr)
	}})
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, s, "d/f", data)
	same(t, s, "d/f", data)
	for a, err := range s.List(t.Context(), "d") {
		if err != nil || a.Path != "d/f" {
			t.Errorf("%+v, %v", a, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, to := range asked {
		if to != "lake.s3.test:"+port {
			t.Errorf("%s was asked", to)
		}
	}
}

func TestURLs(t *testing.T) {
	for url, want := range map[string]string{
		"s3s://host:9000/bucket/a/b/": "s3s://host:9000/bucket/a/b", "s3://host/bucket": "s3://host/bucket",
		"s3://host": "", "s3://host/": "", "s3:///bucket": "", "http://host/bucket": "", "s3://me:s3cr3t@host/bucket": "", "s3://host/bucket?s3cr3t": "",
		"s3://host/bucket/../x": "", "s3://host/b": "", "s3://host/bucket/%00": "", "s3://ho st/s3cr3t": "",
	} {
		s, err := Open(Options{URL: url})
		if want == "" {
			if err == nil || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%s: %v", url, err)
			}
			continue
		}
		if err != nil || s.at("") != want || s.at("f") != want+"/f" {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := Open(Options{URL: "s3://host/bucket", Style: "both"}); err == nil || !strings.Contains(fmt.Sprint(err), "style") {
		t.Error(err)
	}
}
