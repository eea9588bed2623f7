package gridftp

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"tarn/backends"
)

// credential is a proxy (or a certificate with its key) in a file, read again when the file changes: proxies live for hours.
type credential struct {
	file string

	mu    sync.Mutex // guards the rest
	stamp string
	cert  tls.Certificate
	until time.Time // when the first of its chain ends
}

// get gives what the file holds now. An expired one is an error here, in words, before a server says it in its own.
func (c *credential) get(now time.Time) (tls.Certificate, error) {
	bad := func(format string, args ...any) (tls.Certificate, error) {
		return tls.Certificate{}, fmt.Errorf("proxy %s: %s: %w", c.file, fmt.Sprintf(format, args...), backends.ErrPermission)
	}
	if c.file == "" {
		return tls.Certificate{}, fmt.Errorf("no proxy certificate is given: make one with voms-proxy-init: %w", backends.ErrPermission)
	}
	fi, err := os.Stat(c.file)
	if err != nil {
		return bad("it cannot be read (%v): make one with voms-proxy-init", errors.Unwrap(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if stamp := stampOf(fi); stamp != c.stamp {
		b, err := os.ReadFile(c.file)
		if err != nil {
			return bad("it cannot be read (%v)", errors.Unwrap(err))
		}
		cert, err := tls.X509KeyPair(b, b)
		if err != nil { // its text names no secret: crypto/tls tells what kind of block is missing
			return bad("it is none: %v", err)
		}
		var until time.Time
		for _, der := range cert.Certificate {
			x, err := x509.ParseCertificate(der)
			if err != nil {
				return bad("it is none: %v", err)
			}
			if until.IsZero() || x.NotAfter.Before(until) {
				until = x.NotAfter
			}
		}
		c.cert, c.until, c.stamp = cert, until, stamp
	}
	if now.After(c.until) {
		return bad("it expired at %s: make a new one with voms-proxy-init", c.until.UTC().Format("2006-01-02 15:04 MST"))
	}
	return c.cert, nil
}

func stampOf(fi os.FileInfo) string {
	return fmt.Sprint(fi.ModTime().UnixNano(), " ", fi.Size())
}

// trust is a folder of certification authorities as grids have it: HASH.N certificates, HASH.rN revocation lists. It is
// read again when a file in it changes, so that new authorities and lists count without a restart.
type trust struct {
	dir string

	mu    sync.Mutex // guards the rest
	stamp string
	pool  *x509.CertPool
	lists []*x509.RevocationList
}

var (
	caFile  = regexp.MustCompile(`^[0-9a-f]{8}\.[0-9]+$`)
	crlFile = regexp.MustCompile(`^[0-9a-f]{8}\.r[0-9]+$`)
)

// maxTrustFile bounds a file of the folder; the longest lists of revoked certificates have some MiB.
const maxTrustFile = 64 << 20

func (t *trust) get() (*x509.CertPool, []*x509.RevocationList, error) {
	es, err := os.ReadDir(t.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("folder of trusted authorities %s: %v: %w", t.dir, errors.Unwrap(err), backends.ErrPermission)
	}
	var stamp strings.Builder
	var files []string
	for _, e := range es {
		if !caFile.MatchString(e.Name()) && !crlFile.MatchString(e.Name()) {
			continue
		}
		fi, err := os.Stat(filepath.Join(t.dir, e.Name())) // many are links
		if err != nil || fi.Size() > maxTrustFile {
			continue
		}
		files = append(files, e.Name())
		fmt.Fprintln(&stamp, e.Name(), stampOf(fi))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pool != nil && t.stamp == stamp.String() {
		return t.pool, t.lists, nil
	}
	pool := x509.NewCertPool()
	var lists []*x509.RevocationList
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(t.dir, name))
		if err != nil {
			continue // replaced just now: the stamp will differ the next time
		}
		if caFile.MatchString(name) {
			pool.AppendCertsFromPEM(b)
			continue
		}
		der := b
		if p, _ := pem.Decode(b); p != nil {
			der = p.Bytes
		}
		if l, err := x509.ParseRevocationList(der); err == nil {
			lists = append(lists, l)
		}
	}
	t.pool, t.lists, t.stamp = pool, lists, stamp.String()
	return pool, lists, nil
}

// verify checks the certificate of a server: signed by a trusted authority, issued for the host, not revoked.
func (t *trust) verify(host string, chain []*x509.Certificate, now time.Time) error {
	pool, lists, err := t.get()
	if err != nil {
		return err
	}
	if len(chain) == 0 {
		return fmt.Errorf("the server %s shows no certificate: %w, %w", host, backends.ErrUnavailable, backends.ErrTemporary)
	}
	o := x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	refuse := func(format string, args ...any) error {
		// Temporary: authorities, lists and host certificates are renewed while programs run.
		return fmt.Errorf("the certificate of the server %s %s: %w, %w", host, fmt.Sprintf(format, args...), backends.ErrUnavailable, backends.ErrTemporary)
	}
	chains, err := chain[0].Verify(o)
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return refuse("is signed by %q, which is not among the authorities in %s: install that authority there, or use the server's right name", chain[0].Issuer.String(), t.dir)
	case err != nil:
		return refuse("is not good: %v", err)
	}
	if !issuedFor(chain[0], host) {
		return refuse("is for %s: use that name in the URL", strings.Join(append(chain[0].DNSNames, chain[0].Subject.CommonName), ", "))
	}
	for _, c := range chains[0] {
		for _, l := range lists {
			if string(l.RawIssuer) != string(c.RawIssuer) {
				continue
			}
			for _, r := range l.RevokedCertificateEntries {
				if r.SerialNumber.Cmp(c.SerialNumber) == 0 && signedByOneOf(l, chains[0]) {
					return refuse("was revoked at %s", r.RevocationTime.UTC().Format(time.DateOnly))
				}
			}
		}
	}
	return nil
}

func signedByOneOf(l *x509.RevocationList, chain []*x509.Certificate) bool {
	for _, c := range chain {
		if string(c.RawSubject) == string(l.RawIssuer) && l.CheckSignatureFrom(c) == nil {
			return true
		}
	}
	return false
}

// issuedFor compares the host with the names of the certificate; one that has none is of the old kind, whose name
// stands in CN, perhaps as "host/NAME".
func issuedFor(c *x509.Certificate, host string) bool {
	if len(c.DNSNames) > 0 || len(c.IPAddresses) > 0 {
		return c.VerifyHostname(host) == nil
	}
	return strings.EqualFold(strings.TrimPrefix(c.Subject.CommonName, "host/"), host)
}
