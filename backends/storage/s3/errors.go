package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/minio/minio-go/v7"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

var down, wrong = wire.Down, wire.Wrong

// serverError is a refusal by the server.
type serverError struct {
	code   string // S3's word, or the status
	text   string // of the server
	status int
	word   error
}

func (e *serverError) Error() string {
	t := e.code
	if e.text != "" {
		t += " (" + e.text + ")"
	}
	return t + ": " + e.word.Error()
}

func (e *serverError) Unwrap() error { return e.word }

// errTrouble is what may be over soon.
var errTrouble = fmt.Errorf("%w, %w", backends.ErrUnavailable, backends.ErrTemporary)

// errAnswered is trouble with one object.
var errAnswered = &backends.AnsweredError{Err: errTrouble}

// errChanged is what has changed on its way to the server.
var errChanged = fmt.Errorf("the bytes changed on their way: %w", backends.ErrCorrupt)

// codes are S3's words (API Reference, "Error responses"), and some of its other servers.
var codes = map[string]error{
	"NoSuchKey":     backends.ErrNotExist,
	"NoSuchVersion": backends.ErrNotExist,
	"NoSuchUpload":  backends.ErrNotExist,

	"AccessDenied":          backends.ErrPermission,
	"AccessForbidden":       backends.ErrPermission,
	"AllAccessDisabled":     backends.ErrPermission,
	"AccountProblem":        backends.ErrPermission,
	"InvalidAccessKeyId":    backends.ErrPermission,
	"XAdminUserNotFound":    backends.ErrPermission, // versitygw's
	"SignatureDoesNotMatch": backends.ErrPermission,
	"ExpiredToken":          backends.ErrPermission,
	"InvalidToken":          backends.ErrPermission,
	"TokenRefreshRequired":  backends.ErrPermission,

	"PreconditionFailed":  backends.ErrStale,
	"InvalidRange":        backends.ErrStale,
	"InvalidObjectState":  backends.ErrOffline,
	"KeyTooLongError":     backends.ErrNameTooLong,
	"EntityTooLarge":      backends.ErrNotSupported,
	"MethodNotAllowed":    backends.ErrNotSupported,
	"NotImplemented":      backends.ErrNotSupported,
	"QuotaExceeded":       backends.ErrQuota,
	"InsufficientStorage": backends.ErrNoSpace,
	"XMinioStorageFull":   backends.ErrNoSpace,

	// Where files are objects a folder can be in the way, and a file.
	"ExistingObjectIsDirectory":     backends.ErrIsDir,
	"XMinioObjectExistsAsDirectory": backends.ErrIsDir,
	"ObjectParentIsFile":            backends.ErrNotDir,
	"XMinioParentIsObject":          backends.ErrNotDir,

	"BadDigest":                   errChanged,
	"InvalidDigest":               errChanged,
	"XAmzContentSHA256Mismatch":   errChanged,
	"XAmzContentChecksumMismatch": errChanged,

	"InvalidPart":                errAnswered, // somebody has removed it
	"IncompleteBody":             errAnswered,
	"InternalError":              errAnswered,
	"OperationAborted":           errAnswered,
	"RequestTimeout":             errTrouble,
	"ServiceUnavailable":         errTrouble,
	"SlowDown":                   errTrouble,
	"SlowDownRead":               errTrouble,
	"SlowDownWrite":              errTrouble,
	"Throttling":                 errTrouble,
	"ThrottlingException":        errTrouble,
	"RequestLimitExceeded":       errTrouble,
	"BandwidthLimitExceeded":     errTrouble,
	"XMinioServerNotInitialized": errTrouble,
}

