package rest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tarn/backends"
)

// Error is a refusal by the server. It unwraps to one of backends' errors, by the ExceptionClass: statuses are not
// reliable (a refusal may be a 500).
type Error struct {
	Status  int
	Class   string // Rucio's exception; "" when the server, or a proxy before it, gave none
	Message string // without what databases say
	Method  string
	Route   string
	is      error
}

// Error gives the route, and what the server said.
func (e *Error) Error() string {
	said := e.Class
	if e.Message != "" {
		said = strings.TrimPrefix(e.Class+": "+e.Message, ": ")
	}
	if said == "" {
		said = http.StatusText(e.Status)
	}
	return fmt.Sprintf("%s %s: %d %s: %v", e.Method, e.Route, e.Status, said, e.is)
}

// Unwrap gives the class of the error in tarn's words.
func (e *Error) Unwrap() error { return e.is }

// Is tells whether an error is a refusal of one of these exception classes.
func Is(err error, classes ...string) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range classes {
		if e.Class == c {
			return true
		}
	}
	return false
}

var (
	errDown      = fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrTemporary)
	errBadAnswer = fmt.Errorf("the server fails: %w", backends.ErrUnavailable)
)

// classes is what exceptions of lib/rucio/common/exception.py mean.
var classes = byClass(map[error][]string{
	backends.ErrNotExist: {
		"DataIdentifierNotFound", "ScopeNotFound", "ReplicaNotFound", "RSENotFound", "RuleNotFound", "RequestNotFound", "AccountNotFound",
		"KeyNotFound", "RSEAttributeNotFound", "IdentityNotFound",
	},
	backends.ErrPermission: {
		"AccessDenied", "CannotAuthenticate", "CannotAuthorize", "MissingClientParameter", "IdentityError", "ScopeAccessDenied",
		"RSEAccessDenied", "VONotFound",
	},
	backends.ErrExist: { // FileConsistencyMismatch: the name has another content
		"DataIdentifierAlreadyExists", "FileAlreadyExists", "DuplicateContent", "DuplicateRule", "Duplicate", "FileReplicaAlreadyExists",
		"FileConsistencyMismatch",
	},
	backends.ErrNotSupported: { // what it is refused for, not who asks
		"UnsupportedOperation", "UnsupportedStatus", "InsufficientTargetRSEs", "InvalidRSEExpression", "InvalidMetadata",
		"InvalidReplicationRule", "InvalidRuleWeight", "ManualRuleApprovalBlocked", "StagingAreaRuleRequiresLifetime",
		"ScratchDiskLifetimeConflict", "InvalidSourceReplicaExpression", "UnsupportedDIDType", "UnsupportedValueType", "UnsupportedKeyType",
		"RSEOperationNotSupported", "RSEProtocolNotSupported", "RSEProtocolDomainNotSupported", "DuplicateCriteriaInDIDFilter",
		"DIDFilterSyntaxError", "FilterEngineGenericError", "MetadataSchemaMismatchError", "UnsupportedMetadataPlugin",
		"SortingAlgorithmNotSupported", "InvalidAlgorithmName",
	},
	backends.ErrQuota: {
		"InsufficientAccountLimit",
	},
	backends.ErrNoSpace: {
		"RSEOverQuota", "FullStorage",
	},
	backends.ErrBusy: {
		"ReplicaIsLocked",
	},
	backends.ErrName: {
		"InvalidObject", "InputValidationError", "InvalidValueForKey", "InvalidType", "InvalidPath", "NameTypeError", "RSEFileNameNotSupported",
		"UnsupportedAccountName",
	},
	errDown: { // and nothing was done
		"ResourceTemporaryUnavailable", "DatabaseException", "ServerConnectionException", "ReplicationRuleCreationTemporaryFailed",
		"ServiceUnavailable",
	},
	backends.ErrReadOnly: {
		"RSEWriteBlocked",
	},
})

func byClass(lists map[error][]string) map[string]error {
	out := map[string]error{}
	for err, classes := range lists {
		for _, c := range classes {
			out[c] = err
		}
	}
	return out
}

