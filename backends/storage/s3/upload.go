package s3

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/tags"

	"tarn/backends"
	"tarn/backends/checksum"
)

// upload is one file on its way.
type upload struct {
	s      *Storage
	path   string
	size   int64 // announced; -1: not
	ctx    context.Context
	cancel context.CancelFunc
	h      *checksum.Hasher
	only   []string // what Commit compares; nil: all that it is given
	crc    hash.Hash32
	room   chan struct{} // a token for each block that is not yet sent
	slots  chan struct{} // a token for each part that is being sent
	err    error         // sticky: a failed write cannot be followed by a good commit
	done   bool

	id        string // of the multipart upload; "": none was begun
	sums      bool   // the server compares the CRC32C of its parts
	published bool
	proved    bool  // the server has computed a checksum of all bytes
	cur       *part // that is being filled
	begun     int   // parts

	running sync.WaitGroup
	broken  chan struct{} // closed when a part has failed

	mu       sync.Mutex // guards the rest
	failed   error
	parts    []minio.CompletePart
	unproved bool // nothing shows that the server has the bytes of all parts
	silent   bool // it took the checksum of a part without telling its own
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Create begins a multipart upload for what is more than one part. It goes on until Commit or Abort, and no longer than ctx.
func (s *Storage) Create(ctx context.Context, p string, size int64) (up backends.Upload, err error) {
	err = s.do(ctx, "create", p, func(ctx context.Context) error {
		switch {
		case s.o.ReadOnly:
			return backends.ErrReadOnly
		case p == "":
			return backends.ErrIsDir
		case size > maxParts*maxPart:
			return fmt.Errorf("an object has at most %d bytes: %w", int64(maxParts*maxPart), backends.ErrNotSupported)
		}
		s.sweepSometimes()
		u := &upload{
			s: s, path: p, size: size, h: checksum.New(algorithms...), crc: crc32.New(castagnoli),
			room: make(chan struct{}, blocks), slots: make(chan struct{}, parallel), broken: make(chan struct{}),
		}
		u.ctx, u.cancel = context.WithCancel(ctx)
		if size > s.o.PartSize {
			if err := u.begin(); err != nil {
				u.cancel()
				return err
			}
		}
		up = u
		return nil
	})
	return up, err
}

// begin starts the multipart upload, with checksums if the server says that it compares them.
func (u *upload) begin() (err error) {
	try := func(opts minio.PutObjectOptions) error {
		c, err := u.s.seen(u.ctx, func(ctx context.Context) (err error) {
			u.id, err = u.s.core.NewMultipartUpload(ctx, u.s.bucket, u.key(), opts)
			return err
		})
		u.sums = err == nil && c.header.Get("x-amz-checksum-algorithm") == "CRC32C"
		return err
	}
	if err = try(minio.PutObjectOptions{UserMetadata: map[string]string{"x-amz-checksum-algorithm": "CRC32C", typeHeader: "FULL_OBJECT"}}); refusesSums(err) {
		err = try(minio.PutObjectOptions{})
	}
	if err == nil && u.id == "" {
		err = wrong("the server began a multipart upload without an ID")
	}
	if err == nil {
		u.s.track(u.id, true)
	}
	return err
}

// S3's headers of additional checksums (User Guide, "Checking object integrity").
const (
	crcHeader  = "x-amz-checksum-crc32c"
	typeHeader = "x-amz-checksum-type"
)

// refusesSums tells whether a server may have refused because it does not know additional checksums.
func refusesSums(err error) bool {
	return slices.Contains([]string{"NotImplemented", "InvalidArgument", "InvalidRequest"}, code(err))
}

func (u *upload) key() string { return u.s.prefix + u.path }

// Expect implements backends.Expecter. What is known is kept with the object.
func (u *upload) Expect(want backends.Checksums, compare ...string) {
	algs := compare
	if u.id == "" && want.SHA256 == "" {
		algs = checksum.With(algs, "sha256") // signs it
	}
	u.only, u.h = compare, checksum.New(algs...)
}

func (u *upload) Write(p []byte) (n int, err error) {
	switch {
	case u.done:
		return 0, u.s.edge("write", u.path, backends.ErrClosed)
	case u.err != nil || len(p) == 0:
		return 0, u.err
	case u.size >= 0 && u.h.Size()+int64(len(p)) > u.size:
		u.err = u.s.edge("write", u.path, fmt.Errorf("more than the announced %d bytes: %w", u.size, backends.ErrCorrupt))
		return 0, u.err
	}
	var sums sync.WaitGroup
	if len(p) >= 64<<10 { // after a write that failed they are of no interest
		sums.Go(func() { u.h.Write(p) })
	} else {
		u.h.Write(p)
	}
	for n < len(p) && err == nil {
		var k int
		k, err = u.fill(p[n:])
		n += k
	}
	u.crc.Write(p[:n])
	sums.Wait()
	u.err = u.s.edge("write", u.path, err)
	return n, u.err
}

// take waits for a token, as long as the upload can go on.
func (u *upload) take(tokens chan struct{}) error {
	select {
	case <-u.broken:
		return u.failure()
	default:
	}
	select {
	case tokens <- struct{}{}:
		return nil
	case <-u.broken:
		return u.failure()
	case <-u.ctx.Done():
		return u.ctx.Err()
	case <-u.s.ctx.Done():
		return backends.ErrClosed
	}
}

func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failed
}

