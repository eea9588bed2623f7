package journal

import (
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// readBytes counts the bytes that are read of data files.
type readBytes struct {
	osFS
	n atomic.Int64
}

type readBytesFile struct {
	File
	fs *readBytes
}

func (r *readBytes) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := r.osFS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return readBytesFile{f, r}, nil
}

func (f readBytesFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.fs.n.Add(int64(n))
	return n, err
}

func noise(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// A big file that is written in order is read at most once for its checksum, whoever
// reads it, and also over several Seals.
func TestBigFileIsHashedOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	o := testOptions(t.TempDir())
	var fs readBytes
	o.FS = &fs
	e := create(t, open(t, o), "")
	piece := noise(r, 700_000)
	var all string
	for i := range 12 {
		write(t, e, piece, int64(len(all)))
		all += piece
		if i%5 == 4 {
			if got, want := seal(t, e).Sums, sumsOf(all); got["sha256"] != want["sha256"] || got["adler32"] != want["adler32"] {
				t.Fatalf("after %d bytes: %v, want %v", len(all), got, want)
			}
		}
	}
	seal(t, e)
	if n := fs.n.Load(); n > int64(len(all)) {
		t.Errorf("read %d bytes of a file of %d", n, len(all))
	}
}

// Whatever changes below what is being hashed, Seal gives the checksums of what is there.
func TestSumsOfAFileChangedWhileItIsHashed(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for round := range 30 {
		e := create(t, open(t, testOptions(t.TempDir())), "")
		piece := noise(r, 600_000)
		size := int64(0)
		for range 8 {
			write(t, e, piece[r.IntN(1000):], size)
			size = e.Size()
			switch r.IntN(12) {
			case 0:
				write(t, e, "something else", r.Int64N(size))
			case 1:
				if err := e.Truncate(r.Int64N(size)); err != nil {
					t.Fatal(err)
				}
			case 2:
				if err := e.Truncate(0); err != nil {
					t.Fatal(err)
				}
			case 3:
				seal(t, e)
			}
			size = e.Size()
		}
		got := seal(t, e).Sums
		if want := sumsOf(content(t, e)); got["sha256"] != want["sha256"] || got["adler32"] != want["adler32"] {
			t.Fatalf("round %d: %v, want %v", round, got, want)
		}
	}
}

// Writers that overlap and race leave bytes of one or the other, and their checksums.
func TestSumsOfRacingWriters(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	pieces := []string{noise(r, 300_000), noise(r, 300_000), noise(r, 300_000)}
	for round := range 10 {
		e := create(t, open(t, testOptions(t.TempDir())), "")
		var wg sync.WaitGroup
		for i, p := range pieces {
			wg.Go(func() {
				for off := int64(0); off < 3_000_000; off += 200_000 + int64(i)*50_000 {
					if _, err := e.WriteAt([]byte(p), off); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		got := seal(t, e).Sums
		if want := sumsOf(content(t, e)); got["sha256"] != want["sha256"] || got["adler32"] != want["adler32"] {
			t.Fatalf("round %d: %v, want %v", round, got, want)
		}
	}
}

// Close and Remove do not wait for a checksum that nobody will use, and leave no goroutine
// that uses a closed file.
func TestCloseWhileHashing(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	piece := noise(r, 4<<20)
	j := open(t, testOptions(t.TempDir()))
	for range cap(j.hashing) {
		j.hashing <- struct{}{} // no follower gets a turn
	}
	e, gone := create(t, j, ""), create(t, j, "")
	write(t, e, piece, 0)
	write(t, gone, piece, 0)
	if err := gone.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