// refusal makes an error of an answer that is none of success.
func (c *Client) refusal(k call, r *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	e := &Error{Status: r.StatusCode, Method: k.method, Route: k.route, Class: r.Header.Get("ExceptionClass"), Message: r.Header.Get("ExceptionMessage")}
	var body struct{ ExceptionClass, ExceptionMessage string }
	if json.Unmarshal(b, &body) == nil && body.ExceptionClass != "" {
		e.Class, e.Message = body.ExceptionClass, body.ExceptionMessage
	}
	e.Class = word(e.Class)
	e.Message = clean(e.Message)
	if e.Class == "DatabaseException" {
		e.Message = "" // SQL, and what was in it
	}
	after := retryAfter(r.Header.Get("Retry-After"), c.o.Now())
	is, known := classes[e.Class]
	switch {
	case known:
		e.is = is
	case r.StatusCode == http.StatusBadGateway, r.StatusCode == http.StatusServiceUnavailable, r.StatusCode == http.StatusGatewayTimeout, r.StatusCode == http.StatusTooManyRequests:
		e.is = errDown
	case r.StatusCode == http.StatusUnauthorized, r.StatusCode == http.StatusForbidden:
		e.is = backends.ErrPermission
	case e.Class != "": // it is what it is, also the next time
		e.is = errBadAnswer
	case r.StatusCode == http.StatusNotFound, r.StatusCode == http.StatusMethodNotAllowed:
		// No exception: it is the route that is not there, which says nothing of a file.
		e.is = fmt.Errorf("the server has no such route; is %s the right address, and does a proxy before it keep encoded slashes? %w", c.o.Config.Host, backends.ErrUnavailable)
	case r.StatusCode < 400 && r.Header.Get("Location") != "":
		e.is = fmt.Errorf("the server says that it is elsewhere: set rucio_host to the address it has there (%s): %w", place(r.Header.Get("Location")), backends.ErrUnavailable)
	case r.StatusCode >= 500: // a fault of the server's own; no use to insist
		e.is = errBadAnswer
	default:
		e.is = errBadAnswer
	}
	if after > 0 && backends.IsTemporary(e) {
		return &backends.LaterError{After: after, Err: e}
	}
	return e
}

// place is the scheme and host of an address.
func place(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "?"
	}
	return u.Scheme + "://" + u.Host
}

// word is the name of a class, "" for what is none.
func word(s string) string {
	if len(s) > 100 || strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_')
	}) {
		return ""
	}
	return s
}

// sql is where a database begins to speak of itself.
var sql = regexp.MustCompile(`\[SQL:|\[parameters:|\((psycopg|sqlite3|cx_Oracle|oracledb|pymysql|MySQLdb|mysql|sqlalchemy|builtins)|ORA-\d|DETAIL:|` +
	`\b(INSERT INTO|UPDATE \S+ SET|DELETE FROM|SELECT .{1,200} FROM)\b|\(Background on this error`)

// clean takes away what databases tell of themselves.
func clean(msg string) string {
	msg = strings.Join(strings.Fields(strings.ToValidUTF8(msg, "?")), " ")
	if at := sql.FindStringIndex(msg); at != nil {
		msg = strings.TrimRight(msg[:at[0]], " :")
	}
	if len(msg) > 500 {
		msg = strings.ToValidUTF8(msg[:500], "") + "…"
	}
	return msg
}

// broken is for a request whose answer did not come, or not whole. That it was given up by the caller is told as such; a time-out of the network's
// own, which calls itself context.DeadlineExceeded too, is not.
func (c *Client) broken(ctx context.Context, k call, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return fmt.Errorf("%s %s: %w", k.method, k.route, cerr)
	}
	var u *url.Error // its text has the whole URL
	if errors.As(err, &u) {
		err = u.Err
	}
	kind := errDown
	for _, own := range []error{backends.ErrPermission, backends.ErrExpired} { // of a certificate that is no good
		if errors.Is(err, own) {
			return c.fault(k, err)
		}
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var bad *tls.CertificateVerificationError
	if errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &bad) {
		kind = backends.ErrUnavailable // the same the next time
	}
	return c.fault(k, fmt.Errorf("%s: %v: %w", c.o.Config.Host, err, kind))
}

func (c *Client) fault(k call, err error) error {
	return fmt.Errorf("%s %s: %w", k.method, k.route, err)
}

// maxAfter bounds what a server may ask for.
const maxAfter = 5 * time.Minute

// retryAfter reads the header (RFC 9110, 10.2.3): seconds, or a date.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil && n > 0 {
		return min(time.Duration(min(n, 3600))*time.Second, maxAfter)
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return min(t.Sub(now), maxAfter)
	}
	return 0
}
