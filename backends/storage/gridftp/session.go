package gridftp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tarn/backends"
)

// session is one control channel. It belongs to one user at a time.
type session struct {
	conn  net.Conn
	r     *bufio.Reader
	sec   *wrapping    // nil: in clear
	clear bytes.Buffer // what was unwrapped and not yet read

	features map[string]string
	modeE    bool
	streams  string // of the last OPTS RETR

	reused   bool      // taken from the pool
	heard    bool      // a reply has come since then: the server lives
	bad      bool      // must not be used again
	idle     time.Time // since when it is in the pool
	held     bool      // counts against the pool's limit
	detached bool      // somebody keeps it beyond the call that acquired it
	marked   *marks    // of the upload that goes on; nil: none does
}

// connect makes a session that is logged in, with binary transfers and data channels without authentication.
func (s *Storage) connect(ctx context.Context) (*session, error) {
	dctx, cancel := context.WithTimeoutCause(ctx, s.o.Timeout, errTimeout)
	defer cancel()
	conn, err := s.dial(dctx, s.end.addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if context.Cause(dctx) == errTimeout {
			err = fmt.Errorf("no answer within %v", s.o.Timeout)
		}
		return nil, network("connect to "+s.end.addr, err)
	}
	ss := &session{conn: conn, r: bufio.NewReaderSize(conn, 4096)}
	stop := ss.watch(ctx)
	err = ss.login(ctx, s)
	if stop(); err != nil {
		ss.close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !speaks(err) {
			err = network("log in to "+s.end.addr, err)
		}
		return nil, err
	}
	return ss, nil
}

// speaks tells whether an error has one of tarn's words already.
func speaks(err error) bool {
	return slices.ContainsFunc([]error{backends.ErrPermission, backends.ErrUnavailable, backends.ErrNotSupported, backends.ErrName, backends.ErrNotExist},
		func(word error) bool { return errors.Is(err, word) })
}

var errTimeout = errors.New("timeout")

func (ss *session) login(ctx context.Context, s *Storage) error {
	if err := ss.begin(ctx, s.o.Timeout); err != nil {
		return err
	}
	for { // 120: wait
		rep, err := readReply(ss.r)
		if err != nil {
			return network("greeting", err)
		}
		if rep.class() == 2 {
			break
		}
		if rep.class() != 1 {
			return refused(rep)
		}
	}
	name, pass := s.end.user, "tarn@"
	if s.end.gsi {
		if err := ss.authenticate(ctx, &s.o, s.end.host); err != nil {
			return err
		}
		name = ":globus-mapping:" // the account that the grid-mapfile says
	} else if name == "" {
		name = "anonymous"
	}
	rep, err := ss.command(ctx, s.o.Timeout, "USER "+name)
	if err == nil && rep.class() == 3 {
		rep, err = ss.command(ctx, s.o.Timeout, "PASS "+pass)
	}
	if err != nil {
		return err
	}
	if rep.class() != 2 {
		if s.end.gsi && rep.class() == 5 {
			return fmt.Errorf("the server knows the certificate but not the person: ask its operators to put your DN into the grid-mapfile or to admit your VO (%q): %w", rep, backends.ErrPermission)
		}
		return refused(rep)
	}
	if rep, err = ss.command(ctx, s.o.Timeout, "FEAT"); err != nil {
		return err
	}
	if rep.class() == 2 {
		ss.features = parseFeatures(rep)
	}
	must := []string{"TYPE I"}
	if s.end.gsi {
		must = append(must, "DCAU N")
	}
	for _, c := range must {
		if rep, err = ss.command(ctx, s.o.Timeout, c); err != nil {
			return err
		}
		if rep.class() != 2 && c == "DCAU N" {
			return unprotected(rep)
		}
		if rep.class() != 2 {
			return fmt.Errorf("the server refuses %s (%q): %w", c, rep, backends.ErrNotSupported)
		}
	}
	return nil
}

func (ss *session) has(feature string) bool {
	_, ok := ss.features[feature]
	return ok
}

