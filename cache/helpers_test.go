package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/adler32"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const kb4 = 4096 // the block of most tests

func TestMain(m *testing.M) {
	if dir := os.Getenv("CACHE_CRASH_DIR"); dir != "" {
		crashChild(dir)
		return
	}
	code := m.Run()
	if code == 0 {
		if left := leftGoroutines(); left != "" {
			fmt.Println("goroutines left over:\n" + left)
			code = 1
		}
	}
	os.Exit(code)
}

// leftGoroutines gives the stacks of goroutines of this package that do not end.
func leftGoroutines() (left string) {
	for range 100 {
		left = ""
		buf := make([]byte, 1<<20)
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "tarn/cache.") && !strings.Contains(g, "TestMain") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			return ""
		}
		time.Sleep(20 * time.Millisecond)
	}
	return left
}

// sums is a Hasher of sha256 and adler32.
type sums map[string]hash.Hash

func newSums(algs ...string) Hasher {
	s := sums{}
	for _, a := range algs {
		switch a {
		case "sha256":
			s[a] = sha256.New()
		case "adler32":
			s[a] = adler32.New()
		}
	}
	return s
}

func (s sums) Write(p []byte) (int, error) {
	for _, h := range s {
		h.Write(p)
	}
	return len(p), nil
}

func (s sums) Sums() map[string]string {
	m := map[string]string{}
	for a, h := range s {
		m[a] = hex.EncodeToString(h.Sum(nil))
	}
	return m
}

// random gives n bytes that depend on seed only.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var s [32]byte
	s[0], s[1], s[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	_, _ = rand.NewChaCha8(s).Read(b)
	return b
}

func contentOf(data []byte) Content {
	h := newSums("sha256", "adler32")
	h.Write(data)
	s := h.Sums()
	return Content{Key: Key(fmt.Sprintf("sha256:%s:%d", s["sha256"], len(data))), Size: int64(len(data)), Sums: s}
}

// remote is a content somewhere else: it counts, and can be made to fail.
type remote struct {
	data    []byte
	opened  atomic.Int64
	closed  atomic.Int64
	bytes   atomic.Int64
	mu      sync.Mutex
	bads    []error
	blamed  []error
	ranges  [][2]int64
	onClose func()
	onFetch func(ctx context.Context, n int, bad error) error                  // n counts from 0
	onRead  func(ctx context.Context, n int, p []byte, off int64) (int, error) // replaces reading when not nil; n is the Source's
}

func (r *remote) fetch(ctx context.Context, bad error) (Source, error) {
	n := int(r.opened.Add(1) - 1)
	r.mu.Lock()
	r.bads = append(r.bads, bad)
	r.mu.Unlock()
	if r.onFetch != nil {
		if err := r.onFetch(ctx, n, bad); err != nil {
			r.closed.Add(1)
			return nil, err
		}
	}
	return &remoteSource{r: r, n: n}, nil
}

type remoteSource struct {
	r    *remote
	n    int
	once atomic.Bool
}

func (s *remoteSource) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if s.once.Load() {
		panic("source read after Close")
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.r.mu.Lock()
	s.r.ranges = append(s.r.ranges, [2]int64{off, int64(len(p))})
	s.r.mu.Unlock()
	if s.r.onRead != nil {
		return s.r.onRead(ctx, s.n, p, off)
	}
	return s.r.plain(p, off)
}

func (s *remoteSource) Blame(why error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.blamed = append(s.r.blamed, why)
}

func (r *remote) plain(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(r.data).ReadAt(p, off)
	r.bytes.Add(int64(n))
	return n, err
}

// gated is a remote of which what lies from an offset on waits for lift.
func gated(t testing.TB, data []byte, from int64) (r *remote, lift func()) {
	r = &remote{data: data}
	gate := make(chan struct{})
	lift = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(lift)
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if off >= from {
			<-gate
		}
		return r.plain(p, off)
	}
	return r, lift
}

func (s *remoteSource) Close() error {
	if !s.once.CompareAndSwap(false, true) {
		panic("source closed twice")
	}
	s.r.closed.Add(1)
	if s.r.onClose != nil {
		s.r.onClose()
	}
	return nil
}

// flipped gives data with one byte wrong.
func flipped(data []byte, at int) []byte {
	d := bytes.Clone(data)
	d[at] ^= 0x40
	return d
}

// logLines keeps what is logged.
type logLines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func options(t testing.TB) Options {
	return Options{Dir: filepath.Join(t.TempDir(), "cache"), Block: kb4, Head: -1, Tail: -1, NewHash: newSums, Quick: quick, Log: quiet()}
}

// quick is adler32 by pieces.
var quick = Quick{Alg: "adler32", Piece: adler32.Checksum, Join: func(a, b uint32, n int64) uint32 {
	const mod = 65521
	low, high := uint64(a&0xffff), uint64(a>>16)
	return uint32((high+uint64(b>>16)+uint64(n%mod)*(low+mod-1))%mod)<<16 | uint32((low+uint64(b&0xffff)+mod-1)%mod)
}}

