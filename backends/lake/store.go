package lake

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"tarn/backends"
	"tarn/backends/checksum"
)

// NewPFN gives the path of a new copy of d below an RSE's prefix:
//
//	<scope>/<h0h1>/<h2h3>/<last element of the name>.<salt>
//
// with the hexadecimal MD5 h of the name, as in Rucio's hash algorithm, and the element
// percent-encoded and cut to 100 bytes. The salt makes every upload's path its own, so
// that deleting one copy never hits another; whoever resumes an upload keeps it. An
// empty salt is replaced by 12 random digits.
func (l *Lake) NewPFN(d backends.DID, salt string) string {
	if salt == "" {
		var b [6]byte
		rand.Read(b[:])
		salt = hex.EncodeToString(b[:])
	}
	return newPFN(d, salt)
}

func newPFN(d backends.DID, salt string) string {
	h := md5.Sum([]byte(d.Name))
	base := d.Name[strings.LastIndexByte(d.Name, '/')+1:]
	return fmt.Sprintf("%s/%x/%x/%s.%s", safeName(d.Scope), h[:1], h[1:2], safeName(base), safeName(salt))
}

// safeName keeps what every storage takes in a name, and encodes the rest; at most 100
// bytes, not cut within an escape.
func safeName(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-+=,@", c) >= 0 || c == '.' && i > 0
		n := 3
		if plain {
			n = 1
		}
		if b.Len()+n > 100 {
			break
		}
		if plain {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	if b.Len() == 0 {
		return "_"
	}
	return b.String()
}

// LateSums is a source of Store of which some digests become known while it is read. Sums is
// asked when all of it has been read.
type LateSums interface {
	io.ReaderAt
	Sums() backends.Checksums
}

// errSource marks a failure of what was to be stored rather than of the storage.
var errSource = errors.New("source")

// Store uploads size bytes of src to the RSE and proves that they are there: the digests
// of the stream must match want, and so must those that the storage proves: by the Commit,
// of the file that it then moved to its place, or else by what it knows of the file
// there, or by a read-back where it knows nothing. Without want they must agree with one
// another. It registers nothing.
//
// A file that is there already with this size and checksum is success without moving a
// byte, so that an interrupted upload can be repeated. progress, if any, is called from
// this goroutine with the bytes written so far. On ErrCorrupt nothing is left at pfn.
func (l *Lake) Store(ctx context.Context, rse *RSE, pfn string, src io.ReaderAt, size int64, want backends.Checksums, progress func(int64)) (backends.Replica, error) {
	r, _, err := l.store(ctx, rse, pfn, src, size, want, progress, true)
	return r, err
}

// StoreNew is Store at a path that nobody can have written to before: it is not looked at. If
// there is a file all the same, it is replaced.
func (l *Lake) StoreNew(ctx context.Context, rse *RSE, pfn string, src io.ReaderAt, size int64, want backends.Checksums, progress func(int64)) (backends.Replica, error) {
	r, _, err := l.store(ctx, rse, pfn, src, size, want, progress, false)
	return r, err
}

func (l *Lake) store(ctx context.Context, rse *RSE, pfn string, src io.ReaderAt, size int64, want backends.Checksums, progress func(int64), look bool) (backends.Replica, backends.Checksums, error) {
	fail := func(err error) (backends.Replica, backends.Checksums, error) {
		return backends.Replica{}, backends.Checksums{}, fmt.Errorf("store %s at %s: %w", pfn, rse.Name, err)
	}
	if rse.ReadOnly {
		return fail(backends.ErrReadOnly)
	}
	if progress == nil {
		progress = func(int64) {}
	}
	done := func() (backends.Replica, backends.Checksums, error) {
		progress(size)
		return backends.Replica{RSE: rse.Name, PFN: pfn, State: backends.Available, Verified: l.now()}, want, nil
	}
	if look && l.stored(ctx, rse, pfn, size, want) {
		return done()
	}
	sum, proof, err := l.upload(ctx, rse, pfn, src, size, want, progress)
	if err != nil {
		return fail(err)
	}
	if want.IsZero() {
		want = sum
	}
	if comparable(want, proof) {
		return done() // upload has compared them
	}
	if err := l.prove(ctx, rse, pfn, want); err != nil {
		return fail(err)
	}
	return done()
}

// stored tells whether the file is there with this size and checksum.
func (l *Lake) stored(ctx context.Context, rse *RSE, pfn string, size int64, want backends.Checksums) bool {
	if want.IsZero() {
		return false
	}
	a, err := rse.Storage.Stat(ctx, pfn)
	if err != nil || a.IsDir || a.Size != size {
		return false
	}
	got, err := l.digests(ctx, rse, pfn, want)
	return err == nil && want.Match(got) == nil
}

// prove compares what has been stored with want, and removes what differs.
func (l *Lake) prove(ctx context.Context, rse *RSE, pfn string, want backends.Checksums) error {
	found, err := l.digests(ctx, rse, pfn, want)
	switch {
	case errors.Is(err, backends.ErrOffline):
		return nil // moved to tape and evicted already: what Commit verified is what there is to know
	case err != nil:
		return fmt.Errorf("verify: %w", err)
	}
	if err = want.Match(found); err == nil {
		return nil
	}
	if rmErr := rse.Storage.Remove(ctx, pfn); rmErr != nil && !errors.Is(rmErr, backends.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("remove: %w", rmErr))
	}
	return fmt.Errorf("verify: %w", err)
}

