package credential

import (
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
	t := &s.trust
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
		s.readFolder(dir, roots, lists)
	}
	t.dir, t.at, t.read, t.roots, t.lists = dir, at, now, roots, lists
	return roots, lists, nil
}

// readFolder takes what is good; a broken file is logged and costs its authority only.
func (s *Source) readFolder(dir string, roots *x509.CertPool, lists map[string][]*x509.RevocationList) {
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
		if err == nil && isList {
			err = addList(lists, b)
		} else if err == nil {
			err = addRoots(roots, b)
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

// config is that of one handshake with host, with what is trusted and found now.
func (s *Source) config(host string, fresh bool) (*tls.Config, error) {
	roots, lists, err := s.certificates(fresh)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if p, _ := s.Proxy(); p.Cert != nil {
				return p.Cert, nil
			}
			return &tls.Certificate{}, nil // the server may do without; if not, Hint tells why
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, chain := range cs.VerifiedChains {
				if !revoked(chain, lists) {
					return nil
				}
			}
			return ErrRevoked
		},
	}, nil
}

// Handshake makes a TLS connection to host (a name or address without port) on a connection that dial
// gives. When the host's authority is not known, the authorities are read again and it is tried once
// more. On an error no connection stays open.
func (s *Source) Handshake(ctx context.Context, host string, dial func(context.Context) (net.Conn, error)) (*tls.Conn, error) {
	for fresh := false; ; fresh = true {
		conf, err := s.config(host, fresh)
		if err != nil {
			return nil, err
		}
		tcp, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(tcp, conf)
		if err = conn.HandshakeContext(ctx); err == nil {
			return conn, nil
		}
		tcp.Close()
		var unknown x509.UnknownAuthorityError
		if fresh || !errors.As(err, &unknown) {
			return nil, err
		}
	}
}
