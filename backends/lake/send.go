package lake

import (
	"context"
	"errors"
	"io"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// An upload whose connection broke goes on where it was, where the protocol can: a link that breaks once in a while would never carry a
// large file else.
const (
	resumeMin  = 500 * time.Millisecond // between attempts, doubled up to
	resumeMax  = 15 * time.Second
	resumeFor  = 30 * time.Second // that a storage may be away
	resumeVain = 5                // breaks in a row after which nothing more had come
	resumeGain = 1 << 20          // bytes that count as more
)

// send gives the bytes of src to u, and to h once, in order.
func (l *Lake) send(ctx context.Context, u backends.Upload, src io.ReaderAt, size int64, h *checksum.Hasher, progress func(int64)) error {
	at, far, vain := int64(0), int64(0), 0
	write := func(p []byte) error {
		if hashed := h.Size() - at; hashed < int64(len(p)) {
			h.Write(p[hashed:])
		}
		if _, err := u.Write(p); err != nil {
			return err
		}
		at += int64(len(p))
		progress(at)
		return nil
	}
	for {
		err := stream(ctx, src, at, size, write)
		if err == nil {
			err = backends.Flush(ctx, u)
		}
		if err == nil || ctx.Err() != nil || errors.Is(err, errSource) || !backends.IsTemporary(err) {
			return err
		}
		if vain++; at >= far+resumeGain {
			far, vain = at, 1
		}
		if vain > resumeVain {
			return err
		}
		off, ok := l.resume(ctx, u, err)
		if !ok {
			return err
		}
		l.log.Info("an upload goes on where it was", "at", off, "size", size, "after", err)
		at = off
		progress(at)
	}
}

// resume waits until u can be gone on with; false: it cannot, or not for a while.
func (l *Lake) resume(ctx context.Context, u backends.Upload, why error) (off int64, ok bool) {
	if _, can := u.(backends.Resumer); !can {
		return 0, false
	}
	began := time.Now()
	for wait := resumeMin; ; wait = min(2*wait, resumeMax) {
		off, err := backends.Resume(ctx, u)
		switch {
		case err == nil:
			return off, true
		case ctx.Err() != nil || !backends.IsTemporary(err) || time.Since(began) > resumeFor:
			l.log.Debug("an upload cannot be gone on with", "after", why, "err", err)
			return 0, false
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return 0, false
		}
	}
}
