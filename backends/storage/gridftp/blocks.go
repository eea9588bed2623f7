package gridftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// MODE E (GFD.020 section 3): the data travel in blocks that say where in the file they belong, over any number of
// connections. The sender connects.

const (
	maxStreams = 16
	// blocksFrom is what is worth several connections.
	blocksFrom = 4 << 20
	// blockSize is that of our blocks.
	blockSize = 256 << 10

	headerSize = 17
	flagEOF    = 64 // the offset is the number of connections that will have ended
	flagEOD    = 8  // the last block of this connection
)

func putHeader(b []byte, flags byte, count, off int64) {
	b[0] = flags
	binary.BigEndian.PutUint64(b[1:], uint64(count))
	binary.BigEndian.PutUint64(b[9:], uint64(off))
}

// header reads the head of a block. Numbers that are none of a file are refused.
func header(b []byte) (flags byte, count, off int64, err error) {
	count, off = int64(binary.BigEndian.Uint64(b[1:])), int64(binary.BigEndian.Uint64(b[9:]))
	if count < 0 || off < 0 {
		return 0, 0, 0, fmt.Errorf("%w: a block of %d bytes at %d", errProtocol, count, off)
	}
	return b[0], count, off, nil
}

// blockSink sends over several connections.
type blockSink struct {
	conns []*channel
	off   int64
}

// connectBlocks opens them, for what follows an offset.
func (s *Storage) connectBlocks(ctx context.Context, ss *session, n int, off int64) (*blockSink, error) {
	to, err := ss.passive(ctx, s.o.Timeout)
	if err != nil {
		return nil, err
	}
	b := &blockSink{off: off}
	for range n {
		c, err := s.dialData(ctx, to)
		if err != nil {
			b.Close()
			ss.bad = true
			return nil, err
		}
		b.conns = append(b.conns, c)
	}
	return b, nil
}

// Write cuts p into blocks and gives each connection its share.
func (b *blockSink) Write(p []byte) (int, error) {
	share := max((len(p)+len(b.conns)-1)/len(b.conns), 64<<10)
	errs := make([]error, len(b.conns))
	var all sync.WaitGroup
	for i, c := range b.conns {
		lo := min(i*share, len(p))
		part, off := p[lo:min(lo+share, len(p))], b.off+int64(lo)
		if len(part) > 0 {
			all.Go(func() { errs[i] = sendBlocks(c, part, off) })
		}
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	b.off += int64(len(p))
	return len(p), nil
}

func sendBlocks(c *channel, p []byte, off int64) error {
	var head [headerSize]byte
	for len(p) > 0 {
		part := p[:min(len(p), blockSize)]
		putHeader(head[:], 0, int64(len(part)), off)
		c.SetWriteDeadline(time.Now().Add(c.timeout))
		both := net.Buffers{head[:], part}
		if _, err := both.WriteTo(c.Conn); err != nil {
			return err
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

// end says on each connection that it ends, and on the first how many there are.
func (b *blockSink) end() error {
	for i, c := range b.conns {
		var head [2 * headerSize]byte
		putHeader(head[:], flagEOF, 0, int64(len(b.conns)))
		putHeader(head[headerSize:], flagEOD, 0, 0)
		from := headerSize
		if i == 0 {
			from = 0
		}
		if _, err := c.Write(head[from:]); err != nil {
			b.Close()
			return err
		}
	}
	return b.Close()
}

func (b *blockSink) Close() error {
	for _, c := range b.conns {
		c.Close()
	}
	return nil
}

// retrieveBlocks fills p from off on: the server connects to us, Streams times. The blocks of a part count from its
// beginning with Globus; a server that counts from the file's is found out, since its blocks are not those that p lacks.
func (s *Storage) retrieveBlocks(ctx context.Context, ss *session, remote string, off int64, p []byte) (int, error) {
	if err := ss.setMode(ctx, s.o.Timeout, true); err != nil {
		return 0, err
	}
	if err := ss.setStreams(ctx, s.o.Timeout, s.o.Streams); err != nil {
		return 0, err
	}
	own := addrOf(ss.conn.LocalAddr()).Addr()
	l, err := net.Listen("tcp", net.JoinHostPort(own.String(), "0"))
	if err != nil {
		return 0, network("listen for the data channel", err)
	}
	g := &gathering{l: l.(*net.TCPListener), p: p, timeout: s.o.Timeout}
	defer g.stop()
	if _, err := ss.ask(ctx, s.o.Timeout, portCommand(addrOf(l.Addr()))); err != nil {
		return 0, err
	}
	if err := ss.send(ctx, s.o.Timeout, fmt.Sprintf("ERET P %d %d %s", off, len(p), remote)); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, g.stop)
	defer stop()
	g.all.Go(g.accept)
	err = ss.finish(ctx, s.patience(int64(len(p)))) // its word comes after all data are sent
	if ctx.Err() != nil {
		ss.abort()
		return 0, ctx.Err()
	}
	if err != nil {
		if lied := g.failure(); lied != nil { // the cause, where we have ended it
			ss.bad = true
			return 0, network("data channel", lied)
		}
		return 0, cut(err)
	}
	if err := g.wait(); err != nil {
		ss.bad = true
		return 0, network("data channel", err)
	}
	return len(p), nil
}
