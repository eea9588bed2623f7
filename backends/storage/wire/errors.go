package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarn/backends"
	"tarn/backends/credential"
)

// Down is a server that may be there again soon. The cause is text only: no errno of ours may be
// taken for the user's file.
func Down(format string, args ...any) error {
	return fmt.Errorf("%s: %w, %w", fmt.Sprintf(format, args...), backends.ErrUnavailable, backends.ErrTemporary)
}

// Wrong is a server that trying again does not help with.
func Wrong(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), backends.ErrUnavailable)
}

// Broken says in words why there was no response, or no end of one. cred tells what may be wrong with the
// credentials when the server ends TLS.
func (f *Flight) Broken(err error, cred *credential.Source) error {
	if cerr := f.Caller.Err(); cerr != nil {
		return cerr
	}
	switch cause := context.Cause(f.Ctx); {
	case cause == errStalled:
		return Down("nothing moved for %v", f.d.Stall)
	case cause != nil && cause != context.Canceled:
		return cause
	}
	var (
		dns      *net.DNSError
		op       *net.OpError
		noTLS    tls.RecordHeaderError
		netErr   net.Error
		ours     *backends.OpError
		sentinel = errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrPermission)
	)
	switch {
	case sentinel || errors.As(err, &ours):
		return err
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return Wrong("the host %s does not resolve", dns.Name)
		}
		return Down("the host %s cannot be resolved", dns.Name)
	case errors.As(err, &noTLS):
		return Wrong("the server does not speak TLS at this port; is it plain http?")
	case errors.As(err, &op) && op.Op == "remote error": // its alert, mostly on our certificate or the lack of one
		return fmt.Errorf("the server ended TLS with %q: %s: %w", op.Err, cred.Hint(false), backends.ErrPermission)
	case errors.Is(err, syscall.ECONNREFUSED):
		return Down("connection refused: is the server running?")
	case errors.Is(err, errConnect):
		return Down("no connection within %v", f.d.Connect)
	case errors.As(err, &netErr) && netErr.Timeout():
		return Down("timed out")
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return Down("the server closed the connection")
	}
	return Down("%v", err)
}

// maxRetryAfter keeps a server from sending everybody away for good.
const maxRetryAfter = time.Hour

// RetryAfter reads the header of that name (RFC 9110 10.2.3): seconds or a date; 0 when it says nothing, at most an hour.
func RetryAfter(v string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.Atoi(v); err == nil {
		d = time.Duration(min(max(n, 0), int(maxRetryAfter/time.Second))) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// ContentRange reads the header of that name (RFC 9110 14.4), "bytes 0-99/1000"; total is -1 for "*".
func ContentRange(v string) (first, last, total int64, ok bool) {
	v, ok = strings.CutPrefix(v, "bytes ")
	span, all, ok2 := strings.Cut(v, "/")
	a, b, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			ok = false
		}
		return int64(n)
	}
	first, last, total = number(a), number(b), -1
	if all != "*" {
		total = number(all)
	}
	return first, last, total, ok
}
