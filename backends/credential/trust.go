package credential

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/backends"
)

// trust is what is known of authorities.
type trust struct {
	mu    sync.Mutex // guards the rest
	dir   string
	at    stamp
	read  time.Time
	roots *x509.CertPool
	lists map[string][]*x509.RevocationList // by their issuer
}

// ErrRevoked is the error of a server whose authority has revoked its certificate.
var ErrRevoked = errors.New("the certificate was revoked by its authority")

const (
	// reread is after what time a folder is read again whose own time has not changed: one of
	// its files may have been written in place.
	reread   = time.Minute
	maxFiles = 10_000
)

var (
	authorityFile = regexp.MustCompile(`^([0-9a-f]{8}\.[0-9]+|.*\.(pem|crt))$`)
	listFile      = regexp.MustCompile(`^[0-9a-f]{8}\.r[0-9]+$`)
)

// certificates gives the authorities of X509_CERT_DIR alone, where that is set; else the system's and
// those of /etc/grid-security/certificates. fresh reads them anew in any case.
func (s *Source) certificates(fresh bool) (*x509.CertPool, map[string][]*x509.RevocationList, error) {
	dir, alone := s.o.Getenv("X509_CERT_DIR"), true
	if dir == "" {
		dir, alone = s.o.SystemDir, false
	}
	t := s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	fi, err := os.Stat(dir)
	var at stamp
	switch {
	case err == nil:
		at = stampOf(fi)
	case alone:
		return nil, nil, fmt.Errorf("the folder of trusted authorities %s (X509_CERT_DIR): %s: %w", dir, cause(err), backends.ErrUnavailable)
	}
	now := s.o.Now()
	if !fresh && t.roots != nil && t.dir == dir && t.at == at && now.Sub(t.read) < reread && now.Sub(at.mtime) > time.Second {
		return t.roots, t.lists, nil
	}
	roots := x509.NewCertPool()
	if !alone {
		if sys, err := x509.SystemCertPool(); err == nil {
			roots = sys
		}
	}
	lists := map[string][]*x509.RevocationList{}
	if err == nil {
		s.readFolder(dir, func(b []byte, isList bool) error {
			if isList {
				return addList(lists, b)
			}
			return addRoots(roots, b)
		})
	}
	t.dir, t.at, t.read, t.roots, t.lists = dir, at, now, roots, lists
	return roots, lists, nil
}

// readFolder gives add each file; one that is no good is logged and costs its authority only.
func (s *Source) readFolder(dir string, add func(b []byte, isList bool) error) {
	d, err := os.Open(dir)
	if err != nil {
		s.o.Log.Warn("trusted authorities cannot be read", "dir", dir, "err", err)
		return
	}
	defer d.Close()
	names, err := d.Readdirnames(maxFiles)
	if err != nil && err != io.EOF {
		s.o.Log.Warn("trusted authorities cannot be read", "dir", dir, "err", err)
	}
	for _, name := range names {
		isList := listFile.MatchString(name)
		if !isList && !authorityFile.MatchString(name) {
			continue
		}
		b, err := readPublic(filepath.Join(dir, name))
		if err == nil {
			err = add(b, isList)
		}
		if err != nil {
			s.o.Log.Warn("file of a trusted authority is left out", "file", filepath.Join(dir, name), "err", err)
		}
	}
}

// maxList is the most that a list of revoked certificates can have.
const maxList = 64 << 20

func readPublic(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxList {
		return nil, fmt.Errorf("no plain file of at most %d bytes: %w", maxList, backends.ErrDamaged)
	}
	return os.ReadFile(path)
}

func addRoots(roots *x509.CertPool, b []byte) error {
	if !roots.AppendCertsFromPEM(b) {
		return fmt.Errorf("it has no certificate: %w", backends.ErrDamaged)
	}
	return nil
}

func addList(lists map[string][]*x509.RevocationList, b []byte) error {
	if p, _ := pem.Decode(b); p != nil {
		b = p.Bytes
	}
	l, err := x509.ParseRevocationList(b)
	if err != nil {
		return err
	}
	lists[string(l.RawIssuer)] = append(lists[string(l.RawIssuer)], l)
	return nil
}

// revoked tells whether a verified chain has a revoked certificate.
func revoked(chain []*x509.Certificate, lists map[string][]*x509.RevocationList) bool {
	for i, c := range chain[:len(chain)-1] {
		for _, l := range lists[string(c.RawIssuer)] {
			if l.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			for _, e := range l.RevokedCertificateEntries {
				if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return true
				}
			}
		}
	}
	return false
}

