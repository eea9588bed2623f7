package servertest

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/integration/needed"
)

// openssl is the judge of what NewPKI makes.
func openssl(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		needed.Missing(t, "openssl is not installed")
	}
	out, err := exec.Command("openssl", args...).CombinedOutput()
	if err != nil {
		t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestPKIIsWhatOpenSSLWants(t *testing.T) {
	p := NewPKI(t)
	names, err := os.ReadDir(p.Certificates)
	if err != nil || len(names) != 6 {
		t.Fatalf("trust folder: %v, %v", names, err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, pemOf("CERTIFICATE", p.CA.Cert.Raw), 0o644)
	for _, flag := range []string{"-subject_hash", "-subject_hash_old"} {
		h := openssl(t, "x509", "-noout", flag, "-in", ca)
		if _, err := os.Stat(filepath.Join(p.Certificates, h+".0")); err != nil {
			t.Errorf("%s is %s: %v", flag, h, err)
		}
	}
	openssl(t, "verify", "-CApath", p.Certificates, "-crl_check", filepath.Join(p.Dir, "hostcert.pem"))
	proxy := p.Proxy(t, time.Hour)
	openssl(t, "verify", "-CApath", p.Certificates, "-allow_proxy_certs", "-untrusted", proxy, proxy)
	p.CA.Revoke(p.Host)
	p.CA.Trust(t, p.Certificates)
	if out, err := exec.Command("openssl", "verify", "-CApath", p.Certificates, "-crl_check", filepath.Join(p.Dir, "hostcert.pem")).CombinedOutput(); err == nil || !strings.Contains(string(out), "revoked") {
		t.Errorf("a revoked certificate: %v, %s", err, out)
	}
}

// client is a plain one, with the authority's certificate and perhaps a proxy.
func client(t *testing.T, p *PKI, proxy string) *http.Client {
	t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(p.CA.Cert)
	if proxy != "" {
		cert, err := tls.LoadX509KeyPair(proxy, proxy)
		if err != nil {
			t.Fatal(err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	tr := &http.Transport{TLSClientConfig: c}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func request(t *testing.T, hc *http.Client, method, url, body, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp.StatusCode, string(b)
}

func TestNGINX(t *testing.T) {
	p := NewPKI(t)
	testWebDAV(t, p, NGINX(t, NGINXOptions{PKI: p}))
}

func TestApache(t *testing.T) {
	p := NewPKI(t)
	testWebDAV(t, p, Apache(t, ApacheOptions{PKI: p}))
}

func testWebDAV(t *testing.T, p *PKI, s *Server) {
	hc := client(t, p, "")
	for _, u := range []string{s.HTTP, s.HTTPS} {
		if code, _ := request(t, hc, "PUT", u+"/f", "text", ""); code/100 != 2 {
			t.Errorf("PUT %s: %d", u, code)
		}
		if code, body := request(t, hc, "GET", u+"/f", "", ""); code != 200 || body != "text" {
			t.Errorf("GET %s: %d %s", u, code, body)
		}
		if code, _ := request(t, hc, "PROPFIND", u+"/f", "", ""); code != 207 {
			t.Errorf("PROPFIND %s: %d", u, code)
		}
	}
	if b, err := os.ReadFile(s.Path("f")); err != nil || string(b) != "text" {
		t.Errorf("file: %q, %v", b, err)
	}
	s.Kill()
	if _, err := hc.Get(s.HTTP + "/f"); err == nil {
		t.Error("a killed server serves")
	}
	s.Start()
	if code, _ := request(t, hc, "GET", s.HTTP+"/f", "", ""); code != 200 {
		t.Errorf("GET after a restart: %d", code)
	}
}

func TestXRootD(t *testing.T) {
	s := XRootD(t, XRootDOptions{})
	hc := client(t, NewPKI(t), "")
	if code, _ := request(t, hc, "PUT", s.HTTP+"/data/f", "text", ""); code/100 != 2 {
		t.Errorf("PUT: %d\n%s", code, s.LogTail())
	}
	if code, body := request(t, hc, "GET", s.HTTP+"/data/f", "", ""); code != 200 || body != "text" {
		t.Errorf("GET: %d %s", code, body)
	}
	if b, err := os.ReadFile(s.Path("data/f")); err != nil || string(b) != "text" {
		t.Errorf("file: %q, %v", b, err)
	}
	s.Kill()
	s.Start()
	if code, _ := request(t, hc, "GET", s.HTTP+"/data/f", "", ""); code != 200 {
		t.Errorf("GET after a restart: %d", code)
	}
}

func TestXRootDWithProxiesAndTokens(t *testing.T) {
	p := NewPKI(t)
	o := XRootDOptions{PKI: p, Authorize: true}
	if os.Geteuid() == 0 {
		o.Issuer = NewIssuer(t, p)
	}
	s := XRootD(t, o)
	if code, _ := request(t, client(t, p, p.Proxy(t, time.Hour)), "PUT", s.HTTPS+"/data/f", "text", ""); code/100 != 2 {
		t.Errorf("PUT with a proxy: %d\n%s", code, s.LogTail())
	}
	nobody := client(t, p, "")
	if code, _ := request(t, nobody, "GET", s.HTTPS+"/data/f", "", ""); code != 403 {
		t.Errorf("GET as nobody: %d", code)
	}
	if o.Issuer == nil {
		return
	}
	if code, body := request(t, nobody, "GET", s.HTTPS+"/data/f", "", o.Issuer.Token(t, "storage.read:/", time.Hour)); code != 200 || body != "text" {
		t.Errorf("GET with a token: %d %s\n%s", code, body, s.LogTail())
	}
	for what, token := range map[string]string{
		"of another folder": o.Issuer.Token(t, "storage.read:/other", time.Hour),
		"to write only":     o.Issuer.Token(t, "storage.modify:/", time.Hour),
		"that has expired":  o.Issuer.Token(t, "storage.read:/", -time.Hour),
	} {
		if code, _ := request(t, nobody, "GET", s.HTTPS+"/data/f", "", token); code != 403 {
			t.Errorf("GET with a token %s: %d", what, code)
		}
	}
}