// watch ends everything that waits on the control channel when ctx ends. The session is bad then.
func (ss *session) watch(ctx context.Context) (stop func()) {
	end := context.AfterFunc(ctx, func() { ss.conn.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if !end() {
			ss.bad = true
		}
	}
}

// begin gives what follows its time.
func (ss *session) begin(ctx context.Context, d time.Duration) error {
	ss.conn.SetDeadline(time.Now().Add(d))
	return ctx.Err() // after the deadline: watch may have set its own before
}

func (ss *session) sendLine(line string) error {
	_, err := io.WriteString(ss.conn, line+"\r\n")
	return err
}

// send sends a command.
func (ss *session) send(ctx context.Context, timeout time.Duration, cmd string) error {
	if !carried(cmd) {
		return fmt.Errorf("command %q: %w", cmd, backends.ErrName) // paths are checked before
	}
	if err := ss.begin(ctx, timeout); err != nil {
		return err
	}
	line := cmd
	if ss.sec != nil {
		var err error
		if line, err = ss.sec.wrap(cmd); err != nil {
			return ss.fail(ctx, cmd, err)
		}
	}
	if err := ss.sendLine(line); err != nil {
		return ss.fail(ctx, cmd, err)
	}
	return nil
}

// read reads the next reply, which has the time.
func (ss *session) read(ctx context.Context, timeout time.Duration) (reply, error) {
	if err := ss.begin(ctx, timeout); err != nil {
		ss.bad = true
		return reply{}, err
	}
	rep, err := ss.readWrapped()
	if err != nil {
		return rep, ss.fail(ctx, "wait for an answer", err)
	}
	ss.heard = true
	if rep.code == 421 {
		ss.bad = true
	}
	return rep, nil
}

func (ss *session) readWrapped() (reply, error) {
	if ss.sec == nil {
		return readReply(ss.r)
	}
	// One reply may come in several protected pieces, and one piece may hold several replies.
	for size := 0; ; {
		if held := ss.clear.Bytes(); len(held) > 0 {
			r := bytes.NewReader(held)
			b := bufio.NewReaderSize(r, 16)
			rep, err := readReply(b)
			if err == nil {
				ss.clear.Next(len(held) - r.Len() - b.Buffered())
				return rep, nil
			}
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				return rep, err
			}
		}
		outer, err := readReply(ss.r)
		if err != nil {
			return outer, err
		}
		text, err := ss.sec.unwrap(outer)
		if err != nil {
			return reply{}, err
		}
		if size += len(text); size > maxReply || len(text) == 0 {
			return reply{}, fmt.Errorf("%w: an answer of no or too many bytes", errProtocol)
		}
		ss.clear.Write(bytes.Trim(text, "\x00"))
		if !bytes.HasSuffix(text, []byte("\n")) {
			ss.clear.WriteString("\r\n")
		}
	}
}

// fail notes that nothing more can be had from the session.
func (ss *session) fail(ctx context.Context, what string, err error) error {
	ss.bad = true
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	what, _, _ = strings.Cut(what, " ")
	if what == "wait" {
		what = "control channel"
	}
	return network(what, err)
}

// command sends a command and reads its final reply, or one that wants more. 1xx replies on the way are taken as signs of life.
func (ss *session) command(ctx context.Context, timeout time.Duration, cmd string) (reply, error) {
	if err := ss.send(ctx, timeout, cmd); err != nil {
		return reply{}, err
	}
	return ss.final(ctx, timeout)
}

// ask is command for which everything but 2xx and 3xx is an error.
func (ss *session) ask(ctx context.Context, timeout time.Duration, cmd string) (reply, error) {
	rep, err := ss.command(ctx, timeout, cmd)
	if err == nil && rep.class() > 3 {
		err = refused(rep)
	}
	return rep, err
}

// final reads replies up to one that is not preliminary; every one has the whole time.
func (ss *session) final(ctx context.Context, timeout time.Duration) (reply, error) {
	for {
		rep, err := ss.read(ctx, timeout)
		if err != nil || rep.class() != 1 {
			return rep, err
		}
		if ss.marked != nil {
			ss.marked.note(rep)
		}
	}
}

