package lake

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// errBroken is a connection that broke.
var errBroken = fmt.Errorf("connection reset: %w: %w", backends.ErrUnavailable, backends.ErrTemporary)

// fragile is an Upload whose connection breaks when breaks says so. What it has then, resume cuts.
type fragile struct {
	has    []byte
	broken error
	breaks func(at int) error // before a Write, and a Flush
	resume func(has int) (int, error)
	again  int // Resumes
}

func (u *fragile) Write(p []byte) (int, error) {
	if u.broken == nil {
		u.broken = u.breaks(len(u.has))
	}
	if u.broken != nil {
		u.has = append(u.has, p[:len(p)/2]...) // some of it came
		return 0, u.broken
	}
	u.has = append(u.has, p...)
	return len(p), nil
}

func (u *fragile) Flush(context.Context) error {
	if u.broken == nil {
		u.broken = u.breaks(len(u.has))
	}
	return u.broken
}

func (u *fragile) Resume(context.Context) (int64, error) {
	u.again++
	n, err := u.resume(len(u.has))
	if err != nil {
		return 0, err
	}
	u.has, u.broken = u.has[:n], nil
	return int64(n), nil
}

func (u *fragile) Commit(context.Context, backends.Checksums) (none backends.Checksums, err error) {
	return none, nil
}
func (u *fragile) Abort() error { return nil }

// sent is what came of sending data to u.
func sent(t *testing.T, u backends.Upload, src io.ReaderAt, size int) (*checksum.Hasher, error) {
	t.Helper()
	l := &Lake{log: slog.New(slog.DiscardHandler)}
	h := checksum.New("adler32", "sha256")
	return h, l.send(t.Context(), u, src, int64(size), h, func(int64) {})
}

func noise(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], rnd.Uint64())
	rand.NewChaCha8(seed).Read(b)
	return b
}

// Wherever a connection breaks, and whatever of the end is lost then, the whole file gets there once, and its checksums are those of its bytes.
func TestSendGoesOn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		data := noise(rnd, rnd.IntN(9<<20))
		breaks := 0
		u := &fragile{
			breaks: func(int) error {
				if breaks < resumeVain && rnd.IntN(4) == 0 {
					breaks++
					return errBroken
				}
				return nil
			},
			resume: func(has int) (int, error) { return rnd.IntN(has + 1), nil },
		}
		h, err := sent(t, u, bytes.NewReader(data), len(data))
		if err != nil || !bytes.Equal(u.has, data) {
			t.Fatalf("seed %d: %d of %d bytes after %d breaks: %v", seed, len(u.has), len(data), breaks, err)
		}
		want := checksum.New("adler32", "sha256")
		want.Write(data)
		if h.Sum() != want.Sum() || h.Size() != int64(len(data)) {
			t.Fatalf("seed %d: checksums of %d bytes are %v", seed, h.Size(), h.Sum())
		}
	}
}

// What cannot go on, or does not get any further, ends; and a source that fails is not asked again.
func TestSendEnds(t *testing.T) {
	data := noise(rand.New(rand.NewPCG(1, 1)), 5<<20)
	for what, c := range map[string]struct {
		breaks func(int) error
		resume func(int) (int, error)
		again  int
		want   error
	}{
		"refused":              {func(int) error { return backends.ErrNoSpace }, nil, 0, backends.ErrNoSpace},
		"no way to go on":      {func(int) error { return errBroken }, func(int) (int, error) { return 0, backends.ErrNotSupported }, 1, errBroken},
		"no further":           {func(at int) error { return errIf(at >= 2<<20) }, func(int) (int, error) { return 2 << 20, nil }, resumeVain, errBroken},
		"never from the start": {func(int) error { return errBroken }, func(int) (int, error) { return 0, nil }, resumeVain, errBroken},
	} {
		t.Run(what, func(t *testing.T) {
			u := &fragile{breaks: c.breaks, resume: c.resume}
			if _, err := sent(t, u, bytes.NewReader(data), len(data)); !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if u.again != c.again {
				t.Errorf("gone on with %d times, want %d", u.again, c.again)
			}
		})
	}
	u := &fragile{breaks: func(int) error { return nil }}
	if _, err := sent(t, u, bytes.NewReader(data[:3<<20]), len(data)); !errors.Is(err, errSource) || u.again > 0 {
		t.Errorf("a source that is too short: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := &Lake{log: slog.New(slog.DiscardHandler)}
	u = &fragile{breaks: func(int) error { return errBroken }, resume: func(int) (int, error) { cancel(); return 0, errBroken }}
	if err := l.send(ctx, u, bytes.NewReader(data), int64(len(data)), checksum.New("adler32"), func(int64) {}); !errors.Is(err, errBroken) || u.again != 1 {
		t.Errorf("cancelled: %v after %d", err, u.again)
	}
}

func errIf(is bool) error {
	if is {
		return errBroken
	}
	return nil
}
