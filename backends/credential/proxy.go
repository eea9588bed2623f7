package credential

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"time"

	"tarn/backends"
)

// Proxy is an X.509 proxy.
type Proxy struct {
	Cert    *tls.Certificate // nil when there is none that can be used
	From    string           // the file that it is from
	Subject string           // of the person, as grid-mapfiles have it
	Expires time.Time        // of the first certificate of its chain to do so
	VOMS    []VOMS           // attributes of the person, unproved
}

type proxyFile = cached[Proxy]

// Proxy gives that of the named file, or of X509_USER_PROXY, or of /tmp/x509up_uUID; the zero Proxy when there
// is none. One that cannot be used comes with an error that says why.
func (s *Source) Proxy() (Proxy, error) {
	path, named := s.o.Getenv("X509_USER_PROXY"), true
	if s.named != nil {
		path = s.named.Proxy
	} else if path == "" {
		path, named = s.tmp("x509up_u"), false
	}
	if path == "" {
		return Proxy{}, nil
	}
	p, err := s.proxy.get(path, func() (Proxy, stamp, error) {
		b, st, err := s.secret(path, true)
		if err != nil {
			return Proxy{}, st, err
		}
		p, err := parseProxy(b)
		return p, st, err
	})
	switch {
	case errors.Is(err, errNone) && !named:
		return Proxy{}, nil
	case errors.Is(err, errNone):
		err = fmt.Errorf("the proxy %s is not there; make it with voms-proxy-init: %w", path, backends.ErrPermission)
	case err != nil:
		err = fmt.Errorf("the proxy %s: %w", path, err)
	case !s.o.Now().Before(p.Expires):
		err = fmt.Errorf("the proxy %s %w at %s; renew it with voms-proxy-init: %w", path, backends.ErrExpired, p.Expires.Local().Format(time.DateTime), backends.ErrPermission)
	}
	p.From = path
	if err != nil {
		p.Cert = nil
	}
	return p, err
}

// parseProxy reads a file of certificate, key and the certificates below.
func parseProxy(b []byte) (Proxy, error) {
	c, err := tls.X509KeyPair(b, b)
	if err != nil {
		// The text of crypto/tls names kinds of blocks, never what is in them.
		return Proxy{}, fmt.Errorf("it is none (%v): %w", err, backends.ErrDamaged)
	}
	p := Proxy{Cert: &c, Expires: c.Leaf.NotAfter, Subject: distinguished(c.Leaf), VOMS: vomsOf(c.Leaf)}
	for _, der := range c.Certificate[1:] {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return Proxy{}, fmt.Errorf("it is none (%v): %w", err, backends.ErrDamaged)
		}
		if x.NotAfter.Before(p.Expires) {
			p.Expires = x.NotAfter
		}
		p.Subject = distinguished(x)
		p.VOMS = append(p.VOMS, vomsOf(x)...) // a proxy of a proxy hands its attributes down
		if x.IsCA {
			break
		}
	}
	return p, nil
}

var attributes = map[string]string{
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID", "1.2.840.113549.1.9.1": "emailAddress",
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU",
}

// distinguished writes a subject in the form of grid-mapfiles, /DC=org/CN=name.
func distinguished(c *x509.Certificate) string {
	var b strings.Builder
	for _, n := range c.Subject.Names {
		name, ok := attributes[n.Type.String()]
		if !ok {
			name = asn1.ObjectIdentifier(n.Type).String()
		}
		fmt.Fprintf(&b, "/%s=%v", name, n.Value)
	}
	return b.String()
}
