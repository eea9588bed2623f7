// Package fault decorates storages, tapes and catalogues with failures, delays and wrong
// bytes on demand, for the tests of everything that stands on them.
//
//	st := fault.NewStorage(inner)
//	st.On("Open", fault.Times(2, fault.ErrTemporary))                     // the first two calls fail
//	st.On("Commit", fault.At("d/f", fault.Always(backends.ErrNoSpace))) // this file fails
//	st.After("Commit", fault.Nth(1, fault.ErrTemporary))                   // done, but the answer is lost
//	st.OnRead(fault.FlipByte(4096))                                     // wrong bytes
//	release := st.Block("ReadAt")                                       // hangs until released or ctx ends
//
// Operations are the names of the interfaces' methods, also those of Object and
// Upload: ReadAt, Write, Commit, Abort. The path is what the call is about: the storage's path, each path
// of a Tape call or the request's ID, the DID as scope:name of a Catalogue call. Times, Nth and Every count
// paths, which are the calls where there is one each.
package fault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tarn/backends"
)

// ErrTemporary is the failure that goes away.
var ErrTemporary = fmt.Errorf("injected: %w, %w", backends.ErrUnavailable, backends.ErrTemporary)

// ErrInjected is a failure that stays and that no other means.
var ErrInjected = errors.New("injected failure")

// Hook is called for an operation on a path; an error is the operation's result.
type Hook func(path string) error

// Script holds the faults of one decorator. All methods may be called in parallel, also while
// operations run; hooks are called without a lock, in the order of their installation.
type Script struct {
	mu     sync.Mutex // guards the rest
	before map[string][]*hook
	after  map[string][]*hook
	reads  []*readHook
	calls  map[string]int
}

type hook struct {
	f func(ctx context.Context, path string) error
}

type readHook struct {
	f ReadHook
}

// On calls f before every op; when it gives an error, nothing is done and that is the result. The
// function it returns takes f away again.
func (s *Script) On(op string, f Hook) (remove func()) {
	return s.add(&s.before, op, func(_ context.Context, p string) error { return f(p) })
}

// OnContext is On for a hook that waits and should end with the call's context.
func (s *Script) OnContext(op string, f func(ctx context.Context, path string) error) (remove func()) {
	return s.add(&s.before, op, f)
}

// After calls f when op has succeeded; when it gives an error, that is the result although op
// was done: an answer that got lost on its way.
func (s *Script) After(op string, f Hook) (remove func()) {
	return s.add(&s.after, op, func(_ context.Context, p string) error { return f(p) })
}

// Delay makes every op take d longer, or until its context ends.
func (s *Script) Delay(op string, d time.Duration) (remove func()) {
	return s.OnContext(op, func(ctx context.Context, _ string) error {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			return nil
		}
	})
}

// Block makes every op hang until release is called or its context ends.
func (s *Script) Block(op string) (release func()) {
	ch := make(chan struct{})
	remove := s.OnContext(op, func(ctx context.Context, _ string) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ch:
			return nil
		}
	})
	var once sync.Once
	return func() { once.Do(func() { remove(); close(ch) }) }
}

// Down makes every operation of the decorator fail with err until up is called.
func (s *Script) Down(err error) (up func()) {
	return s.On("*", Always(err))
}

// Calls tells how often op was called, whatever came of it; "*" counts all.
func (s *Script) Calls(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

// Reset takes all faults away and sets the counts to zero.
func (s *Script) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after, s.reads, s.calls = nil, nil, nil, nil
}

func (s *Script) add(to *map[string][]*hook, op string, f func(context.Context, string) error) (remove func()) {
	h := &hook{f}
	s.mu.Lock()
	defer s.mu.Unlock()
	if *to == nil {
		*to = map[string][]*hook{}
	}
	(*to)[op] = append((*to)[op], h)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		hs := (*to)[op]
		for i := range hs {
			if hs[i] == h {
				(*to)[op] = append(hs[:i:i], hs[i+1:]...)
				return
			}
		}
	}
}

// begin counts the call and asks the hooks before it.
func (s *Script) begin(ctx context.Context, op string, paths ...string) error {
	s.mu.Lock()
	if s.calls == nil {
		s.calls = map[string]int{}
	}
	s.calls[op]++
	s.calls["*"]++
	hs := s.hooks(s.before, op)
	s.mu.Unlock()
	return run(ctx, hs, paths)
}

// end asks the hooks after a call that succeeded.
func (s *Script) end(ctx context.Context, op string, err error, paths ...string) error {
	if err != nil {
		return err
	}
	s.mu.Lock()
	hs := s.hooks(s.after, op)
	s.mu.Unlock()
	return run(ctx, hs, paths)
}

func (s *Script) hooks(m map[string][]*hook, op string) []*hook {
	return append(append([]*hook(nil), m["*"]...), m[op]...)
}

func run(ctx context.Context, hs []*hook, paths []string) error {
	if len(paths) == 0 {
		paths = []string{""}
	}
	for _, h := range hs {
		for _, p := range paths {
			if err := h.f(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// Always fails every call.
func Always(err error) Hook { return func(string) error { return err } }

// Times fails the first n calls.
func Times(n int, err error) Hook {
	return counted(func(i int) bool { return i <= n }, err)
}

// Nth fails the nth call only, counted from 1.
func Nth(n int, err error) Hook {
	return counted(func(i int) bool { return i == n }, err)
}

// Every fails each nth call.
func Every(n int, err error) Hook {
	return counted(func(i int) bool { return i%n == 0 }, err)
}

func counted(hit func(i int) bool, err error) Hook {
	var mu sync.Mutex
	i := 0
	return func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if i++; hit(i) {
			return err
		}
		return nil
	}
}

// At limits a hook to one path; only its calls are counted.
func At(path string, h Hook) Hook {
	return func(p string) error {
		if p != path {
			return nil
		}
		return h(p)
	}
}

// EachPath gives every path a hook of its own: EachPath(func() Hook { return Times(1, ErrTemporary) })
// fails the first call for each path.
func EachPath(make func() Hook) Hook {
	var mu sync.Mutex
	hs := map[string]Hook{}
	return func(p string) error {
		mu.Lock()
		h := hs[p]
		if h == nil {
			h = make()
			hs[p] = h
		}
		mu.Unlock()
		return h(p)
	}
}
