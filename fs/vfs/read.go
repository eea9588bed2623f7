package vfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/cache"
)

// pending is a read that waits, and the thread that waits in it.
type pending struct {
	pid    uint32
	cancel context.CancelFunc
}

// content describes what the cache holds of a published file.
func content(in backends.Info) cache.Content {
	return cache.Content{Key: cache.Key(in.Generation), Size: in.Size, Sums: checksum.ToMap(in.Checksums)}
}

// cached gives h's file in the cache, for the generation that is current.
func (h *Handle) cached() (*cache.File, error) {
	info := h.node.Info()
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, fmt.Errorf("read %s: the handle %w", h.node.Path(), backends.ErrClosed)
	}
	if h.file != nil && h.gen == info.Generation {
		f := h.file
		h.mu.Unlock()
		return f, nil
	}
	h.mu.Unlock()
	v := h.node.fs
	f, err := v.openCached(h.node, info)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.file != nil && h.gen == info.Generation {
		defer f.Close()
		if h.closed {
			return nil, fmt.Errorf("read %s: the handle %w", h.node.Path(), backends.ErrClosed)
		}
		return h.file, nil
	}
	if h.file != nil {
		defer h.file.Close() // an older generation
	}
	h.file, h.gen = f, info.Generation
	return f, nil
}

// Read reads the file's current content; short only at the end, with io.EOF. It waits for a
// fetch or a recall until ctx ends or Flush finds that the reader died. What it gives is of p,
// or of the cache's memory and then not to be used after done, which is never nil.
func (h *Handle) Read(ctx context.Context, p []byte, off int64, caller Caller) (data []byte, done func(), err error) {
	done = func() {}
	n := h.node
	for {
		n.mu.Lock()
		u := n.work
		n.mu.Unlock()
		if u == nil {
			break
		}
		k, err := u.read(p, off)
		if errors.Is(err, errRotten) && !u.leaving(err) {
			return nil, done, fmt.Errorf("read %s: %w", n.Path(), err)
		}
		if !u.leaving(err) {
			return p[:k], done, local(err)
		}
		if u.gone() { // it is in the cache, or was replaced in the catalogue
			n.mu.Lock()
			if n.work == u {
				n.work = nil
			}
			n.mu.Unlock()
			continue
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, done, ctx.Err()
		}
	}
	f, err := h.cached()
	if err != nil {
		return nil, done, err
	}
	if data, back, ok := f.Share(len(p), off); ok {
		h.count(len(data))
		return data, back, nil
	}
	if k, err := f.ReadResident(p, off); err == nil && k == len(p) || errors.Is(err, io.EOF) {
		h.count(k)
		return p[:k], done, err
	} else if h.resident {
		if k > 0 {
			h.count(k)
			return p[:k], done, nil
		}
		return nil, done, fmt.Errorf("read %s: %w: %s", n.Path(), backends.ErrRefused, h.refused())
	}
	ctx, over := h.wait(ctx, caller.PID)
	defer over()
	defer h.readAhead()()
	data, back, err := f.ReadShared(ctx, p, off)
	if back != nil {
		done = back
	}
	h.count(len(data))
	if err != nil && !errors.Is(err, io.EOF) {
		if ctx.Err() == nil {
			n.setErr(err.Error())
		}
		return data, done, local(err)
	}
	return data, done, err
}

// ReadAt is Read into p.
func (h *Handle) ReadAt(ctx context.Context, p []byte, off int64, caller Caller) (int, error) {
	data, done, err := h.Read(ctx, p, off, caller)
	defer done()
	return copy(p, data), err
}

// refused notes, once, that a reader wants more of a resident handle than is here.
func (h *Handle) refused() string {
	const why = "opened with O_NONBLOCK, and the rest is on tape"
	h.mu.Lock()
	told := h.told
	h.told = true
	h.mu.Unlock()
	if told {
		return why
	}
	v := h.node.fs
	v.stats.refused.Add(1)
	words := v.policy.refuseNonBlock(h.caller)
	h.node.setErr(words)
	v.log.Info("recall refused", "path", h.node.Path(), "pid", h.caller.PID, "uid", h.caller.UID, "why", words)
	return why
}

func (h *Handle) count(k int) {
	h.mu.Lock()
	h.bytes += int64(k)
	h.mu.Unlock()
	h.node.fs.stats.read.Add(int64(k))
}

// readAhead tells the recall read-ahead, once, that this file is waited for; what it
// returns says that the wait is over.
func (h *Handle) readAhead() (over func()) {
	h.mu.Lock()
	tell := h.nearline && !h.asked
	h.asked = true
	h.mu.Unlock()
	if tell {
		return h.node.fs.ahead.recalled(h.node)
	}
	return func() {}
}

// wait registers a read that may wait long.
func (h *Handle) wait(ctx context.Context, pid uint32) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	r := &pending{pid, cancel}
	h.mu.Lock()
	if h.reads == nil {
		h.reads = map[*pending]struct{}{}
	}
	h.reads[r] = struct{}{}
	h.mu.Unlock()
	end := h.node.fs.keep(h.node)
	return ctx, func() {
		h.mu.Lock()
		delete(h.reads, r)
		h.mu.Unlock()
		end(ctx.Err() != nil)
		cancel()
	}
}

// Whole gives a descriptor of the file's complete, verified content for kernel
// passthrough, valid until Release, and the content's name; false while there is none.
func (h *Handle) Whole() (*os.File, backends.Generation, bool) {
	h.node.mu.Lock()
	busy := h.node.work != nil
	h.node.mu.Unlock()
	if busy {
		return nil, "", false
	}
	f, err := h.cached()
	if err != nil {
		return nil, "", false
	}
	fd, ok := f.Passthrough()
	h.mu.Lock()
	defer h.mu.Unlock()
	return fd, h.gen, ok && h.file == f
}

// tellPolicy tells, once, how much of a recalled file its reader wanted.
func (h *Handle) tellPolicy() {
	h.mu.Lock()
	tell, bytes := h.asked && h.nearline && !h.judged, h.bytes
	h.judged = h.judged || tell
	h.mu.Unlock()
	if tell {
		h.node.fs.policy.released(h.caller, bytes, h.node.Info().Size)
	}
}

// alive tells whether a thread exists and is not a zombie.
func alive(tid uint32) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tid))
	if err != nil {
		return false
	}
	for i := len(b) - 1; i > 0; i-- { // the state follows the last ')'
		if b[i] == ')' {
			return i+2 < len(b) && b[i+2] != 'Z' && b[i+2] != 'X'
		}
	}
	return true
}
