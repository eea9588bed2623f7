// Package credential finds what grid users identify themselves with, where they have it: bearer
// tokens by WLCG's discovery (BEARER_TOKEN, BEARER_TOKEN_FILE, $XDG_RUNTIME_DIR/bt_uUID,
// /tmp/bt_uUID), X.509 proxies (X509_USER_PROXY, /tmp/x509up_uUID), keys for S3 (as AWS's tools find them),
// and the authorities that are trusted (X509_CERT_DIR, /etc/grid-security/certificates, the system's).
// Source.Of is for who has several identities, each in files of its own.
//
//	src := credential.New(credential.Options{Getenv: os.Getenv, UID: os.Geteuid()})
//	conn, err := src.Handshake(ctx, "door.example.org", dial)
//
// Everything is read again when its file changes, so a renewed proxy or token, or the certificate of a
// new authority, counts from the next request on. Nothing secret is in errors or in what List tells.
package credential

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"tarn/backends"
)

// Options say where to look. A file that is named here is the only one.
type Options struct {
	// Getenv is the environment; nil has nothing set.
	Getenv func(string) string
	// UID is whose default files are taken.
	UID int
	// TmpDir (/tmp) is where the default files are.
	TmpDir string
	// SystemDir (/etc/grid-security/certificates) is trusted beside the system's authorities.
	SystemDir string

	Now func() time.Time
	Log *slog.Logger
}

// Source gives the credentials of one identity as they are now. Its methods may be called in parallel.
type Source struct {
	o     Options
	named *Files // the only ones; nil: those of the environment
	proxy proxyFile
	token tokenFile
	keys  sync.Map // of file to *keyFile
	trust *trust
	of    *sync.Map // of Files to *Source: all that have the same trust
}

// Files are those of one identity; "" is none.
type Files struct{ Proxy, Token string }

// Of gives the Source that has the credentials in these files and no others: what the environment names
// is of another identity. With no file it is s itself. What is trusted is that of s.
func (s *Source) Of(f Files) *Source {
	if f == (Files{}) {
		return s
	}
	one, _ := s.of.LoadOrStore(f, &Source{o: s.o, named: &f, trust: s.trust, of: s.of})
	return one.(*Source)
}

// Named is the files of a Source that Of gave; of others it has none.
func (s *Source) Named() Files {
	if s.named == nil {
		return Files{}
	}
	return *s.named
}