// statuses are for what has no code that we know. All others are trouble with the object.
var statuses = map[int]error{
	http.StatusUnauthorized:                 backends.ErrPermission,
	http.StatusForbidden:                    backends.ErrPermission,
	http.StatusNotFound:                     backends.ErrNotExist,
	http.StatusMethodNotAllowed:             backends.ErrNotSupported,
	http.StatusNotImplemented:               backends.ErrNotSupported,
	http.StatusPreconditionFailed:           backends.ErrStale,
	http.StatusRequestedRangeNotSatisfiable: backends.ErrStale,
	http.StatusInsufficientStorage:          backends.ErrNoSpace,
	http.StatusRequestTimeout:               errTrouble,
	http.StatusTooManyRequests:              errTrouble,
	http.StatusBadGateway:                   errTrouble,
	http.StatusServiceUnavailable:           errTrouble,
	http.StatusGatewayTimeout:               errTrouble,
}

// words says what went wrong in a request: what the transport saw, or what the server says.
func (s *Storage) words(ctx context.Context, c *call, err error) error {
	var e minio.ErrorResponse
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case s.ctx.Err() != nil:
		return backends.ErrClosed
	case c.err != nil:
		return c.err
	case errors.Is(err, backends.ErrPermission), errors.Is(err, backends.ErrUnavailable), errors.Is(err, backends.ErrDamaged), errors.Is(err, backends.ErrClosed):
		return err
	case !errors.As(err, &e):
		return wrong("the server's answer makes no sense: %s", plain(err.Error()))
	}
	return s.refused(c, e)
}

// refused turns S3's error into ours, with what the server says and, for who was refused, what may be wrong.
func (s *Storage) refused(c *call, e minio.ErrorResponse) error {
	status := e.StatusCode
	switch {
	case status == 0 && c.status/100 == 2: // it is the client library's own
		return wrong("the server's answer makes no sense: %s", plain(e.Message))
	case status == 0:
		status = c.status
	}
	out := &serverError{code: plain(e.Code), text: plain(e.Message), status: status, word: codes[e.Code]}
	if out.word == nil {
		out.word = statuses[status]
	}
	switch {
	case e.Code == "NoSuchBucket":
		return wrong("the bucket %s is not there; make it, or correct the URL", s.bucket)
	case e.Code == "RequestTimeTooSkewed":
		return wrong("the server refuses requests because its clock and the one of this machine are far apart; set it right (NTP)")
	case slices.Contains([]string{"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}, e.Code):
		return wrong("the bucket %s is in another region or at another host: %s", s.bucket, out.text)
	case out.word == nil && status >= 500:
		out.word = errAnswered
	case out.word == nil:
		out.word = backends.ErrUnavailable
	}
	switch {
	case out.word == backends.ErrPermission:
		return fmt.Errorf("%w; %s", out, s.hint(e.Code))
	case c.header != nil && backends.IsTemporary(out.word):
		if after := wire.RetryAfter(c.header.Get("Retry-After"), s.o.Now()); after > 0 {
			return &backends.LaterError{After: after, Err: out}
		}
	}
	return out
}

// hint says what may be wrong with the keys.
func (s *Storage) hint(code string) string {
	k, err := s.o.Credentials.Keys(s.o.KeyFile)
	if err != nil || k.Secret == "" {
		return s.o.Credentials.KeysHint(s.o.KeyFile)
	}
	switch code {
	case "InvalidAccessKeyId", "XAdminUserNotFound":
		return fmt.Sprintf("the server does not know the access key %s of %s", k.Access, k.From)
	case "SignatureDoesNotMatch":
		return fmt.Sprintf("the secret key of %s is not the one of %s", k.From, k.Access)
	case "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		return fmt.Sprintf("the session of the keys of %s is over; get new ones", k.From)
	}
	return s.o.Credentials.KeysHint(s.o.KeyFile)
}

// plain is a server's text, short and without anything that moves a terminal.
func plain(text string) string {
	text = strings.ToValidUTF8(text, "")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "")
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text))
}

// code is S3's word for an error, "" for others.
func code(err error) string {
	var e *serverError
	if errors.As(err, &e) {
		return e.code
	}
	return ""
}
