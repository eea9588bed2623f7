package gridftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"tarn/backends"
)

// channel is a data connection on which silence has a limit.
type channel struct {
	net.Conn
	timeout time.Duration
}

func (c *channel) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(c.timeout))
	return c.Conn.Read(p)
}

// maxWrite is what goes to the connection between two looks at the time.
const maxWrite = 1 << 20

func (c *channel) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		c.SetWriteDeadline(time.Now().Add(c.timeout))
		var m int
		m, err = c.Conn.Write(p[n:min(len(p), n+maxWrite)])
		n += m
	}
	return n, err
}

// connectData opens the data channel of a session in passive mode.
func (s *Storage) connectData(ctx context.Context, ss *session) (*channel, error) {
	to, err := ss.passive(ctx, s.o.Timeout)
	if err != nil {
		return nil, err
	}
	c, err := s.dialData(ctx, to)
	if err != nil {
		ss.bad = true // it waits for us
	}
	return c, err
}

func (s *Storage) dialData(ctx context.Context, to netip.AddrPort) (*channel, error) {
	dctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	c, err := s.dial(dctx, to.String())
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, network("data channel to "+to.String(), err)
	}
	return &channel{c, s.o.Timeout}, nil
}

// incoming is a transfer to us in MODE S.
type incoming struct {
	s    *Storage
	ss   *session
	data *channel
}

// retrieve begins a transfer: n bytes from off on of a file.
func (s *Storage) retrieve(ctx context.Context, ss *session, remote string, off, n int64) (*incoming, error) {
	if err := ss.setMode(ctx, s.o.Timeout, false); err != nil {
		return nil, err
	}
	cmd := fmt.Sprintf("ERET P %d %d %s", off, n, remote)
	if !ss.has("ERET") {
		if off > 0 {
			if _, err := ss.ask(ctx, s.o.Timeout, fmt.Sprintf("REST %d", off)); err != nil {
				return nil, err
			}
		}
		cmd = "RETR " + remote
	}
	return s.receive(ctx, ss, cmd)
}

// receive begins the transfer that a command makes.
func (s *Storage) receive(ctx context.Context, ss *session, cmd string) (*incoming, error) {
	data, err := s.connectData(ctx, ss)
	if err != nil {
		return nil, err
	}
	if err := ss.transfer(ctx, s.o.Timeout, cmd); err != nil {
		data.Close()
		return nil, err
	}
	return &incoming{s, ss, data}, nil
}

// watch ends what waits for data when ctx ends.
func (c *channel) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.Conn.Close() })
}

// read fills p. When the data end before, the server's word tells why.
func (in *incoming) read(ctx context.Context, p []byte) (n int, err error) {
	stop := in.data.watch(ctx)
	defer stop()
	n, err = io.ReadFull(in.data, p)
	if err == nil {
		return n, nil
	}
	if ctx.Err() != nil {
		in.ss.abort()
		return n, ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		// Either the file is shorter than it was, or the transfer failed.
		if ferr := in.ss.finish(ctx, in.s.o.Timeout); ferr != nil {
			return n, cut(ferr)
		}
		in.data.Close()
		return n, errShort
	}
	in.ss.bad = true
	return n, network("data channel", err)
}

// errShort is a transfer that ended well, before all bytes were there.
var errShort = fmt.Errorf("the file ends before the size it was opened with: %w", backends.ErrStale)

// cut is for a refusal after the data had begun to come: whatever it says, the file was there, and trying again may help.
func cut(err error) error {
	var r *replyError
	if errors.As(err, &r) && !broken(err) {
		return &backends.AnsweredError{Err: fmt.Errorf("the transfer broke off: the server says %q: %w", r.reply.String(), errTrouble)}
	}
	return err
}

// end is for a transfer whose bytes have all come: nothing more may, and the server has to agree.
func (in *incoming) end(ctx context.Context, exact bool) error {
	defer in.data.Close()
	stop := in.data.watch(ctx)
	defer stop()
	var b [1]byte
	switch n, err := in.data.Read(b[:]); {
	case ctx.Err() != nil:
		in.ss.abort()
		return ctx.Err()
	case n > 0 && exact:
		in.ss.abort()
		return fmt.Errorf("%w: more bytes than were asked for: %w", errProtocol, backends.ErrUnavailable)
	case n > 0: // without ERET there is no end to ask for
		return in.leave(ctx)
	case err != io.EOF:
		in.ss.bad = true
		return network("data channel", err)
	}
	if err := in.ss.finish(ctx, in.s.o.Timeout); err != nil {
		return cut(err)
	}
	return nil
}

// leave ends a transfer in its middle. Globus says so at once, with an error that means nothing.
func (in *incoming) leave(ctx context.Context) error {
	in.data.Close()
	if _, err := in.ss.final(ctx, min(in.s.o.Timeout, 2*time.Second)); err != nil {
		in.ss.bad = true
	}
	return nil
}