// New looks nothing up yet.
func New(o Options) *Source {
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	if o.TmpDir == "" {
		o.TmpDir = "/tmp"
	}
	if o.SystemDir == "" {
		o.SystemDir = "/etc/grid-security/certificates"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{o: o, trust: &trust{}, of: &sync.Map{}}
}

// None has no credentials and trusts the authorities of the system.
func None() *Source { return New(Options{UID: -1, TmpDir: "/nonexistent"}) }

// Found is one credential for people to see.
type Found struct {
	Kind    string    `json:"kind"` // token, proxy, s3 keys
	From    string    `json:"from"` // a file or a variable
	Name    string    `json:"name"` // subject of the certificate or the token, ID of the key
	Expires time.Time `json:"expires,omitzero"`
	Problem string    `json:"problem,omitempty"` // why it is not used

	Issuer   string   `json:"issuer,omitempty"`   // of a token
	Scopes   []string `json:"scopes,omitempty"`   // of a token: what it allows
	Audience []string `json:"audience,omitempty"` // of a token: the servers that it is for
	VOMS     []VOMS   `json:"voms,omitempty"`     // of a proxy
}

// List tells what is found, without anything secret.
func (s *Source) List() []Found {
	var out []Found
	if t, err := s.Token(); t.From != "" {
		out = append(out, Found{Kind: "token", From: t.From, Name: t.Subject, Expires: t.Expires, Problem: problem(err),
			Issuer: t.Issuer, Scopes: t.Scopes, Audience: t.Audience})
	}
	if p, err := s.Proxy(); p.From != "" {
		out = append(out, Found{Kind: "proxy", From: p.From, Name: p.Subject, Expires: p.Expires, Problem: problem(err), VOMS: p.VOMS})
	}
	if f, ok := s.FoundKeys(""); ok && s.named == nil {
		out = append(out, f)
	}
	return out
}

// Expired tells whether a token or proxy was found that would be good if it had not expired, or one of
// those that Of was asked for.
func (s *Source) Expired() bool {
	expired := s.expired()
	s.of.Range(func(_, one any) bool {
		expired = expired || one.(*Source).expired()
		return !expired
	})
	return expired
}

func (s *Source) expired() bool {
	_, terr := s.Token()
	_, perr := s.Proxy()
	return errors.Is(terr, backends.ErrExpired) || errors.Is(perr, backends.ErrExpired)
}

func problem(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Hint tells somebody who was refused what may be wrong with the credentials. sentToken says
// whether a token went with the request.
func (s *Source) Hint(sentToken bool) string {
	_, terr := s.Token()
	p, perr := s.Proxy()
	switch {
	case terr != nil:
		return terr.Error()
	case perr != nil:
		return perr.Error()
	case sentToken:
		return "the token is good but does not allow this: see its scopes and audience"
	case p.Cert != nil:
		return fmt.Sprintf("as %s: is it mapped to an account that may do this?", p.Subject)
	case s.named != nil:
		return "the lake file names no credential for this protocol that the server takes"
	}
	return "neither a token nor a proxy was found: set BEARER_TOKEN_FILE or X509_USER_PROXY, or run voms-proxy-init"
}

// stamp tells whether a file is still the one that was read.
type stamp struct {
	mtime    time.Time
	size     int64
	dev, ino uint64
}

func stampOf(fi os.FileInfo) stamp {
	s := stamp{mtime: fi.ModTime(), size: fi.Size()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino = st.Dev, st.Ino
	}
	return s
}

// maxFile is the most that a file of credentials can have.
const maxFile = 1 << 20

// secret reads a file that must be ours alone. The error speaks of path and cause only, and is
// errNone when it is not there.
func (s *Source) secret(path string, private bool) ([]byte, stamp, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, stamp{}, errNone
	}
	if err != nil {
		return nil, stamp{}, fmt.Errorf("%s: %w", cause(err), backends.ErrPermission)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, stamp{}, fmt.Errorf("%s: %w", cause(err), backends.ErrPermission)
	}
	st := stampOf(fi)
	owner := fi.Sys().(*syscall.Stat_t).Uid
	switch {
	case !fi.Mode().IsRegular():
		return nil, st, fmt.Errorf("is no plain file: %w", backends.ErrPermission)
	case int(owner) != s.o.UID && owner != 0 && int(owner) != os.Geteuid():
		return nil, st, fmt.Errorf("belongs to user %d: %w", owner, backends.ErrPermission)
	case private && fi.Mode().Perm()&0o077 != 0:
		return nil, st, fmt.Errorf("has permissions %04o, so that others may use it; chmod 600: %w", fi.Mode().Perm(), backends.ErrPermission)
	case fi.Size() > maxFile:
		return nil, st, fmt.Errorf("has %d bytes: %w", fi.Size(), backends.ErrDamaged)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, st, fmt.Errorf("%s: %w", cause(err), backends.ErrUnavailable)
	}
	return b, st, nil
}

// errNone is a credential that is not there, which is no fault.
var errNone = errors.New("none")

// cause is the text of a failed system call, without sentinels of io/fs.
func cause(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return strings.TrimSpace(err.Error())
}

// cached keeps what was made of a file until the file changes.
type cached[T any] struct {
	mu   sync.Mutex // guards the rest
	path string
	at   stamp
	had  bool
	val  T
	err  error
}

// get gives the value of the file, made again when it has changed.
func (c *cached[T]) get(path string, load func() (T, stamp, error)) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fi, err := os.Stat(path)
	if err == nil && c.had && c.path == path && c.at == stampOf(fi) {
		return c.val, c.err
	}
	c.val, c.at, c.err = load()
	c.path = path
	// A file that was written within the clock's grain could change again unseen.
	c.had = c.err == nil && err == nil && time.Since(c.at.mtime) > 20*time.Millisecond
	return c.val, c.err
}

func (s *Source) tmp(name string) string {
	return filepath.Join(s.o.TmpDir, fmt.Sprintf("%s%d", name, s.o.UID))
}