// fail ends the sending of all parts.
func (u *upload) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed == nil {
		u.failed = err
		close(u.broken)
		u.cancel()
	}
}

func (u *upload) Commit(ctx context.Context, want backends.Checksums) (got backends.Checksums, err error) {
	if u.done {
		return got, u.s.edge("commit", u.path, backends.ErrClosed)
	}
	defer u.Abort()
	err = u.s.do(ctx, "commit", u.path, func(ctx context.Context) error {
		if u.err != nil {
			return u.err
		}
		n := u.h.Size()
		if u.size >= 0 && n != u.size {
			return fmt.Errorf("%d bytes of the announced %d came: %w", n, u.size, backends.ErrCorrupt)
		}
		sums := u.h.Sum()
		all := sums // that are kept with the object
		if u.only != nil {
			all, want = checksum.And(sums, want), checksum.Only(want, u.only...)
		}
		if err := want.Match(sums); err != nil {
			return err
		}
		if u.id == "" {
			err = u.put(ctx, all)
		} else {
			err = u.complete(ctx, all)
		}
		if err == nil && u.proved {
			got = sums // of the bytes whose checksum the server has told, or compared
		}
		return err
	})
	if err != nil {
		return backends.Checksums{}, err
	}
	return got, nil
}

// put sends what is one part, signed with its sha256.
func (u *upload) put(ctx context.Context, sums backends.Checksums) error {
	ctx, cancel := backends.Outlive(ctx, abortTime) // the server may have it, and answer late
	defer cancel()
	meta := checksum.ToMap(sums)
	meta[crcHeader] = crcText(u.crc.Sum32())
	var info minio.UploadInfo
	try := func() error {
		return u.s.ask(ctx, func(ctx context.Context) (err error) {
			info, err = u.s.core.PutObject(ctx, u.s.bucket, u.key(), u.cur.whole(), u.h.Size(), "", sums.SHA256,
				minio.PutObjectOptions{UserMetadata: meta, DisableContentSha256: true})
			return err
		})
	}
	err := try()
	if refusesSums(err) {
		delete(meta, crcHeader)
		err = try()
	}
	if err != nil {
		return err
	}
	u.published = true
	return u.verify(ctx, info)
}

// complete waits for the parts and makes them an object.
func (u *upload) complete(ctx context.Context, sums backends.Checksums) error {
	if u.cur != nil {
		if err := u.seal(); err != nil {
			return err
		}
	}
	sent := make(chan struct{})
	go func() {
		u.running.Wait()
		close(sent)
	}()
	select {
	case <-sent:
	case <-ctx.Done():
		u.cancel()
		<-sent
		return ctx.Err()
	}
	if err := u.failure(); err != nil {
		return err
	}
	ctx, cancel := backends.Outlive(ctx, abortTime)
	defer cancel()
	opts := minio.PutObjectOptions{}
	if u.sums {
		opts.UserMetadata = map[string]string{crcHeader: crcText(u.crc.Sum32()), typeHeader: "FULL_OBJECT"}
	}
	var info minio.UploadInfo
	first := true
	err := u.again(ctx, attempts, func() error {
		asked := time.Now()
		c, err := u.s.seen(patient(ctx, u.h.Size()), func(ctx context.Context) (err error) {
			info, err = u.s.core.CompleteMultipartUpload(ctx, u.s.bucket, u.key(), u.id, u.parts, opts)
			return err
		})
		if lost := !first && errors.Is(err, backends.ErrNotExist); lost || backends.IsTemporary(err) {
			// The answer may have been lost, not the effect; or it is still to come, if that was waited for.
			var more time.Duration
			if unanswered := c.err != nil || c.status == http.StatusGatewayTimeout; unanswered && time.Since(asked) >= min(u.s.o.Stall, tryFor) {
				more = u.s.o.Stall + copying(u.h.Size())
			}
			if etag, ok := u.appears(ctx, more); ok {
				info = minio.UploadInfo{ETag: etag}
				err = u.s.abort(ctx, u.key(), u.id) // where the same bytes were there before
			}
		}
		first = false
		return err
	})
	if err != nil {
		return err
	}
	u.published = true
	if err := u.verify(ctx, info); err != nil {
		return err
	}
	if u.unproved { // a checksum that is kept would be believed
		u.s.o.Log.Debug("no checksums are kept with an object: the server shows none of its parts", "at", u.s.at(u.path))
		return nil
	}
	if err := u.s.tag(ctx, u.path, info.ETag, sums); err != nil {
		u.s.o.Log.Debug("no checksums are kept with an object", "at", u.s.at(u.path), "err", err)
	}
	return nil
}

