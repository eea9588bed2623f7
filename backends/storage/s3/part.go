package s3

import (
	"bytes"
	"context"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"sync"

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

// part is one of a multipart upload, or the whole of a small file. It is sent while it is filled; one of an upload of
// unknown size, whose length is to be told first, when it is full.
type part struct {
	u     *upload
	n     int // from 1
	size  int64
	got   int64
	crc   hash.Hash32
	block []byte      // that is being filled
	queue chan []byte // has room for all blocks of the upload; closed when the part is whole
	kept  [][]byte    // taken from queue by whole
	begun bool
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
		if u.id != "" && u.size >= 0 {
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

// send is the request. Its CRC32C follows the bytes as a trailer, and is of what Write was given.
func (c *part) send() (minio.CompletePart, error) {
	u := c.u
	var opts minio.PutObjectPartOptions
	b := &partBody{c: c}
	defer b.end()
	if u.sums {
		b.trailer = http.Header{http.CanonicalHeaderKey(crcHeader): {crcText(0)}}
		// What follows signed chunks is written in two ways by AWS's documentation, of which each server knows one.
		opts.Trailer, opts.DisableContentSha256 = b.trailer, true
	}
	var got minio.ObjectPart
	err := u.s.ask(u.ctx, func(ctx context.Context) (err error) {
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
	if b.trailer != nil {
		p.ChecksumCRC32C = sum
	}
	return p, nil
}

// partBody reads the blocks of a part as they come. The transport may go on reading after the request has ended.
type partBody struct {
	c       *part
	trailer http.Header // nil: none

	mu    sync.Mutex // guards the rest
	block []byte     // that is being read
	rest  []byte     // of block
	read  int64      // bytes
	ended bool
}

func (b *partBody) Read(p []byte) (int, error) {
	for {
		if n, err := b.some(p); n > 0 || err != nil {
			return n, err
		}
		select {
		case block, ok := <-b.c.queue:
			if !ok { // aborted
				return 0, io.ErrUnexpectedEOF
			}
			b.next(block)
		case <-b.c.u.ctx.Done():
			return 0, b.c.u.ctx.Err()
		}
	}
}

// some reads of the block at hand.
func (b *partBody) some(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended:
		return 0, backends.ErrClosed
	case b.read == b.c.size:
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) == 0 {
		b.free()
	}
	// The trailer is taken with the last byte. The sum is done: the last block came after it.
	if b.read += int64(n); b.read == b.c.size && b.trailer != nil {
		b.trailer.Set(crcHeader, crcText(b.c.crc.Sum32()))
	}
	return n, nil
}

// next takes a block.
func (b *partBody) next(block []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.block, b.rest = block, block; b.ended {
		b.free()
	}
}

// end makes every further Read fail, and tells whether all was read.
func (b *partBody) end() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.free()
	return b.read == b.c.size
}

// free gives the block back.
func (b *partBody) free() {
	if b.block == nil {
		return
	}
	if cap(b.block) == blockSize {
		whole := b.block
		pool.Put(&whole)
	}
	b.block, b.rest = nil, nil
	<-b.c.u.room
}

// whole reads a part that was not begun, as often as it is called.
func (c *part) whole() io.Reader {
	if c == nil {
		return bytes.NewReader(nil)
	}
	for len(c.queue) > 0 {
		c.kept = append(c.kept, <-c.queue)
	}
	rs := []io.Reader{}
	for _, b := range c.kept {
		rs = append(rs, bytes.NewReader(b))
	}
	return io.MultiReader(append(rs, bytes.NewReader(c.block))...)
}

// pool has blocks of blockSize.
var pool sync.Pool

// getBlock gives an empty one with room for n bytes.
func getBlock(n int64) []byte {
	if n < blockSize {
		return make([]byte, 0, n)
	}
	if b, ok := pool.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, blockSize)
}

var _ backends.Upload = (*upload)(nil)
