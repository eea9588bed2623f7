package webdav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"unicode"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

var down, wrong = wire.Down, wire.Wrong

// broken says in words why there was no response.
func (s *Storage) broken(f *wire.Flight, err error) error { return f.Broken(err, s.o.Credentials) }

// statusError is a response that is no success.
type statusError struct {
	status int
	text   string
	word   error // nil for what only says that the server has trouble
}

func (e *statusError) Error() string {
	t := fmt.Sprintf("status %d", e.status)
	if e.text != "" {
		t += " (" + e.text + ")"
	}
	return t + ": " + e.word.Error()
}

func (e *statusError) Unwrap() error { return e.word }

// errTrouble is what may be over soon.
var errTrouble = fmt.Errorf("%w, %w", backends.ErrUnavailable, backends.ErrTemporary)

// words are what the statuses mean that mean the same everywhere. All others are trouble with the file.
var words = map[int]error{
	http.StatusUnauthorized:          backends.ErrPermission,
	http.StatusForbidden:             backends.ErrPermission,
	http.StatusNotFound:              backends.ErrNotExist,
	http.StatusGone:                  backends.ErrNotExist,
	http.StatusMethodNotAllowed:      backends.ErrNotSupported,
	http.StatusNotImplemented:        backends.ErrNotSupported,
	http.StatusPreconditionFailed:    backends.ErrStale,
	http.StatusRequestURITooLong:     backends.ErrNameTooLong,
	http.StatusRequestEntityTooLarge: fmt.Errorf("the server takes no file of this size; its administrator can let it (LimitRequestBody, client_max_body_size): %w", backends.ErrNoSpace),
	http.StatusInsufficientStorage:   backends.ErrNoSpace,
	http.StatusLocked:                fmt.Errorf("%w, %w", backends.ErrBusy, backends.ErrTemporary),
	http.StatusRequestTimeout:        errTrouble,
	http.StatusTooEarly:              errTrouble,
	http.StatusTooManyRequests:       errTrouble,
	http.StatusBadGateway:            errTrouble,
	http.StatusServiceUnavailable:    errTrouble,
	http.StatusGatewayTimeout:        errTrouble,
}

// refused turns a status into an error, with what the server says and, for who was refused, what may
// be wrong with the credentials.
func (s *Storage) refused(resp *http.Response, token string) error {
	e := &statusError{status: resp.StatusCode, text: plainText(resp, token), word: words[resp.StatusCode]}
	switch {
	case e.word == nil && resp.StatusCode >= 500:
		e.word = &backends.AnsweredError{Err: errTrouble} // with this file: its neighbour may be on another disk
	case e.word == nil:
		e.word = backends.ErrUnavailable
	case e.word == backends.ErrPermission:
		hint := "plain HTTP shows no credentials; does the server have https?"
		if s.base.Scheme == "https" {
			hint = s.o.Credentials.Hint(token != "")
		}
		return fmt.Errorf("%w; %s", e, hint)
	}
	if after := wire.RetryAfter(resp.Header.Get("Retry-After"), s.o.Now()); after > 0 && backends.IsTemporary(e.word) {
		return &backends.LaterError{After: after, Err: e}
	}
	return e
}

// plainText is the short message of a server; pages and anything secret are left out.
func plainText(resp *http.Response, token string) string {
	b := make([]byte, maxText)
	n, _ := io.ReadFull(resp.Body, b)
	secrets := []string{token}
	if resp.Request != nil { // that of the other server, in a copy between two
		for name, v := range resp.Request.Header {
			if name == transferToken && len(v) > 0 {
				secrets = append(secrets, strings.TrimPrefix(v[0], "Bearer "))
			}
		}
	}
	return tidy(string(b[:n]), secrets...)
}

// transferToken is the header of a COPY that has the token for the other server, in the letters that some servers want.
const transferToken = "TransferHeaderAuthorization"

// maxText is how much of what a server says is shown.
const maxText = 300

// tidy is plainText of a text, without any of the secrets.
func tidy(text string, secrets ...string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxText)], "")
	if strings.Contains(text, "<") {
		return ""
	}
	for _, s := range secrets {
		if s != "" && strings.Contains(text, s[:min(len(s), 20)]) {
			return ""
		}
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	return strings.TrimSpace(text)
}

func status(err error) int {
	var e *statusError
	if errors.As(err, &e) {
		return e.status
	}
	return 0
}

// absent turns what servers say of a path that passes through a file into "not there": XRootD calls it an
// internal error, Apache a bad request. It asks for what is above.
func (s *Storage) absent(ctx context.Context, p string, err error) error {
	switch st := status(err); st {
	case http.StatusInternalServerError, http.StatusConflict, http.StatusBadRequest:
		if s.throughFile(ctx, p) {
			return fmt.Errorf("%v: %w", http.StatusText(st), backends.ErrNotExist)
		}
	}
	return err
}

// throughFile tells whether something above p is a file.
func (s *Storage) throughFile(ctx context.Context, p string) bool {
	for p = path.Dir(p); p != "." && ctx.Err() == nil; p = path.Dir(p) {
		if a, err := s.stat0(ctx, p); err == nil {
			return !a.IsDir
		}
	}
	return false
}
