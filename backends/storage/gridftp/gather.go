package gridftp

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// gathering collects the blocks of a MODE E transfer to us.
type gathering struct {
	l       *net.TCPListener
	p       []byte // what is wanted
	timeout time.Duration
	all     sync.WaitGroup

	mu    sync.Mutex // guards the rest
	conns []net.Conn
	got   [][2]int64 // parts of p
	ended int        // connections
	want  int        // of them; 0: not known yet
	err   error
	over  bool
}

// accept takes connections until all that will come have ended.
func (g *gathering) accept() {
	for {
		g.l.SetDeadline(time.Now().Add(g.timeout))
		c, err := g.l.Accept()
		g.mu.Lock()
		switch {
		case g.over || g.done():
			if err == nil {
				c.Close()
			}
			g.mu.Unlock()
			return
		case err != nil:
			quiet := len(g.conns) > 0 // those that are here may still be busy
			if !quiet {
				g.err = err
			}
			g.mu.Unlock()
			if quiet {
				continue
			}
			return
		case len(g.conns) >= maxStreams:
			c.Close()
			g.mu.Unlock()
			continue
		}
		g.conns = append(g.conns, c)
		g.mu.Unlock()
		g.all.Go(func() {
			err := g.receive(&channel{c, g.timeout})
			c.Close()
			g.mu.Lock()
			if err != nil && g.err == nil && !g.over {
				g.err = err
			}
			if g.done() {
				g.l.Close()
			}
			g.mu.Unlock()
		})
	}
}

// done wants mu held.
func (g *gathering) done() bool { return g.err != nil || g.want > 0 && g.ended >= g.want }

// receive reads the blocks of one connection.
func (g *gathering) receive(c *channel) error {
	var head [headerSize]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		flags, count, off, err := header(head[:])
		if err != nil {
			return err
		}
		if flags&flagEOF != 0 {
			if off < 1 || off > maxStreams {
				return fmt.Errorf("%w: %d connections", errProtocol, off)
			}
			g.mu.Lock()
			g.want = int(off)
			g.mu.Unlock()
		} else if count > 0 {
			if count > int64(len(g.p)) || off > int64(len(g.p))-count {
				return fmt.Errorf("%w: a block of %d bytes at %d, which nobody asked for", errProtocol, count, off)
			}
			g.mu.Lock()
			g.got = append(g.got, [2]int64{off, off + count})
			many := len(g.got) > 1<<20
			g.mu.Unlock()
			if many {
				return fmt.Errorf("%w: too many blocks", errProtocol)
			}
			if _, err := io.ReadFull(c, g.p[off:off+count]); err != nil {
				return err
			}
		}
		if flags&flagEOD != 0 {
			g.mu.Lock()
			g.ended++
			g.mu.Unlock()
			return nil
		}
	}
}

// wait waits for the last connection and tells whether everything is there, once.
func (g *gathering) wait() error {
	g.all.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return g.err
	}
	slices.SortFunc(g.got, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	end := int64(0)
	for _, part := range g.got {
		if part[0] != end {
			return fmt.Errorf("%w: the blocks leave holes or lie over one another", errProtocol)
		}
		end = part[1]
	}
	if end != int64(len(g.p)) {
		return errShort
	}
	return nil
}

// failure is what went wrong so far.
func (g *gathering) failure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// stop ends everything and waits: nobody writes to p afterwards.
func (g *gathering) stop() {
	g.mu.Lock()
	g.over = true
	g.l.Close()
	for _, c := range g.conns {
		c.Close()
	}
	g.mu.Unlock()
	g.all.Wait()
}

// portCommand tells a server where to connect to.
func portCommand(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return fmt.Sprintf("PORT %s,%d,%d", strings.ReplaceAll(a.Addr().String(), ".", ","), a.Port()>>8, a.Port()&0xff)
	}
	return fmt.Sprintf("EPRT |2|%s|%d|", a.Addr(), a.Port())
}
