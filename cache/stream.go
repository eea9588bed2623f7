package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// stream is one of a fill's parallel readers of a Source.
type stream struct {
	*fill
	src        Source
	ctx        context.Context
	demandOnly bool // never reads ahead, so that a demand finds it free
}

// job is a run of blocks to fetch.
type job struct {
	first, end int
	token      chan struct{} // given back when done
}

func (s *stream) run() error {
	for {
		j, err := s.next()
		if err != nil || j.end == 0 {
			return err
		}
		err = s.fetch(j.first, j.end)
		<-j.token
		if err != nil {
			return err
		}
	}
}

// next waits for something to fetch; a job of nothing means that all is done. Demands go
// first. Tokens bound the buffers of all files together; waiting for one for read-ahead
// keeps no demand of this file waiting, because the stream with demandOnly never does.
func (s *stream) next() (job, error) {
	e, c := s.e, s.c
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if err := s.ctx.Err(); err != nil {
			return job{}, context.Cause(s.ctx)
		}
		if s.done {
			return job{}, nil
		}
		pick, tokens := s.demandedLocked, c.demand
		_, end := pick()
		if end == 0 && !s.demandOnly {
			pick, tokens = s.aheadLocked, c.ahead
			_, end = pick()
		}
		if end == 0 {
			s.cond.Wait()
			continue
		}
		if !s.take(tokens) {
			continue
		}
		first, end := pick()
		if end == 0 { // somebody else took it meanwhile
			<-tokens
			continue
		}
		for b := first; b < end; b++ {
			s.busy.Add(b)
		}
		s.cursor = end // read-ahead goes on where readers are
		return job{first, end, tokens}, nil
	}
}

