package gridftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"tarn/backends"
)

// brokenError is a session or data connection that broke: nothing more comes of it, and a new one may help.
type brokenError struct{ error }

func (e brokenError) Unwrap() error { return e.error }

func broken(err error) bool {
	var b brokenError
	return errors.As(err, &b)
}

// replyError is an answer that refuses.
type replyError struct {
	reply reply
	word  error // of package backends
}

func (e *replyError) Error() string {
	return fmt.Sprintf("the server says %q: %v", e.reply.String(), e.word)
}

func (e *replyError) Unwrap() error {
	switch {
	case e.word != backends.ErrUnavailable:
		return e.word
	case e.reply.code == 421 || e.reply.code == 425: // RFC 959, 4.2.2: no service, no data connection
		return errTrouble
	}
	return &backends.AnsweredError{Err: errTrouble}
}

// errTrouble is what may be over soon.
var errTrouble = fmt.Errorf("%w, %w", backends.ErrUnavailable, backends.ErrTemporary)

// globusErrors are the words of "GlobusError: v=1 c=WORD".
var globusErrors = map[string]error{
	"PATH_NOT_FOUND": backends.ErrNotExist, "PATH_EXISTS": backends.ErrExist, "IS_A_DIRECTORY": backends.ErrIsDir,
	"NOT_A_DIRECTORY": backends.ErrNotDir, "DIR_NOT_EMPTY": backends.ErrNotEmpty, "PERMISSION_DENIED": backends.ErrPermission,
	"PERM_DENIED": backends.ErrPermission, "NO_SPACE_LEFT": backends.ErrNoSpace, "QUOTA_EXCEEDED": backends.ErrQuota, "LOGIN_DENIED": backends.ErrPermission,
}

// errnos are the numbers of "GridFTP-Errno: N", those of Linux.
var errnos = map[syscall.Errno]error{
	syscall.ENOENT: backends.ErrNotExist, syscall.EEXIST: backends.ErrExist, syscall.EISDIR: backends.ErrIsDir, syscall.ENOTDIR: backends.ErrNotDir,
	syscall.ENOTEMPTY: backends.ErrNotEmpty, syscall.EACCES: backends.ErrPermission, syscall.EPERM: backends.ErrPermission, syscall.EROFS: backends.ErrReadOnly,
	syscall.ENOSPC: backends.ErrNoSpace, syscall.EDQUOT: backends.ErrQuota, syscall.ENAMETOOLONG: backends.ErrNameTooLong, syscall.ELOOP: backends.ErrLoop,
	syscall.EBUSY: backends.ErrBusy, syscall.EXDEV: backends.ErrNotSupported,
}

// word gives what a refusal means. Globus names the error for most commands; for transfers it gives the text of the C
// library at the end of a line and nothing else, so that this has to be known as well. What is left is the code.
func word(r reply) error {
	for _, l := range r.lines {
		if _, rest, ok := strings.Cut(l, "GlobusError: "); ok {
			for _, f := range strings.Fields(rest) {
				if e, ok := globusErrors[strings.TrimPrefix(f, "c=")]; ok {
					return e
				}
			}
		}
		if _, rest, ok := strings.Cut(l, "GridFTP-Errno: "); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(rest)); err == nil && errnos[syscall.Errno(n)] != nil {
				return errnos[syscall.Errno(n)]
			}
		}
	}
	for _, l := range r.lines {
		for n, e := range errnos {
			if hasSuffixFold(strings.TrimRight(l, ". "), n.Error()) {
				return e
			}
		}
	}
	switch r.code {
	case 452, 552:
		return backends.ErrNoSpace
	case 530, 532, 533, 534, 535, 536, 537:
		return backends.ErrPermission
	case 550:
		return backends.ErrNotExist
	case 553:
		return backends.ErrName
	case 500, 501, 502, 503, 504:
		if len(r.lines) == 1 {
			return backends.ErrNotSupported
		}
	}
	return backends.ErrUnavailable
}

func hasSuffixFold(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}

// refused makes an error of a reply.
func refused(r reply) error {
	if r.code == 521 || r.code == 534 && strings.Contains(strings.ToLower(r.String()), "data conn") { // RFC 2228, 5.1
		return unprotected(r)
	}
	err := error(&replyError{r, word(r)})
	if r.code == 421 { // the server says good-bye
		return brokenError{err}
	}
	return err
}

// unprotected is of a server that refuses data channels as ours are.
func unprotected(rep reply) error {
	return fmt.Errorf("the server wants data channels authenticated (DCAU A) or encrypted (PROT P), and those of tarn are neither: its operators can allow DCAU N, or another protocol has to lead there, such as davs (%q): %w", rep, backends.ErrNotSupported)
}

// network gives an error of a connection in words. It is always brokenError.
func network(what string, err error) error {
	if err == nil || broken(err) {
		return err
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return brokenError{fmt.Errorf("%s: %w", what, err)}
	case errors.As(err, &dns) && dns.IsNotFound:
		err = fmt.Errorf("the host name %s does not resolve", dns.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		err = errors.New("connection refused: no server listens there")
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("no sign of the server in time")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		err = errors.New("the server closed the connection")
	case errors.Is(err, errProtocol):
		return brokenError{fmt.Errorf("%s: %w: %w", what, err, backends.ErrUnavailable)}
	default:
		err = errors.New(err.Error()) // nothing of the local system's errors may be taken for the storage's
	}
	return brokenError{fmt.Errorf("%s: %w: %w", what, err, errTrouble)}
}

// opError is the edge of the backend.
func (s *Storage) opError(op, path string, err error) error {
	var ours *backends.OpError
	if err == nil || errors.As(err, &ours) {
		return err
	}
	if err == context.Canceled || err == context.DeadlineExceeded {
		return fmt.Errorf("%s %s: %w", op, s.at(path), err)
	}
	return &backends.OpError{Op: op, At: s.at(path), Err: err}
}
