package rest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"tarn/backends"
)

// tlsConfig trusts what Config.CA names, and shows the certificate of x509.
func (c *Client) tlsConfig() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.o.TLS != nil {
		conf = c.o.TLS.Clone()
	}
	o := c.o.Config
	if o.CA != "" {
		roots, err := authorities(o.CA)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = roots
	}
	switch o.AuthType {
	case X509:
		cert, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("client_cert %s: %w: %w", o.Cert, err, backends.ErrPermission)
		}
		conf.Certificates = []tls.Certificate{cert}
	case X509Proxy: // renewed while we run
		load := c.o.Proxy
		if load == nil {
			file := o.Proxy
			if file == "" {
				file = fmt.Sprintf("/tmp/x509up_u%d", os.Geteuid())
			}
			load = func() (tls.Certificate, error) { return tls.LoadX509KeyPair(file, file) }
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := load()
			if err != nil {
				return nil, fmt.Errorf("proxy certificate: %w: %w", err, backends.ErrPermission)
			}
			return &cert, nil
		}
	}
	return conf, nil
}

// authorities reads a file or folder of certificates.
func authorities(name string) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	files := []string{name}
	if fi, err := os.Stat(name); err != nil {
		return nil, fmt.Errorf("ca_cert: %w: %w", err, backends.ErrPermission)
	} else if fi.IsDir() {
		files, _ = filepath.Glob(filepath.Join(name, "*"))
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for {
			var block *pem.Block
			if block, b = pem.Decode(b); block == nil {
				break
			}
			if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
				pool.AddCert(cert)
				n++
			}
		}
	}
	if n == 0 {
		return nil, fmt.Errorf("ca_cert %s: no certificates in it: %w", name, backends.ErrPermission)
	}
	return pool, nil
}
