//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"time"

	"tarn/backends"
)

// nameSpace gives the one of the credentials as they are now, with a share for the caller to drop.
func (s *Storage) nameSpace() (*counted, error) {
	u := s.url("/")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, backends.ErrClosed
	}
	if s.fs == nil || s.fsURL != u {
		old := s.fs
		s.fs, s.fsURL = newFileSystem(u), u
		if old != nil {
			old.drop()
		}
	}
	s.fs.take()
	return s.fs, nil
}

// leave lets go of a file. The server closes it meanwhile: nobody waits for one that is silent.
func (s *Storage) leave(file *counted) {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.tasks.Go(file.drop)
	}
	s.mu.Unlock()
	if closed {
		file.drop()
	}
}

// start sends a request that may take d; f gets the answer, on a thread of the library.
func (s *Storage) start(ctx context.Context, c *counted, send func(done), f done) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return backends.ErrClosed
	}
	c.take()
	send(func(a answer) {
		f(a)
		<-s.slots
		c.answered()
	})
	return nil
}

// expiry is by how much the library may be early when it ends a request for its time, which it counts in seconds.
const expiry = 2 * time.Second

// await waits for an answer, but no longer than d: the library counts in seconds, and from when it gets to it. A
// request that the server lets wait for longer than it has (kXR_wait) has expired at once for the library.
func (s *Storage) await(ctx context.Context, d time.Duration, got <-chan answer) (answer, error) {
	t := time.NewTimer(d)
	defer t.Stop()
	began := time.Now()
	select {
	case a := <-got:
		if a.code == errExpired && time.Since(began) < d-expiry {
			a.code = errWait
		}
		return a, s.failed(a)
	case <-ctx.Done():
		return answer{}, ctx.Err()
	case <-s.ctx.Done():
		return answer{}, backends.ErrClosed
	case <-t.C:
		return answer{}, silent(d)
	}
}

// request is start and await.
func (s *Storage) request(ctx context.Context, c *counted, d time.Duration, send func(done)) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, err
	}
	got := make(chan answer, 1)
	if err := s.start(ctx, c, send, func(a answer) { got <- a }); err != nil {
		return answer{}, err
	}
	return s.await(ctx, d, got)
}

// ask is a request on an absolute path of the name space.
func (s *Storage) ask(ctx context.Context, d time.Duration, what int, remote, to string) (answer, error) {
	for again := false; ; again = true {
		fs, err := s.nameSpace()
		if err != nil {
			return answer{}, err
		}
		a, err := s.request(ctx, fs, d, func(f done) { fs.fs(what, remote, to, d, f) })
		fs.drop()
		// A connection that was idle may have been lost meanwhile, which says nothing of the server. What was not only
		// asked may have been done.
		if err != nil && !again && broken(err) && what != fsMv && what != fsRm && what != fsRmdir && ctx.Err() == nil {
			continue
		}
		return a, err
	}
}
