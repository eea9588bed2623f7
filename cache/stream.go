package cache

import (
	"bytes"
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
		if end == 0 && !s.demandOnly && !s.firstLocked() {
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
		if tokens == c.demand {
			s.looks = 0 // somebody reads on
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

// firstLocked tells whether a reader waits for the first bytes that the fill brings. Beside
// them read-ahead would only make him wait longer.
func (fl *fill) firstLocked() bool {
	if fl.gained > 0 {
		return false
	}
	for w := range fl.e.waiters {
		if w.goal == goalBlocks && fl.busy.Has(w.first) {
			return true
		}
	}
	return false
}

// aheadLocked is the next run to read ahead: of everything when storing, else of what the
// prover needs next if somebody waits for the proof.
func (fl *fill) aheadLocked() (first, end int) {
	e := fl.e
	most, from, to := max(1, fl.c.chunk/e.lay.Block), fl.cursor, e.lay.Count()
	if !fl.store {
		if !e.wantsProofLocked() {
			return 0, 0
		}
		from, to, most = fl.pos, min(to, fl.pos+windowBlocks), 1
	} else if fl.pausedLocked() {
		return 0, 0
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
	buf := lendBuf(int(min(e.lay.Off(end), e.lay.Size) - off))
	defer buf.back()
	n, err := readFull(s.ctx, s.src, buf.data, off)
	s.c.fetched.Add(int64(n))
	var blocks []*memBlock
	for b := first; b < end && e.lay.Off(b)+int64(e.lay.Len(b)) <= off+int64(n); b++ {
		at := e.lay.Off(b) - off
		m := &memBlock{b: b, data: buf.data[at : at+int64(e.lay.Len(b))], buf: buf}
		m.crc, m.piece = s.digest(m.data)
		blocks = append(blocks, m)
	}
	if good := s.contradicted(blocks); good < len(blocks) {
		err = fmt.Errorf("block %d does not match its checksum: %w", blocks[good].b, ErrCorrupt)
		blocks = blocks[:good]
	}
	if len(blocks) > 0 {
		if e := s.publish(blocks, buf); err == nil {
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

// contradicted is how many blocks precede the first one whose checksum is known to be another.
func (s *stream) contradicted(blocks []*memBlock) int {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for i, m := range blocks {
		if s.e.disprovedLocked(m) {
			return i
		}
	}
	return len(blocks)
}

// disprovedLocked tells whether the content's block is known to be another one than m.
func (e *entry) disprovedLocked(m *memBlock) bool { return e.known.Has(m.b) && e.crc[m.b] != m.crc }

// publish stores blocks, which follow one another in buf, or keeps them in memory, and wakes
// who waits for them.
func (s *stream) publish(blocks []*memBlock, buf *lentBuf) error {
	e := s.e
	e.mu.Lock()
	store := s.store
	e.compareLocked(blocks)
	if store {
		s.showLocked(blocks, buf) // readers need not wait for the disk
	}
	e.mu.Unlock()
	if store {
		err := s.keep(blocks, buf.data)
		if err == nil {
			return nil
		}
		s.c.diskFailed("write", err)
		s.passBy(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range blocks {
		if e.disprovedLocked(m) { // meanwhile: it stays missing, and is fetched again
			continue
		}
		m := &memBlock{b: m.b, crc: m.crc, piece: m.piece, data: bytes.Clone(m.data)}
		s.c.addMem(memKey{e, m.b}, m)
		if m.b >= s.pos && m.b < s.pos+windowBlocks {
			s.window[m.b] = m
		}
		s.gained++
		e.wakeReadersLocked(m.b, m)
	}
	s.cond.Broadcast()
	return nil
}

// windowBlocks is how far past the cache blocks are fetched and held for the hash.
const windowBlocks = 8

// keep writes blocks to the data file, one run at a time: the kernel would let writers of
// one file wait for each other anyway. On a full disk it evicts and tries again.
func (s *stream) keep(blocks []*memBlock, p []byte) error {
	e := s.e
	last := blocks[len(blocks)-1]
	off := e.lay.Off(blocks[0].b)
	p = p[:e.lay.Off(last.b)+int64(len(last.data))-off]
	s.pen <- struct{}{} // also when nobody wants them any more: readers may have been given them
	defer func() { <-s.pen }()
	for try := 0; ; try++ {
		err := e.change(s.file, blocks[0].b, last.b+1, func() error {
			_, err := s.file.WriteAt(p, off)
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
	for _, m := range blocks {
		if e.disprovedLocked(m) { // meanwhile: it stays missing, and is fetched again
			e.checked.Remove(m.b)
			e.litter = true
			continue
		}
		if e.have.Add(m.b) {
			s.c.mu.Lock() // in one go, so that the sum under the limit is right at any moment
			n := e.cameLocked(m.b)
			s.reserved -= n
			s.c.reserved -= n
			s.c.mu.Unlock()
		}
		e.crc[m.b] = m.crc
		if s.pieces != nil {
			s.pieces[m.b], s.pieced[m.b] = m.piece, true
		}
		e.wakeReadersLocked(m.b, nil)
	}
	s.gained += len(blocks)
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