// take gets a token, giving up e.mu while it waits; false when the context ended.
func (s *stream) take(tokens chan struct{}) bool {
	s.e.mu.Unlock()
	defer s.e.mu.Lock()
	select {
	case tokens <- struct{}{}:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// missingLocked tells whether block b is neither here nor on its way.
func (fl *fill) missingLocked(b int) bool {
	return !fl.busy.Has(b) && !fl.hereLocked(b)
}

func (fl *fill) hereLocked(b int) bool { return fl.e.have.Has(b) || fl.memLocked(b) != nil }

// memLocked is block b if it is in memory.
func (fl *fill) memLocked(b int) *memBlock {
	if fl.store {
		return nil
	}
	m := fl.window[b]
	if m == nil {
		m, _ = fl.c.mem.Get(memKey{fl.e, b})
	}
	return m
}

// forgetMemLocked drops the blocks in memory, or those with another checksum than is known.
func (fl *fill) forgetMemLocked(all bool) {
	if fl.whyNot == nil {
		return
	}
	for b := range fl.e.lay.Count() {
		k := memKey{fl.e, b}
		if m, ok := fl.c.mem.Peek(k); ok && (all || m.crc != fl.e.crc[b]) {
			fl.c.mem.Remove(k)
		}
	}
	clear(fl.window)
}

// demandedLocked is a run of blocks that a reader waits for.
func (fl *fill) demandedLocked() (first, end int) {
	most := max(1, demandBytes/fl.e.lay.Block)
	for w := range fl.e.waiters {
		for b := w.first; w.goal == goalBlocks && b < w.end; b++ {
			if !fl.missingLocked(b) {
				continue
			}
			end := b + 1
			for end < w.end && end-b < most && fl.missingLocked(end) {
				end++
			}
			return b, end
		}
	}
	return 0, 0
}

// aheadLocked is the next run to read ahead: of everything when storing, else of what the
// prover needs next if somebody waits for the proof.
func (fl *fill) aheadLocked() (first, end int) {
	e := fl.e
	most, from, to := fl.c.chunk, fl.cursor, e.lay.Count()
	if !fl.store {
		if !e.wantsProofLocked() {
			return 0, 0
		}
		from, to, most = fl.pos, min(to, fl.pos+windowBlocks), 1
	}
	for range 2 {
		for b := from; b < to; b++ {
			if fl.store { // jump over what is there
				if b = e.have.NextClear(b); b >= to {
					break
				}
			}
			if !fl.missingLocked(b) {
				continue
			}
			end := b + 1
			for end < to && end-b < most && fl.missingLocked(end) {
				end++
			}
			return b, end
		}
		if !fl.store {
			break
		}
		from, to = 0, min(from, e.lay.Count())
	}
	return 0, 0
}

func (e *entry) wantsProofLocked() bool {
	for w := range e.waiters {
		if w.goal == goalProof {
			return true
		}
	}
	return false
}

// fetch reads a run of blocks from the Source and publishes those that came complete,
// also when an error cut the run short.
func (s *stream) fetch(first, end int) error {
	e := s.e
	off := e.lay.Off(first)
	buf := getBuf(int(min(e.lay.Off(end), e.lay.Size) - off))
	defer putBuf(buf)
	n, err := readFull(s.ctx, s.src, buf, off)
	s.c.fetched.Add(int64(n))
	got := first
	crcs := make([]uint32, 0, end-first)
	for got < end && e.lay.Off(got)+int64(e.lay.Len(got)) <= off+int64(n) {
		at := e.lay.Off(got) - off
		crcs = append(crcs, blockSum(buf[at:at+int64(e.lay.Len(got))]))
		got++
	}
	if bad := s.contradicted(first, crcs); bad >= 0 {
		err = fmt.Errorf("block %d does not match its checksum: %w", bad, ErrCorrupt)
		got, crcs = bad, crcs[:bad-first]
	}
	if got > first {
		if e := s.publish(first, got, buf[:min(e.lay.Off(got), e.lay.Size)-off], crcs); err == nil {
			err = e
		}
	}
	e.mu.Lock()
	for b := first; b < end; b++ {
		s.busy.Remove(b)
	}
	s.cond.Broadcast()
	e.mu.Unlock()
	return err
}

// readFull reads all of p; a Source may give less at a time, but never nothing.
func readFull(ctx context.Context, src Source, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m, err := src.ReadAt(ctx, p[n:], off+int64(n))
		if m < 0 || m > len(p)-n {
			return n, errors.New("source gave an impossible length")
		}
		n += m
		switch {
		case n == len(p):
			return n, nil
		case err == io.EOF:
			return n, fmt.Errorf("source ends at %d: %w", off+int64(n), io.ErrUnexpectedEOF)
		case err != nil:
			return n, err
		case m == 0:
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// contradicted is the first block whose checksum is known to be another, or -1.
func (s *stream) contradicted(first int, crcs []uint32) int {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for i, crc := range crcs {
		if b := first + i; s.e.known.Has(b) && s.e.crc[b] != crc {
			return b
		}
	}
	return -1
}

// publish stores blocks, or keeps them in memory, and wakes who waits for them.
func (s *stream) publish(first, end int, p []byte, crcs []uint32) error {
	e := s.e
	e.mu.Lock()
	store := s.store
	e.mu.Unlock()
	if store {
		err := s.keep(first, end, p, crcs)
		if err == nil {
			return nil
		}
		s.c.diskFailed("write", err)
		s.passBy(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for b := first; b < end; b++ {
		at := e.lay.Off(b) - e.lay.Off(first)
		m := &memBlock{b: b, crc: crcs[b-first], data: append([]byte(nil), p[at:at+int64(e.lay.Len(b))]...)}
		s.c.mem.Add(memKey{e, b}, m)
		if b >= s.pos && b < s.pos+windowBlocks {
			s.window[b] = m
		}
		s.gained++
		for w := range e.waiters {
			if w.goal == goalBlocks && w.first == b {
				w.mem = m
				e.wakeLocked(w, nil)
			}
		}
	}
	s.cond.Broadcast()
	return nil
}

// windowBlocks is how far past the cache blocks are fetched and held for the hash.
const windowBlocks = 8

// memBlock is a block of a content that is read past the cache; it is never changed.
type memBlock struct {
	b    int
	crc  uint32
	data []byte
}

type memKey struct {
	e *entry
	b int
}

// keep writes blocks to the data file, one run at a time: the kernel would let writers of
// one file wait for each other anyway. On a full disk it evicts and tries again.
func (s *stream) keep(first, end int, p []byte, crcs []uint32) error {
	e := s.e
	select {
	case s.pen <- struct{}{}:
	case <-s.ctx.Done():
		return nil // nobody wants them; the caller sees the context
	}
	defer func() { <-s.pen }()
	for try := 0; ; try++ {
		err := e.change(s.file, func() error {
			_, err := s.file.WriteAt(p, e.lay.Off(first))
			return err
		})
		if err == nil {
			break
		}
		e.mu.Lock()
		e.litter = true
		e.mu.Unlock()
		if try >= 8 || !(errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) || !s.c.makeRoom(max(int64(len(p)), chunkBytes)) {
			return err
		}
	}
	s.c.diskWorks()
	e.mu.Lock()
	for b := first; b < end; b++ {
		if e.have.Add(b) {
			s.c.mu.Lock() // in one go, so that the sum under the limit is right at any moment
			n := e.cameLocked(b)
			s.reserved -= n
			s.c.reserved -= n
			s.c.mu.Unlock()
		}
		e.crc[b] = crcs[b-first]
		for w := range e.waiters {
			if w.goal == goalBlocks && w.first == b {
				e.wakeLocked(w, nil)
			}
		}
	}
	s.gained += end - first
	s.fresh += int64(len(p))
	write := s.fresh >= max(64<<20, e.lay.Size/16)
	if write {
		s.fresh = 0
	}
	s.cond.Broadcast()
	e.mu.Unlock()
	if write {
		if err := e.persist(false); err != nil {
			s.c.diskFailed("write", err)
		}
	}
	return nil
}
