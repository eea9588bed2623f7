package lake

import (
	"context"
	"fmt"
	"io"
	"sync"
)

const (
	streamBlock  = 1 << 20
	streamBlocks = 4 // of one upload: one is sent, the others are read ahead
)

// streamBuffers has blocks of streamBlock.
var streamBuffers = sync.Pool{New: func() any { b := make([]byte, streamBlock); return &b }}

// block is what one read gave.
type block struct {
	buf *[]byte // to be given back
	n   int
	err error // why there is no more
}

// stream gives the bytes of src from an offset on to write, in order, while the next ones are read. What
// src fails with is errSource.
func stream(ctx context.Context, src io.ReaderAt, from, size int64, write func(p []byte) error) error {
	if size-from <= streamBlock {
		b := readBlock(src, from, size)
		defer streamBuffers.Put(b.buf)
		return b.pass(ctx, write)
	}
	ahead := make(chan block, streamBlocks-2) // beside the one that is sent and the one that is read
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(ahead)
		for off := from; off < size; {
			b := readBlock(src, off, size)
			select {
			case ahead <- b:
			case <-stop:
				streamBuffers.Put(b.buf)
				return
			}
			if off += int64(b.n); b.err != nil {
				return
			}
		}
	})
	defer func() {
		close(stop)
		reader.Wait()
		for b := range ahead {
			streamBuffers.Put(b.buf)
		}
	}()
	for b := range ahead {
		err := b.pass(ctx, write)
		streamBuffers.Put(b.buf)
		if err != nil {
			return err
		}
	}
	return nil
}

// readBlock reads what comes at off.
func readBlock(src io.ReaderAt, off, size int64) block {
	b := block{buf: streamBuffers.Get().(*[]byte)}
	if off == size {
		return b
	}
	n, err := src.ReadAt((*b.buf)[:min(streamBlock, size-off)], off)
	b.n = n
	switch {
	case off+int64(n) == size:
		return b
	case err == io.EOF || err == nil && n == 0:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		b.err = fmt.Errorf("%w: read at %d: %w", errSource, off+int64(n), err)
	}
	return b
}

// pass gives the block to write.
func (b block) pass(ctx context.Context, write func(p []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.n > 0 {
		if err := write((*b.buf)[:b.n]); err != nil {
			return err
		}
	}
	return b.err
}