// small is up to what size a file is compared with all its digests on its way: adler32 says little of few bytes.
const small = 64 << 10

// compared are the digests of want with which size bytes are compared on their way: the one that the grid's storages
// compare, where it is known. It finds what goes wrong by accident; that all of want are of one content is known.
func compared(want backends.Checksums, size int64) []string {
	if size > small && want.Adler32 != "" {
		return []string{"adler32"}
	}
	return checksum.Known(want)
}

// upload streams src, hashing it, and commits; it gives the digests of the stream, and the proof of the storage. The
// storage hashes too: here the quickest digest is enough to tell whether it is the source that differs.
func (l *Lake) upload(ctx context.Context, rse *RSE, pfn string, src io.ReaderAt, size int64, want backends.Checksums, progress func(int64)) (sum, proof backends.Checksums, err error) {
	u, err := rse.Storage.Create(ctx, pfn, size)
	if err != nil {
		return sum, proof, err
	}
	defer u.Abort()
	algs := checksum.Known(want)
	switch {
	case want.Adler32 != "":
		algs = []string{"adler32"}
	case len(algs) == 0:
		algs = l.o.Algs
	}
	if !want.IsZero() {
		backends.Expect(u, want, compared(want, size)...)
	}
	h := checksum.New(algs...)
	if err := l.send(ctx, u, src, size, h, progress); err != nil {
		return sum, proof, err
	}
	sum = h.Sum()
	if late, ok := src.(LateSums); ok && !want.IsZero() {
		want = checksum.And(want, late.Sums())
	}
	if want.IsZero() {
		want = sum
	} else if err := want.Match(sum); err != nil {
		return sum, proof, fmt.Errorf("%w: %w", errSource, err)
	}
	if proof, err = u.Commit(ctx, want); err != nil {
		return sum, proof, err
	}
	if comparable(want, proof) {
		if err := want.Match(proof); err != nil {
			rse.Storage.Remove(ctx, pfn)
			return sum, proof, fmt.Errorf("commit: %w", err)
		}
	}
	return sum, proof, nil
}

// digests gives checksums of a stored file, at least one of which is known to want:
// the storage's own where it has them, else those of reading it back.
func (l *Lake) digests(ctx context.Context, rse *RSE, pfn string, want backends.Checksums) (backends.Checksums, error) {
	if len(rse.Storage.Traits().Checksums) > 0 {
		got, err := rse.Storage.Checksum(ctx, pfn)
		if err == nil && comparable(want, got) {
			return got, nil
		}
		if err != nil && !errors.Is(err, backends.ErrNotSupported) {
			return got, err
		}
	}
	o, err := rse.Storage.Open(ctx, pfn)
	if err != nil {
		return backends.Checksums{}, err
	}
	defer o.Close()
	return checksum.Object(ctx, o, checksum.Known(want)...)
}

// comparable tells whether a and b know a digest of the same kind.
func comparable(a, b backends.Checksums) bool {
	return a.SHA256 != "" && b.SHA256 != "" || a.MD5 != "" && b.MD5 != "" || a.Adler32 != "" && b.Adler32 != ""
}

// StoredOnTape tells whether the file at the RSE is where it is to stay: on tape, and
// not only in the disk buffer before it. On a disk RSE that is always so. ErrNotExist,
// ErrLost, and ErrUnavailable with ErrTemporary, when the tape system says so.
func (l *Lake) StoredOnTape(ctx context.Context, rse *RSE, pfn string) (bool, error) {
	if rse.Tape == nil {
		return true, nil
	}
	found, err := l.tapeLocalities(ctx, rse, []string{pfn})
	if err != nil {
		return false, err
	}
	switch found[0] {
	case backends.Nearline, backends.OnlineAndNearline:
		return true, nil
	case backends.Online:
		return false, nil
	case backends.NoLocality:
		err = backends.ErrNotExist
	case backends.Lost:
		err = backends.ErrLost
	default:
		err = fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrTemporary)
	}
	return false, fmt.Errorf("locality of %s at %s: %w", pfn, rse.Name, err)
}
