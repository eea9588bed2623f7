package s3

import (
	"bytes"
	"hash"
	"io"
	"net/http"
	"sync"

	"tarn/backends"
)

// partBody reads the blocks of a part as they come. The transport may go on reading after the request has ended.
type partBody struct {
	c       *part
	trailer http.Header // nil: none
	md5     hash.Hash   // of what was read, if there is no trailer

	// Guarded by c.mu.
	block int   // that is being read
	off   int   // in it
	read  int64 // bytes
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
			b.c.mu.Lock()
			b.c.taken = append(b.c.taken, block)
			b.c.mu.Unlock()
		case <-b.c.u.ctx.Done():
			return 0, b.c.u.ctx.Err()
		}
	}
}

// some reads of the block at hand.
func (b *partBody) some(p []byte) (n int, err error) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case b.ended:
		return 0, backends.ErrClosed
	case b.read == c.size:
		return 0, io.EOF
	case b.block == len(c.taken):
		return 0, nil
	}
	n = copy(p, c.taken[b.block][b.off:])
	if b.trailer == nil {
		b.md5.Write(p[:n])
	}
	if b.off += n; b.off == len(c.taken[b.block]) {
		if !c.keeps() {
			c.give(b.block)
		}
		b.block, b.off = b.block+1, 0
	}
	// The trailer is taken with the last byte. The sum is done: the last block came after it.
	if b.read += int64(n); b.read == c.size && b.trailer != nil {
		b.trailer.Set(crcHeader, crcText(c.crc.Sum32()))
	}
	return n, nil
}

// end makes every further Read fail, and tells whether all was read.
func (b *partBody) end() bool {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.ended = true
	return b.read == b.c.size
}

// give returns a block that was taken; c.mu is held.
func (c *part) give(i int) {
	if c.taken[i] == nil {
		return
	}
	if block := c.taken[i]; cap(block) == blockSize {
		pool.Put(&block)
	}
	c.taken[i] = nil
	<-c.u.room
}

// free returns all blocks that were taken.
func (c *part) free() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.taken {
		c.give(i)
	}
}

// whole reads a part that was not begun, as often as it is called.
func (c *part) whole() io.Reader {
	if c == nil {
		return bytes.NewReader(nil)
	}
	for len(c.queue) > 0 {
		c.taken = append(c.taken, <-c.queue)
	}
	rs := []io.Reader{}
	for _, b := range c.taken {
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