// open opens a cache that is checked and closed at the end of the test.
func open(t testing.TB, o Options) *Cache {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	c.chunk = 4 * kb4 // small blocks, as many requests as with large ones
	t.Cleanup(func() { shut(t, c) })
	return c
}

func shut(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if bad := c.invariants(); bad != "" {
		t.Error(bad)
	}
	if s := c.Stats(); s.Reserved != 0 {
		t.Errorf("%d bytes are still reserved after Close", s.Reserved)
	}
}

// invariants recounts the accounts; "" when all is right. It may run at any time.
func (c *Cache) invariants() string {
	c.mu.Lock()
	all := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		all = append(all, e)
	}
	c.mu.Unlock()
	for _, e := range all {
		e.mu.Lock()
		c.mu.Lock()
		var n, mid int64
		for b := e.have.NextSet(0); b < e.lay.Count(); b = e.have.NextSet(b + 1) {
			n += pages(int64(e.lay.Len(b)))
			if !e.isEnd(b) {
				mid += pages(int64(e.lay.Len(b)))
			}
		}
		bad := ""
		busy := len(e.owner) > 0 // eviction clears blocks first and their account after
		if !busy && (e.charge != n+e.sideLen || e.middle != mid) {
			bad = fmt.Sprintf("%s: charged %d (side %d, middle %d) for %d resident, %d in the middle", e.key, e.charge, e.sideLen, e.middle, n, mid)
		}
		if e.whole && e.lay.Count() > 0 && !(e.have.Full() && e.known.Full()) {
			bad = fmt.Sprintf("%s: whole with %d of %d blocks", e.key, e.have.Count(), e.lay.Count())
		}
		if e.refs > 0 && e.slot >= 0 {
			bad = fmt.Sprintf("%s: in use and evictable", e.key)
		}
		c.mu.Unlock()
		e.mu.Unlock()
		if bad != "" {
			return bad
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var used, idle int64
	for _, e := range c.entries {
		used += e.charge
		if e.slot >= 0 {
			idle += e.charge
		}
	}
	switch {
	case used != c.used:
		return fmt.Sprintf("used %d, entries are charged %d", c.used, used)
	case idle != c.idleSum:
		return fmt.Sprintf("idle sum %d, entries have %d", c.idleSum, idle)
	case c.used+c.reserved+c.unsent > c.limit:
		return fmt.Sprintf("used %d, reserved %d, unsent %d: over the limit %d", c.used, c.reserved, c.unsent, c.limit)
	case c.reserved < 0 || c.unsent < 0:
		return fmt.Sprintf("reserved %d, unsent %d", c.reserved, c.unsent)
	}
	return ""
}

func mustOpen(t testing.TB, c *Cache, ct Content, r *remote) *File {
	t.Helper()
	f, err := c.Open(ct, r.fetch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// readAll reads a File like cp does, in pieces of step bytes.
func readAll(ctx context.Context, f *File, step int) ([]byte, error) {
	var all []byte
	p := make([]byte, step)
	for {
		n, err := f.ReadAt(ctx, p, int64(len(all)))
		all = append(all, p[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// readShared is readAll by ReadShared; it looks at what it got once more before it gives it back.
func readShared(ctx context.Context, f *File, step int) ([]byte, error) {
	var all []byte
	p := make([]byte, step)
	for {
		data, done, err := f.ReadShared(ctx, p, int64(len(all)))
		all = append(all, data...)
		if done != nil {
			runtime.Gosched()
			if !bytes.Equal(data, all[len(all)-len(data):]) {
				panic("shared bytes changed while they were lent")
			}
			done()
		}
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

func wantBytes(t testing.TB, f *File, data []byte) {
	t.Helper()
	got, err := readAll(timeout(t), f, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("read %d bytes that are not the %d of the content", len(got), len(data))
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for what other goroutines do soon.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 4000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

// cached puts a content into the cache through a fetch.
func cached(t testing.TB, c *Cache, ct Content, data []byte) {
	t.Helper()
	r := &remote{data: data}
	f, err := c.Open(ct, r.fetch)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Fill(timeout(t)); err != nil {
		t.Fatal(err)
	}
}

// settled waits until no fill is under way.
func settled(t testing.TB, c *Cache) {
	t.Helper()
	eventually(t, "fills end", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, e := range c.entries {
			if e.refs != e.open {
				return false
			}
		}
		return c.reserved == 0
	})
}

// clock is an injected time.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	k := &clock{}
	k.ns.Store(time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC).UnixNano())
	return k
}

func (k *clock) now() time.Time       { return time.Unix(0, k.ns.Load()) }
func (k *clock) pass(d time.Duration) { k.ns.Add(int64(d)) }

func logger(l *logLines) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
