package credential

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tarn/backends/servertest"
)

// The attributes of a proxy that VOMS's own client has made.
func TestVOMSAttributes(t *testing.T) {
	pki := servertest.NewPKI(t)
	want := []string{"/ctao/Role=production/Capability=NULL", "/ctao/lst/Role=NULL/Capability=NULL"}
	proxy := pki.VOMSProxy(t, pki.User, want...)
	s, _ := source(t, map[string]string{"X509_USER_PROXY": proxy})
	p, err := s.Proxy()
	if err != nil || p.Subject != pki.User.DN() {
		t.Fatalf("%+v, %v", p, err)
	}
	if len(p.VOMS) != 1 || p.VOMS[0].VO != "ctao" || !slices.Equal(p.VOMS[0].FQANs, want) {
		t.Fatalf("%+v", p.VOMS)
	}
	if left := time.Until(p.VOMS[0].Expires); left < 5*time.Hour || left > 7*time.Hour {
		t.Errorf("they expire in %v", left)
	}
	if l := s.List(); len(l) != 1 || len(l[0].VOMS) != 1 {
		t.Errorf("%+v", l)
	}
}

func TestAuthorities(t *testing.T) {
	pki := servertest.NewPKI(t)
	vars := map[string]string{"X509_CERT_DIR": pki.Certificates}
	s, _ := source(t, vars)
	servertest.NewAuthority(t, "Other CA").Trust(t, pki.Certificates)
	write(t, filepath.Join(pki.Certificates, "00000000.0"), "garbage", 0o644)
	if a := s.Authorities(); a.Trusted != 2 || a.Lists != 2 || a.Expired != 0 || a.Stale != 0 || a.System || a.Problem != "" || time.Since(a.Oldest) < 30*time.Minute {
		t.Errorf("%+v", a)
	}
	s.o.Now = func() time.Time { return time.Now().Add(2 * 365 * 24 * time.Hour) }
	if a := s.Authorities(); a.Stale != 2 || a.Expired != 0 {
		t.Errorf("in two years: %+v", a)
	}
	vars["X509_CERT_DIR"] = filepath.Join(pki.Dir, "none")
	if a := s.Authorities(); a.Problem == "" || a.Dir != vars["X509_CERT_DIR"] {
		t.Errorf("not there: %+v", a)
	}
	delete(vars, "X509_CERT_DIR")
	if a := s.Authorities(); a.Problem != "" || !a.System || a.Trusted != 0 {
		t.Errorf("the system's alone: %+v", a)
	}
}

func FuzzAttributeCertificate(f *testing.F) {
	f.Add([]byte{0x30, 0x03, 0x30, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _ := parseAttributes(b)
		for _, q := range append(v.FQANs, v.VO) {
			if printable([]byte(q)) != q {
				t.Errorf("%q", q)
			}
		}
	})
}