// appears tells whether the object of the parts is there, or comes within d from a server that answers.
func (u *upload) appears(ctx context.Context, d time.Duration) (etag string, ok bool) {
	end := time.Now().Add(d)
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		a, err := u.look(ctx)
		switch {
		case err == nil && a.Size == u.h.Size() && a.ETag == u.etag():
			return a.ETag, true
		case err != nil && !errors.Is(err, backends.ErrNotExist), time.Now().Add(wait).After(end):
			return "", false
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		case <-u.s.ctx.Done():
		}
	}
}

// verify looks at what the server has made of the bytes, unless it has told their checksum. An object with another
// ETag is a later one.
func (u *upload) verify(ctx context.Context, info minio.UploadInfo) error {
	sum := info.ChecksumCRC32C
	u.proved = u.id != "" && !u.unproved && !u.silent                // by the parts
	if sum == crcText(u.crc.Sum32()) || strings.Contains(sum, "-") { // that is of the parts' checksums, which were compared
		u.proved = true
		return nil
	}
	a, err := u.look(ctx)
	if sum == "" && (err != nil || a.ETag != info.ETag || a.Size == u.h.Size()) {
		return err
	}
	bad := fmt.Errorf("the server has other bytes than the %d that were sent: %w", u.h.Size(), backends.ErrCorrupt)
	if err == nil && a.ETag == info.ETag {
		bad = errors.Join(bad, u.s.remove(ctx, u.path))
	}
	return bad
}

// look asks for what is at the path. A server that fails for a moment is asked again: what is published is to be known.
func (u *upload) look(ctx context.Context) (a minio.ObjectInfo, err error) {
	err = u.again(ctx, looks, func() (err error) {
		a, err = u.s.head(ctx, u.path)
		return err
	})
	return a, err
}

// etag is that of the object which most servers make of the parts.
func (u *upload) etag() string {
	h := md5.New()
	for _, p := range u.parts {
		b, _ := hex.DecodeString(p.ETag)
		h.Write(b)
	}
	return fmt.Sprintf("%x-%d", h.Sum(nil), len(u.parts))
}

func crcText(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// etagTag says of which content the digests in the tags are.
const etagTag = "etag"

// tag keeps digests with an object.
func (s *Storage) tag(ctx context.Context, p, etag string, sums backends.Checksums) error {
	m := checksum.ToMap(sums)
	m[etagTag] = etag
	t, err := tags.NewTags(m, true)
	if err != nil {
		return err
	}
	return s.ask(ctx, func(ctx context.Context) error {
		return s.core.PutObjectTagging(ctx, s.bucket, s.prefix+p, t, minio.PutObjectTaggingOptions{})
	})
}

// tagged gives the digests in the tags of an object, if they are of the content with that ETag.
func (s *Storage) tagged(ctx context.Context, p, etag string) (c backends.Checksums, err error) {
	var t *tags.Tags
	err = s.ask(ctx, func(ctx context.Context) error {
		t, err = s.core.GetObjectTagging(ctx, s.bucket, s.prefix+p, minio.GetObjectTaggingOptions{})
		return err
	})
	switch {
	case code(err) == "NoSuchTagSet" || errors.Is(err, backends.ErrPermission):
		return c, nil
	case err != nil:
		return c, err
	}
	m := t.ToMap()
	if etag == "" || m[etagTag] != etag {
		return c, nil
	}
	return sumsOf(func(alg string) string { return m[alg] }), nil
}

// abortTime is how long Abort may take to remove what was sent.
const abortTime = 15 * time.Second

// lateParts is how long a server may be at a part whose request was cut.
const lateParts = 300 * time.Millisecond

// Abort ends what is being sent and removes the parts, unless Commit has made an object of them.
func (u *upload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	cut := len(u.slots) > 0
	u.cancel()
	if u.cur != nil {
		close(u.cur.queue)
	}
	u.running.Wait()
	if u.id == "" {
		return nil
	}
	defer u.s.track(u.id, false)
	if u.published {
		return nil
	}
	ctx, cancel := context.WithTimeout(u.s.ctx, abortTime) // the caller's may be what has ended
	defer cancel()
	err := u.s.abort(ctx, u.key(), u.id)
	if cut && err == nil { // a server that still had a part of those in hand makes the upload anew with it
		select {
		case <-time.After(lateParts):
			err = u.s.abort(ctx, u.key(), u.id)
		case <-ctx.Done():
		}
	}
	if err != nil && u.s.ctx.Err() == nil {
		return u.s.edge("abort", u.path, fmt.Errorf("its parts stay on the server for a day: %w", err))
	}
	return nil
}
