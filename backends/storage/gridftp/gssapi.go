package gridftp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"tarn/backends"
)

// wrapping is the security of a control channel: TLS whose records travel as base64, in ADAT commands and 33z replies
// while the handshake lasts (RFC 2228 section 3), in ENC commands and 63z replies from then on. To crypto/tls it is a connection.
type wrapping struct {
	s         *session
	tls       *tls.Conn
	in, out   bytes.Buffer
	handshake bool
	last      reply // of the handshake
}

// errEmpty is what crypto/tls hears when a reply was taken whole: a temporary error, so that it goes on with the next.
type errEmpty struct{}

func (errEmpty) Error() string   { return "no more records" }
func (errEmpty) Timeout() bool   { return true }
func (errEmpty) Temporary() bool { return true }

func (w *wrapping) Write(p []byte) (int, error) { return w.out.Write(p) }

func (w *wrapping) Read(p []byte) (int, error) {
	if w.in.Len() == 0 {
		if !w.handshake {
			return 0, errEmpty{}
		}
		if err := w.exchange(); err != nil {
			return 0, err
		}
	}
	return w.in.Read(p)
}

// exchange sends the records that are due and takes those of the answer.
func (w *wrapping) exchange() error {
	if w.out.Len() > 0 {
		if err := w.s.sendLine("ADAT " + base64.StdEncoding.EncodeToString(w.out.Bytes())); err != nil {
			return err
		}
		w.out.Reset()
	}
	rep, err := readReply(w.s.r)
	if err != nil {
		return err
	}
	w.last = rep
	if rep.class() >= 4 {
		return refused(rep)
	}
	for _, l := range rep.lines {
		if _, b64, ok := strings.Cut(l, "ADAT="); ok {
			b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(b64))
			if err != nil {
				return fmt.Errorf("%w: ADAT that is not base64", errProtocol)
			}
			w.in.Write(b)
		}
	}
	if rep.code != 235 && w.in.Len() == 0 {
		return fmt.Errorf("%w: got %q in the handshake", errProtocol, rep)
	}
	return nil
}

// What crypto/tls asks of a connection besides; the deadlines are set on the control channel itself.
func (w *wrapping) Close() error                     { return nil }
func (w *wrapping) LocalAddr() net.Addr              { return w.s.conn.LocalAddr() }
func (w *wrapping) RemoteAddr() net.Addr             { return w.s.conn.RemoteAddr() }
func (w *wrapping) SetDeadline(time.Time) error      { return nil }
func (w *wrapping) SetReadDeadline(time.Time) error  { return nil }
func (w *wrapping) SetWriteDeadline(time.Time) error { return nil }

// authenticate makes the session GSI's: AUTH GSSAPI, the handshake, and the byte that says "nothing is delegated" (GFD.020
// and the Globus GSSAPI; with DCAU N the server needs no credential of ours).
func (s *session) authenticate(ctx context.Context, o *Options, host string) error {
	switch p, err := o.Credentials.Proxy(); {
	case errors.Is(err, backends.ErrPermission):
		return err
	case err != nil:
		return fmt.Errorf("%v: %w", err, backends.ErrPermission)
	case p.Cert == nil:
		return fmt.Errorf("no proxy was found: set X509_USER_PROXY, or make one with voms-proxy-init: %w", backends.ErrPermission)
	}
	rep, err := s.command(ctx, o.Timeout, "AUTH GSSAPI")
	if err != nil {
		return err
	}
	if rep.code != 334 {
		return fmt.Errorf("the server does not know grid certificates (%q to AUTH GSSAPI): use ftp:// if it is meant to be anonymous: %w", rep, backends.ErrNotSupported)
	}
	if err := s.begin(ctx, o.Timeout); err != nil {
		return err
	}
	w := &wrapping{s: s, handshake: true}
	conf := o.Credentials.GSIConfig(host)
	conf.MaxVersion, conf.DynamicRecordSizingDisabled = o.maxTLS, true
	w.tls = tls.Client(w, conf)
	if err := w.tls.HandshakeContext(context.WithoutCancel(ctx)); err != nil {
		return handshakeError(err)
	}
	if w.tls.ConnectionState().Version >= tls.VersionTLS13 {
		// The server's part ends after ours, with tickets and one byte of data.
		if err := w.exchange(); err != nil {
			return handshakeError(err)
		}
		if _, err := w.tls.Read(make([]byte, 1)); err != nil {
			return handshakeError(err)
		}
	}
	if _, err := w.tls.Write([]byte("0")); err != nil {
		return err
	}
	if err := w.exchange(); err != nil {
		return handshakeError(err)
	}
	if w.last.code != 235 {
		return fmt.Errorf("%w: got %q after the handshake", errProtocol, w.last)
	}
	w.handshake = false
	s.sec = w
	return nil
}

// handshakeError keeps the answer of a server that refuses us, which crypto/tls wraps. What we have against the server may be
// over soon: authorities, lists and host certificates are renewed while programs run.
func handshakeError(err error) error {
	var r *replyError
	if errors.As(err, &r) {
		if r.word == backends.ErrUnavailable || r.word == backends.ErrNotSupported {
			r = &replyError{r.reply, backends.ErrPermission}
		}
		return fmt.Errorf("the server refuses the certificate (expired, revoked, or of an authority it does not trust): %w", r)
	}
	if errors.Is(err, backends.ErrUnavailable) {
		return fmt.Errorf("%w, %w", err, backends.ErrTemporary)
	}
	return err
}

// wrap makes the ENC command of a command.
func (w *wrapping) wrap(cmd string) (string, error) {
	if _, err := w.tls.Write([]byte(cmd + "\r\n")); err != nil {
		return "", err
	}
	defer w.out.Reset()
	return "ENC " + base64.StdEncoding.EncodeToString(w.out.Bytes()), nil
}

// unwrap gives the text in one 63z reply.
func (w *wrapping) unwrap(rep reply) ([]byte, error) {
	if rep.code != 631 && rep.code != 632 && rep.code != 633 {
		return nil, fmt.Errorf("%w: got %q in clear", errProtocol, rep)
	}
	for _, l := range rep.lines {
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(l))
		if err != nil {
			return nil, fmt.Errorf("%w: a protected answer that is not base64", errProtocol)
		}
		w.in.Write(b)
	}
	var text []byte
	buf := make([]byte, 16<<10)
	for {
		n, err := w.tls.Read(buf)
		text = append(text, buf[:n]...)
		if errors.As(err, new(errEmpty)) {
			return text, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %v", errProtocol, err)
		}
		if len(text) > maxReply {
			return nil, fmt.Errorf("%w: an answer of more than %d bytes", errProtocol, maxReply)
		}
	}
}
