package credential

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"tarn/backends"
)

// Authorities is what a folder of trusted authorities holds, for people to see.
type Authorities struct {
	Dir     string    `json:"dir"`
	System  bool      `json:"system"`            // the machine's own authorities are trusted beside them
	Trusted int       `json:"trusted"`           // authorities
	Expired int       `json:"expired"`           // of these
	Lists   int       `json:"lists"`             // of revoked certificates
	Stale   int       `json:"stale"`             // of these should have been replaced by now; they count all the same
	Oldest  time.Time `json:"oldest,omitzero"`   // of the lists, by when it was made
	Problem string    `json:"problem,omitempty"` // why none of it can be used
}

// Authorities looks into the folder that certificates uses.
func (s *Source) Authorities() Authorities {
	dir, alone := s.o.Getenv("X509_CERT_DIR"), true
	if dir == "" {
		dir, alone = s.o.SystemDir, false
	}
	a := Authorities{Dir: dir, System: !alone}
	if _, err := os.Stat(dir); err != nil {
		if alone || !errors.Is(err, os.ErrNotExist) {
			a.Problem = cause(err)
		}
		return a
	}
	now := s.o.Now()
	seen := map[[sha256.Size]byte]bool{} // a file lies there by OpenSSL's new hash and by its old one
	s.readFolder(dir, func(b []byte, isList bool) error {
		p, _ := pem.Decode(b)
		if p != nil {
			b = p.Bytes
		}
		if sum := sha256.Sum256(b); seen[sum] {
			return nil
		} else {
			seen[sum] = true
		}
		if !isList {
			c, err := x509.ParseCertificate(b)
			if err != nil {
				return fmt.Errorf("it has no certificate: %w", backends.ErrDamaged)
			}
			a.Trusted++
			if now.After(c.NotAfter) {
				a.Expired++
			}
			return nil
		}
		l, err := x509.ParseRevocationList(b)
		if err != nil {
			return err
		}
		a.Lists++
		if now.After(l.NextUpdate) {
			a.Stale++
		}
		if a.Oldest.IsZero() || l.ThisUpdate.Before(a.Oldest) {
			a.Oldest = l.ThisUpdate
		}
		return nil
	})
	return a
}