// transfer sends a command whose data channel is ready, and reads the reply that says that it begins.
func (ss *session) transfer(ctx context.Context, timeout time.Duration, cmd string) error {
	if err := ss.send(ctx, timeout, cmd); err != nil {
		return err
	}
	rep, err := ss.read(ctx, timeout)
	if err != nil {
		return err
	}
	if rep.class() != 1 {
		if rep.class() < 4 {
			ss.bad = true
			return fmt.Errorf("%w: got %q to a transfer: %w", errProtocol, rep, backends.ErrUnavailable)
		}
		return refused(rep)
	}
	return nil
}

// finish reads the end of a transfer.
func (ss *session) finish(ctx context.Context, timeout time.Duration) error {
	rep, err := ss.final(ctx, timeout)
	if err != nil {
		return err
	}
	if rep.class() != 2 {
		return refused(rep)
	}
	return nil
}

// setMode chooses the blocks of MODE E or the plain stream of MODE S.
func (ss *session) setMode(ctx context.Context, timeout time.Duration, e bool) error {
	if ss.modeE == e {
		return nil
	}
	mode := map[bool]string{true: "MODE E", false: "MODE S"}[e]
	if _, err := ss.ask(ctx, timeout, mode); err != nil {
		return err
	}
	ss.modeE = e
	return nil
}

// setStreams says over how many connections the server may send in MODE E.
func (ss *session) setStreams(ctx context.Context, timeout time.Duration, n int) error {
	opts := fmt.Sprintf("OPTS RETR Parallelism=%d,%[1]d,%[1]d;", n)
	if ss.streams == opts {
		return nil
	}
	if _, err := ss.ask(ctx, timeout, opts); err != nil {
		return err
	}
	ss.streams = opts
	return nil
}

// passive makes the server listen for the data channel, and gives the address.
func (ss *session) passive(ctx context.Context, timeout time.Duration) (netip.AddrPort, error) {
	peer := addrOf(ss.conn.RemoteAddr())
	if peer.Addr().Is6() {
		rep, err := ss.ask(ctx, timeout, "EPSV")
		if err != nil {
			return netip.AddrPort{}, err
		}
		port, err := parseEPSV(rep.last())
		if err != nil {
			return netip.AddrPort{}, ss.fail(ctx, "EPSV", err)
		}
		return netip.AddrPortFrom(peer.Addr(), port), nil
	}
	rep, err := ss.ask(ctx, timeout, "PASV")
	if err != nil {
		return netip.AddrPort{}, err
	}
	to, err := parsePASV(strings.Join(rep.lines, " "))
	if err != nil {
		return netip.AddrPort{}, ss.fail(ctx, "PASV", err)
	}
	return reachable(to, peer.Addr()), nil
}

// reachable gives the address to connect to. A data channel may well lead to another host (dCache's pools, striped servers), but
// never from a public server into a private network or to ourselves: such an address is a server's that does not know its own.
func reachable(to netip.AddrPort, peer netip.Addr) netip.AddrPort {
	a := to.Addr()
	inner := func(a netip.Addr) int {
		switch {
		case a.IsLoopback():
			return 2
		case a.IsPrivate(), a.IsLinkLocalUnicast():
			return 1
		}
		return 0
	}
	if a.IsUnspecified() || a.IsMulticast() || inner(a) > inner(peer) {
		return netip.AddrPortFrom(peer, to.Port())
	}
	return to
}

func addrOf(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// abort asks the server to end a transfer, without waiting for what it says; the session is of no more use (Globus ends
// it as well).
func (ss *session) abort() {
	ss.bad = true
	line := "ABOR"
	if ss.sec != nil {
		var err error
		if line, err = ss.sec.wrap(line); err != nil {
			return
		}
	}
	ss.conn.SetDeadline(time.Now().Add(time.Second))
	ss.sendLine(line) // best effort: the connections end in any case
}

// close ends the session without manners if it is bad.
func (ss *session) close() {
	if !ss.bad {
		line := "QUIT"
		if ss.sec != nil {
			line, _ = ss.sec.wrap(line)
		}
		ss.conn.SetDeadline(time.Now().Add(time.Second))
		ss.sendLine(line)
	}
	ss.conn.Close()
}
