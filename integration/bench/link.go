package main

import (
	"context"
	"net"
	"net/url"
	"time"

	"golang.org/x/time/rate"
)

// link is what lies between this machine and a server: all connections share its rate, one way and the other.
type link struct {
	delay    time.Duration // one way
	up, down *rate.Limiter // bytes per second
}

// The links of the rows on distant servers.
const (
	linkRate  = 125e6 // bytes per second: 1 Gbit/s
	linkDelay = 10 * time.Millisecond
	linkPiece = 64 << 10
)

// away gives a URL by which a server is reached over a link.
func (s *stage) away(to string) string {
	u, err := url.Parse(to)
	if err != nil {
		s.Fatal(err)
	}
	l := &link{linkDelay, rate.NewLimiter(linkRate, 4*linkPiece), rate.NewLimiter(linkRate, 4*linkPiece)}
	ctx, stop := context.WithCancel(context.Background())
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	server := u.Host
	go func() {
		for {
			c, err := door.Accept()
			if err != nil {
				return // it was closed
			}
			go l.join(ctx, c, server)
		}
	}()
	s.Cleanup(func() { stop(); door.Close() })
	u.Host = door.Addr().String()
	return u.String()
}

// join carries one connection until both ends have closed theirs, or ctx ends.
func (l *link) join(ctx context.Context, c net.Conn, server string) {
	defer c.Close()
	d, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer d.Close()
	defer context.AfterFunc(ctx, func() { c.Close(); d.Close() })()
	ended := make(chan struct{})
	go func() { defer close(ended); l.carry(ctx, d, c, l.up) }()
	l.carry(ctx, c, d, l.down)
	<-ended
}

// carry moves bytes from one end to the other, with as many under way as the link holds.
func (l *link) carry(ctx context.Context, to, from net.Conn, lim *rate.Limiter) {
	type piece struct {
		b  []byte
		at time.Time // when it is there
	}
	way := make(chan piece, 4+int(linkRate*l.delay.Seconds())/linkPiece)
	go func() {
		defer close(way)
		for {
			b := make([]byte, linkPiece)
			n, err := from.Read(b)
			if n > 0 && lim.WaitN(ctx, n) == nil {
				way <- piece{b[:n], time.Now().Add(l.delay)}
			}
			if err != nil || ctx.Err() != nil {
				return
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.b); err != nil {
			from.Close() // who sends shall see it
			for range way {
			}
			break
		}
	}
	if t, ok := to.(interface{ CloseWrite() error }); ok {
		_ = t.CloseWrite()
	}
}
