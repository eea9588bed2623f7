//go:build xrdcl && cgo

package xrootd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"tarn/backends"
)

// Codes of XrdCl::Status (XrdClStatus.hh) that mean something of their own.
const (
	errInvalidOp     = 3
	errDataError     = 14
	errInvalidAddr   = 101
	errConnection    = 108
	errTLS           = 110
	errAuth          = 204
	errQuery         = 205
	errExpired       = 206
	errNoMoreSIDs    = 301
	errChecksum      = 305
	errRedirectLimit = 306
	errResponse      = 400
	errNotSupported  = 13
	errSocketTimeout = 103

	errWait = 1<<16 - 1 // not XrdCl's: the server wants us to come back later than we may
)

// Errors of servers (XErrorCode in XProtocol.hh).
const (
	xArgTooLong    = 3002
	xFileLocked    = 3003
	xFileNotOpen   = 3004
	xFSError       = 3005
	xIOError       = 3007
	xNoMemory      = 3008
	xNoSpace       = 3009
	xNotAuthorized = 3010
	xNotFound      = 3011
	xServerError   = 3012
	xUnsupported   = 3013
	xNoServer      = 3014
	xIsDirectory   = 3016
	xCancelled     = 3017
	xExists        = 3018
	xInProgress    = 3020
	xOverQuota     = 3021
	xOverloaded    = 3024
	xReadOnly      = 3025
	xTLSRequired   = 3028
	xNoReplicas    = 3029
	xAuthFailed    = 3030
	xTimedOut      = 3034
)

// serverWords are what refusals mean. What is not here is ErrUnavailable.
var serverWords = map[uint32]error{
	xArgTooLong: backends.ErrNameTooLong, xFileLocked: backends.ErrBusy, xNoSpace: backends.ErrNoSpace, xNotAuthorized: backends.ErrPermission,
	xNotFound: backends.ErrNotExist, xUnsupported: backends.ErrNotSupported, xIsDirectory: backends.ErrIsDir, xExists: backends.ErrExist,
	xInProgress: backends.ErrBusy, xOverQuota: backends.ErrQuota, xReadOnly: backends.ErrReadOnly, xTLSRequired: backends.ErrPermission,
	xAuthFailed: backends.ErrPermission,
}

// trouble is what may be over soon.
var trouble = []error{backends.ErrUnavailable, backends.ErrTemporary}

// passing are those of ErrUnavailable that may be over soon, in one file or in the whole server.
var passing = map[uint32][]error{
	xFileNotOpen: answered, xIOError: answered, xServerError: answered, xNoServer: answered, xCancelled: answered, xNoReplicas: answered,
	xNoMemory: trouble, xOverloaded: trouble, xTimedOut: trouble,
}

var answered = []error{&backends.AnsweredError{Err: fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrTemporary)}}

// failure is an answer that is no success.
type failure struct {
	code, errno uint32
	host        string // host:port, "" when not known
	what        string // for people
	words       []error
}

func (f *failure) Error() string   { return f.what }
func (f *failure) Unwrap() []error { return f.words }

// isServer tells whether the server answered with this error.
func isServer(err error, code uint32) bool {
	var f *failure
	return errors.As(err, &f) && f.code == errResponse && f.errno == code
}

// unfound tells whether an answer is that of a manager which found no server with the file (XrdCmsNode, XrdCmsFinder).
// It has the code of a file that does not exist, and means that or a server that is away: only the words are its own.
func unfound(a answer) bool {
	return a.code == errResponse && a.errno == xNotFound && (strings.HasPrefix(a.text, "No servers ") || strings.HasPrefix(a.text, "Unable to access file"))
}

// nowhere tells that a manager found no server with a file, or remembers that it did.
func nowhere(err error) bool {
	return isServer(err, xNotFound) && !errors.Is(err, backends.ErrNotExist)
}

// absent tells that as far as anybody knows there is no such file, where one that comes back is only in the way.
func absent(err error) bool { return errors.Is(err, backends.ErrNotExist) || nowhere(err) }

// broken tells that the connection or the open file is gone: a new one may help.
func broken(err error) bool {
	var f *failure
	if !errors.As(err, &f) {
		return false
	}
	switch f.code {
	case errAuth, errQuery, errExpired, errInvalidAddr, errWait:
		return false
	case errInvalidOp, errNoMoreSIDs:
		return true
	case errResponse:
		return f.errno == xFileNotOpen
	}
	return f.code/100 == 1 || f.code/100 == 2
}

