package journal

import (
	"encoding/hex"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// Checksums are quick or slow. A core computes the quick ones of a GiB in a small part of
// the time in which the bytes are written; SHA-256 takes as long as the writing does, so
// that on few cores a writer would wait for it. Therefore the slow ones of a big file that
// came fast are left to Verify, which reads the content before each upload anyway: it
// compares the quick ones, and then records the slow ones of what it has read.

// quick are the quick ones among the algorithms of Options.Algs.
var quick = []string{"adler32"}

// ownSum is a quick one that the journal computes itself where Options.Algs has none, so
// that what rots between Seal and Verify is found.
const ownSum = "crc32c"

const (
	// lateFrom is of how many bytes a Seal computes the slow checksums at most. What came
	// more slowly than lateFrom in lateTime has them already.
	lateFrom = 16 << 20
	lateTime = 50 * time.Millisecond
)

// digest computes the checksums of a stream.
type digest struct {
	quick Hasher
	slow  Hasher // nil: there are none, or late
	late  bool
}

// newDigest is for a content that is being written.
func (j *Journal) newDigest() *digest {
	isQuick := func(a string) bool { return slices.Contains(quick, a) }
	slow := slices.DeleteFunc(slices.Clone(j.algs), isQuick)
	if len(slow) == 0 {
		return &digest{quick: j.newHash(j.algs...)}
	}
	d := &digest{quick: newOwn(), slow: j.newHash(slow...)}
	if len(slow) < len(j.algs) {
		d.quick = j.newHash(slices.DeleteFunc(slices.Clone(j.algs), func(a string) bool { return !isQuick(a) })...)
	}
	return d
}

// giveUp leaves the slow checksums to Verify.
func (d *digest) giveUp() { d.late, d.slow = d.late || d.slow != nil, nil }

// sideBySide: less is not worth a goroutine.
const sideBySide = 128 << 10

// Write never fails.
func (d *digest) Write(p []byte) (int, error) {
	var other sync.WaitGroup
	switch {
	case d.slow == nil:
		d.quick.Write(p)
	case len(p) < sideBySide:
		d.quick.Write(p)
		d.slow.Write(p)
	default:
		other.Go(func() { d.quick.Write(p) })
		d.slow.Write(p)
		other.Wait()
	}
	return len(p), nil
}

// sums are those to be recorded: of all algorithms, or else the quick ones.
func (d *digest) sums() map[string]string {
	sums := map[string]string{}
	maps.Copy(sums, d.quick.Sums())
	if d.slow != nil {
		maps.Copy(sums, d.slow.Sums())
		delete(sums, ownSum)
	}
	return sums
}

// own computes ownSum.
type own struct{ hash.Hash32 }

func newOwn() Hasher { return own{crc32.New(crc32.MakeTable(crc32.Castagnoli))} }

func (o own) Sums() map[string]string {
	return map[string]string{ownSum: hex.EncodeToString(o.Sum(nil))}
}

// allSums reads a content and gives the checksums of all algorithms, and of those that a
// record has which are quick.
func (j *Journal) allSums(f File, st stored) (map[string]string, error) {
	algs := slices.Clone(j.algs)
	for _, a := range quick {
		if st.SumsLate && st.Sums[a] != "" && !slices.Contains(algs, a) {
			algs = append(algs, a)
		}
	}
	all := j.newHash(algs...)
	var w io.Writer = all
	var o Hasher
	if st.Sums[ownSum] != "" {
		o = newOwn()
		w = io.MultiWriter(all, o)
	}
	if err := hashRange(w, f, 0, st.Size); err != nil {
		return nil, err
	}
	sums := maps.Clone(all.Sums())
	if o != nil {
		maps.Copy(sums, o.Sums())
	}
	return sums, nil
}