// verify judges what a server shows: signed by an authority that is trusted, for the host, not revoked. When the
// authority is not known, the authorities are read again.
func (s *Source) verify(host string, shown []*x509.Certificate, gsi bool) error {
	err := s.verifyBy(host, shown, gsi, false)
	if errors.As(err, new(x509.UnknownAuthorityError)) {
		err = s.verifyBy(host, shown, gsi, true)
	}
	return inWords(host, shown[0], err)
}

func (s *Source) verifyBy(host string, shown []*x509.Certificate, gsi, fresh bool) error {
	roots, lists, err := s.certificates(fresh)
	if err != nil {
		return err
	}
	o := x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: s.o.Now()}
	if gsi {
		o.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		if namedAsOfOld(shown[0], host) {
			o.DNSName = ""
		}
	}
	for _, c := range shown[1:] {
		o.Intermediates.AddCert(c)
	}
	chains, err := shown[0].Verify(o)
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if !revoked(chain, lists) {
			return nil
		}
	}
	return ErrRevoked
}

// namedAsOfOld tells whether a certificate without alternative names is the host's by its CN, perhaps as "host/NAME".
func namedAsOfOld(c *x509.Certificate, host string) bool {
	return len(c.DNSNames) == 0 && len(c.IPAddresses) == 0 && strings.EqualFold(strings.TrimPrefix(c.Subject.CommonName, "host/"), host)
}

// inWords tells what is wrong with a server's certificate and what to do about it.
func inWords(host string, c *x509.Certificate, err error) error {
	var invalid x509.CertificateInvalidError
	why := ""
	switch {
	case err == nil || errors.Is(err, backends.ErrUnavailable):
		return err
	case errors.Is(err, ErrRevoked):
		return fmt.Errorf("the server %s: %w: %w", host, err, backends.ErrUnavailable)
	case errors.As(err, new(x509.UnknownAuthorityError)):
		why = fmt.Sprintf("is of the authority %q, which is not trusted here: install it in X509_CERT_DIR", c.Issuer)
	case errors.As(err, new(x509.HostnameError)):
		why = fmt.Sprintf("is for %s: use that name in the URL", strings.Join(namesOf(c), ", "))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		why = "has expired or is not valid yet"
	default:
		why = fmt.Sprintf("is not good (%v)", err)
	}
	return fmt.Errorf("the certificate of the server %s %s: %w", host, why, backends.ErrUnavailable)
}

// namesOf are the first few names that a certificate is for.
func namesOf(c *x509.Certificate) []string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	if len(out) == 0 {
		out = []string{c.Subject.CommonName}
	}
	return out[:min(len(out), 5)]
}

// config is that of one handshake with host, with what is trusted and found then.
func (s *Source) config(host string, gsi bool) *tls.Config {
	return &tls.Config{
		ServerName: host, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if p, _ := s.Proxy(); p.Cert != nil {
				return p.Cert, nil
			}
			return &tls.Certificate{}, nil // the server may do without; if not, Hint tells why
		},
		InsecureSkipVerify: true, // VerifyConnection does it, since authorities may come while the handshake lasts
		VerifyConnection:   func(cs tls.ConnectionState) error { return s.verify(host, cs.PeerCertificates, gsi) },
	}
}

// GSIConfig is for a handshake with host that somebody makes himself by the rules of the Grid Security Infrastructure:
// a certificate may be for any use, and one without alternative names is for the host in its CN, perhaps as "host/NAME".
func (s *Source) GSIConfig(host string) *tls.Config { return s.config(host, true) }

// ServerConfig is for connections to host, and others that the client is sent to, which show no certificate of ours: who connects adds one.
func (s *Source) ServerConfig(host string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(cs tls.ConnectionState) error {
			return s.verify(cmp.Or(cs.ServerName, host), cs.PeerCertificates, false) // no name is sent where the host is an address
		},
	}
}

// Handshake makes a TLS connection to host (a name or address without port) on a connection that dial
// gives. On an error no connection stays open.
func (s *Source) Handshake(ctx context.Context, host string, dial func(context.Context) (net.Conn, error)) (*tls.Conn, error) {
	tcp, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(tcp, s.config(host, false))
	if err := conn.HandshakeContext(ctx); err != nil {
		tcp.Close()
		return nil, err
	}
	return conn, nil
}
