package s3

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"tarn/backends"
)

const (
	blockSize = mib
	blocks    = 32 // of one upload that wait to be sent: its memory
	parallel  = 4  // parts of one upload that are sent at a time

	// What S3 allows (User Guide, "Amazon S3 multipart upload limits").
	maxParts = 10_000
	maxPart  = 5 << 30
)

// part is one of a multipart upload, or the whole of a small file. It is sent when it is full, since a request that waits for
// a slow writer is ended by servers; one that is too large to be kept is sent while it is filled.
type part struct {
	u     *upload
	n     int // from 1
	size  int64
	got   int64
	crc   hash.Hash32
	block []byte      // that is being filled
	queue chan []byte // has room for all blocks of the upload; closed when the part is whole
	begun bool
	sha   string // its sha256, once it is full, where the server compares no CRC32C

	mu    sync.Mutex // guards the rest, and its bodies
	taken [][]byte   // from queue, nil where they were given back
}

// partSize is that of part n.
func (u *upload) partSize(n int) int64 {
	if u.size < 0 {
		if n <= maxParts/10 {
			return u.s.o.PartSize
		}
		return min(2*u.s.o.PartSize, blocks*blockSize/2) // all of a part waits while the one before is sent
	}
	size := max(u.s.o.PartSize, (u.size+maxParts-1)/maxParts)
	size = (size + mib - 1) / mib * mib
	return min(size, u.size-int64(n-1)*size)
}

// fill takes what fits into the block that is being filled.
func (u *upload) fill(p []byte) (int, error) {
	if u.cur == nil {
		if u.begun++; u.begun > maxParts {
			return 0, wrong("an upload has at most %d parts: announce its size, so that they are larger", maxParts)
		}
		u.cur = &part{u: u, n: u.begun, size: u.partSize(u.begun), crc: crc32.New(castagnoli), queue: make(chan []byte, blocks)}
		if u.id != "" && !u.cur.keeps() {
			if err := u.cur.start(); err != nil {
				return 0, err
			}
		}
	}
	c := u.cur
	if c.block == nil {
		if err := u.take(u.room); err != nil {
			return 0, err
		}
		c.block = getBlock(min(blockSize, c.size-c.got))
	}
	n := min(len(p), cap(c.block)-len(c.block))
	c.block = append(c.block, p[:n]...)
	c.crc.Write(p[:n])
	if c.got += int64(n); len(c.block) == cap(c.block) {
		c.queue <- c.block
		c.block = nil
	}
	if c.got < c.size || c.size == u.size { // the whole file waits for Commit
		return n, nil
	}
	return n, u.seal()
}

// seal ends the part that is being filled, and sends it if that has not begun.
func (u *upload) seal() error {
	c := u.cur
	if c.block != nil {
		c.queue <- c.block
		c.block = nil
	}
	close(c.queue)
	u.cur = nil
	if c.begun {
		return nil
	}
	c.size = c.got
	if u.id == "" {
		if err := u.begin(); err != nil {
			return err
		}
	}
	return c.start()
}

// start sends the part beside other work.
func (c *part) start() error {
	u := c.u
	if err := u.take(u.slots); err != nil {
		return err
	}
	c.begun = true
	u.running.Go(func() {
		defer func() { <-u.slots }()
		done, err := c.send()
		if err != nil {
			u.fail(err)
			return
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		for len(u.parts) < c.n {
			u.parts = append(u.parts, minio.CompletePart{})
		}
		u.parts[c.n-1] = done
	})
	return nil
}

// attempts is how often what may be had again is tried. The retry decorator does not repeat an upload, since its bytes have
// gone by; but a server that is busy for one of 10,000 parts is to cost no more than that part.
const (
	attempts = 4
	looks    = 7 // at what was published: about as long as tryFor
)

// again tries f up to most times while it fails temporarily.
func (u *upload) again(ctx context.Context, most int, f func() error) error {
	begun := time.Now()
	for n := 1; ; n++ {
		err := f()
		wait := max(backends.RetryAfter(err), time.Duration(1<<n)*firstWait)
		if n == most || !backends.IsTemporary(err) || time.Since(begun)+wait > tryFor {
			return err
		}
		u.s.o.Log.Debug("part of an upload is tried again", "at", u.s.at(u.path), "after", wait, "err", err)
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
			return err
		case <-u.s.ctx.Done():
			return err
		}
	}
}

const (
	firstWait = 100 * time.Millisecond
	maxWait   = 5 * time.Second
	tryFor    = 15 * time.Second // who is silent for long is left to who has other servers
)

// send is the request, and its repetition as long as the blocks are kept.
func (c *part) send() (done minio.CompletePart, err error) {
	defer c.free()
	if !c.keeps() {
		return c.try()
	}
	if !c.u.sums {
		h := sha256.New()
		io.Copy(h, c.whole())
		c.sha = hex.EncodeToString(h.Sum(nil))
	}
	err = c.u.again(c.u.ctx, attempts, func() error {
		done, err = c.try()
		return err
	})
	return done, err
}

// keeps tells whether the blocks are kept until the server has the part: there is room for those of two.
func (c *part) keeps() bool { return c.size <= blocks*blockSize/2 }

// try sends the part. Its CRC32C follows the bytes as a trailer, and is of what Write was given. To a server that does not
// compare it the sha256 of what is kept goes ahead, and the ETag is to be the md5.
func (c *part) try() (minio.CompletePart, error) {
	u := c.u
	var opts minio.PutObjectPartOptions
	b := &partBody{c: c, md5: md5.New()}
	defer b.end()
	if u.sums {
		b.trailer = http.Header{http.CanonicalHeaderKey(crcHeader): {crcText(0)}}
		// What follows signed chunks is written in two ways by AWS's documentation, of which each server knows one.
		opts.Trailer, opts.DisableContentSha256 = b.trailer, true
	} else {
		opts.Sha256Hex = c.sha
	}
	var got minio.ObjectPart
	seen, err := u.s.seen(u.ctx, func(ctx context.Context) (err error) {
		got, err = u.s.core.PutObjectPart(ctx, u.s.bucket, u.key(), u.id, c.n, b, c.size, opts)
		return err
	})
	if err == nil && !b.end() {
		err = down("the server took a part for whole that was not")
	}
	if err != nil {
		return minio.CompletePart{}, err
	}
	sum := crcText(c.crc.Sum32())
	if got.ChecksumCRC32C != "" && got.ChecksumCRC32C != sum {
		return minio.CompletePart{}, errChanged
	}
	p := minio.CompletePart{PartNumber: c.n, ETag: got.ETag}
	switch {
	case b.trailer != nil:
		p.ChecksumCRC32C = sum
		if got.ChecksumCRC32C == "" {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.silent = true
		}
	case !isMD5(got.ETag, seen.header):
		u.mu.Lock()
		defer u.mu.Unlock()
		u.unproved = true
	case !strings.EqualFold(got.ETag, hex.EncodeToString(b.md5.Sum(nil))):
		return minio.CompletePart{}, errChanged
	}
	return p, nil
}

// isMD5 tells whether the ETag of a part is its md5, as it is unless keys of KMS or the client encrypt it (API Reference, "Object").
func isMD5(etag string, h http.Header) bool {
	_, err := hex.DecodeString(etag)
	sse := h.Get("x-amz-server-side-encryption")
	return err == nil && len(etag) == 2*md5.Size && (sse == "" || sse == "AES256") && h.Get("x-amz-server-side-encryption-customer-algorithm") == ""
}

var _ backends.Upload = (*upload)(nil)