// mustWait tells that a server has no place for a request now (kXR_wait).
func mustWait(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.code == errWait
}

// down is a server that may be there again soon.
func down(format string, args ...any) error {
	return fmt.Errorf("%s: %w, %w", fmt.Sprintf(format, args...), backends.ErrUnavailable, backends.ErrTemporary)
}

// silent is a server that gave no answer within d.
func silent(d time.Duration) error { return down("no answer within %v", d) }

// failed makes an error of an answer, nil when it is a success.
func (s *Storage) failed(a answer) error {
	if a.code == 0 {
		return nil
	}
	f := &failure{code: uint32(a.code), errno: a.errno, host: a.host}
	text := printable(a.text)
	say := func(words []error, format string, args ...any) *failure {
		f.what, f.words = fmt.Sprintf(format, args...), words
		for _, w := range words {
			f.what += ": " + w.Error()
		}
		return f
	}
	switch a.code {
	case errResponse:
		word := serverWords[a.errno]
		switch {
		case unfound(a):
			return say(answered, "the server says %q, of one that is away or a file that is not there", text)
		case a.errno == xTLSRequired:
			return say([]error{word}, "the server wants TLS, which roots:// has (%s)", text)
		case word == backends.ErrPermission:
			return say([]error{word}, "the server says %q: %s", text, s.hint())
		case word != nil:
			return say([]error{word}, "the server says %q", text)
		case passing[a.errno] != nil:
			return say(passing[a.errno], "the server says %q (%d)", text, a.errno)
		}
		return say(trouble[:1], "the server says %q (%d)", text, a.errno)
	case errAuth:
		return say([]error{backends.ErrPermission}, "the server and we have no way to authenticate in common that works (%s): %s", text, s.hint())
	case errInvalidAddr:
		return say(trouble[:1], "the host of %s does not resolve", s.end.addr)
	case errConnection:
		return say(trouble, "no connection")
	case errTLS:
		return say(trouble, "TLS with %s failed: is its certificate of an authority that X509_CERT_DIR or the system has, and for this name?", s.end.addr)
	case errWait:
		return say(answered, "the server is busy, and says to come back later")
	case errExpired, errSocketTimeout:
		return say(trouble, "no answer in time")
	case errNotSupported, errQuery:
		return say([]error{backends.ErrNotSupported}, "%s", text)
	case errRedirectLimit:
		return say(trouble[:1], "the server sends us round in a circle")
	case errDataError, errChecksum:
		return say(trouble, "the bytes were damaged on their way")
	}
	if a.errno > 0 && a.errno < 1000 {
		return say(trouble, "%s (error %d of libXrdCl)", syscall.Errno(a.errno).Error(), a.code)
	}
	return say(trouble, "the connection was lost (%s)", cmp.Or(text, fmt.Sprintf("error %d of libXrdCl", a.code)))
}

func (s *Storage) hint() string {
	if s.o.Credentials == nil {
		return "are there credentials?"
	}
	t, _ := s.o.Credentials.Token()
	return s.o.Credentials.Hint(t.Secret != "" && s.end.scheme == "roots")
}

// printable is what a server says, for a line of a log.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "..."
	}
	return strings.TrimSpace(text)
}

// whyNot says in words why there is no connection, which the library does not tell.
func (s *Storage) whyNot(addr string) string {
	if addr == "" || strings.HasPrefix(addr, ":") {
		addr = s.end.addr
	}
	c, err := net.DialTimeout("tcp", addr, time.Second)
	var dns *net.DNSError
	switch {
	case err == nil:
		c.Close()
		return "the server " + addr + " does not speak with us"
	case errors.As(err, &dns):
		return "the host of " + addr + " does not resolve"
	case errors.Is(err, syscall.ECONNREFUSED):
		return addr + ": connection refused: is the server running?"
	}
	return addr + " cannot be reached"
}

// edge is where errors leave the backend.
func (s *Storage) edge(op, path string, err error) error {
	var ours *backends.OpError
	if err == nil || errors.As(err, &ours) {
		return err
	}
	var f *failure
	if errors.As(err, &f) && f.code == errConnection {
		err = fmt.Errorf("%s: %w", s.whyNot(f.host), err)
	}
	if err == context.Canceled || err == context.DeadlineExceeded {
		return fmt.Errorf("%s %s: %w", op, s.at(path), err)
	}
	return &backends.OpError{Op: op, At: s.at(path), Err: err}
}
