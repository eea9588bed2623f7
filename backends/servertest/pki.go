// Package servertest starts real storage servers on 127.0.0.1 for tests: each on free ports,
// with certificates of a self-made authority, and each ended with the test that started it.
//
//	pki := servertest.NewPKI(t)
//	srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki})
//	st, err := webdav.Open(webdav.Options{URL: srv.HTTPS + "/data", ...})
//
// A server that is not installed skips the test, and fails it under CI.
package servertest

import (
	"bytes"
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/integration/needed"
)

// PKI is what a small grid has: an authority, a host of the name localhost, a user, and
// the folder of trusted authorities.
type PKI struct {
	// Dir holds everything. All may read it but the keys.
	Dir string
	// Certificates is the folder of trusted authorities as grid software wants it: HASH.0,
	// HASH.signing_policy, HASH.r0, by OpenSSL's new and old hash.
	Certificates string
	CA           *Authority
	// Host is the certificate of localhost and 127.0.0.1.
	Host *Identity
	// User is a person, mapped to GridUser by GridMap.
	User    *Identity
	GridMap string
	// VOMSDir tells of which server VO is (X509_VOMS_DIR); VOMS is that server.
	VOMSDir string
	VOMS    *Identity
}

// GridUser is the account that the grid-mapfile gives PKI.User.
const GridUser = "griduser"

// VO is the virtual organisation of VOMSProxy.
const VO = "ctao"

// NewPKI makes one in a folder that is removed with the test.
func NewPKI(t testing.TB) *PKI {
	t.Helper()
	p := &PKI{Dir: folder(t, "pki")}
	p.Certificates = filepath.Join(p.Dir, "certificates")
	p.GridMap = filepath.Join(p.Dir, "grid-mapfile")
	must(t, os.Mkdir(p.Certificates, 0o755))
	p.CA = NewAuthority(t, "Test CA")
	p.CA.Trust(t, p.Certificates)
	p.Host = p.CA.Host(t, "localhost", "127.0.0.1")
	p.User = p.CA.User(t, "Test User")
	p.VOMS = p.CA.Host(t, vomsHost)
	p.VOMSDir = filepath.Join(p.Dir, "vomsdir")
	must(t, os.MkdirAll(filepath.Join(p.VOMSDir, VO), 0o755))
	must(t, os.WriteFile(filepath.Join(p.VOMSDir, VO, vomsHost+".lsc"), []byte(p.VOMS.DN()+"\n"+p.CA.DN()+"\n"), 0o644))
	p.Host.Write(t, filepath.Join(p.Dir, "hostcert.pem"), filepath.Join(p.Dir, "hostkey.pem"))
	p.User.Write(t, filepath.Join(p.Dir, "usercert.pem"), filepath.Join(p.Dir, "userkey.pem"))
	must(t, os.WriteFile(p.GridMap, fmt.Appendf(nil, "%q %s\n", p.User.DN(), GridUser), 0o644))
	return p
}

// Proxy writes a new proxy of User that is valid for life (negative: has expired), with
// permissions 0600, and returns its path.
func (p *PKI) Proxy(t testing.TB, life time.Duration) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "proxy.pem")
	p.User.Proxy(t, life).WriteProxy(t, file)
	return file
}

// vomsHost is the name of the VOMS server, which nobody asks.
const vomsHost = "voms.localhost"

// VOMSProxy lets VOMS's own client write a new proxy of id, for 12 hours, and returns its path. For 6 hours it says that id is
// a member of VO, with the given attributes.
func (p *PKI) VOMSProxy(t testing.TB, id *Identity, fqans ...string) string {
	t.Helper()
	if _, err := exec.LookPath("voms-proxy-fake"); err != nil {
		needed.Missing(t, "voms-proxy-fake is not installed (package voms-clients)")
	}
	dir := t.TempDir()
	name := func(n string) string { return filepath.Join(dir, n) }
	id.Write(t, name("cert"), name("key"))
	p.VOMS.Write(t, name("vomscert"), name("vomskey"))
	args := []string{"-quiet", "-rfc", "-bits", "2048", "-hours", "12", "-vomslife", "6", "-cert", name("cert"), "-key", name("key"), "-certdir", p.Certificates,
		"-hostcert", name("vomscert"), "-hostkey", name("vomskey"), "-voms", VO, "-uri", vomsHost + ":15000", "-newformat", "-out", name("proxy")}
	for _, f := range fqans {
		args = append(args, "-fqan", f)
	}
	cmd := exec.Command("voms-proxy-fake", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "X509_CERT_DIR=" + p.Certificates, "X509_VOMS_DIR=" + p.VOMSDir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("voms-proxy-fake: %v\n%s", err, out)
	}
	must(t, os.Chmod(name("proxy"), 0o600))
	return name("proxy")
}

// Authority is a certification authority.
type Authority struct {
	Identity
	mu      sync.Mutex
	revoked []x509.RevocationListEntry
	crl     int64
}

// Identity is a certificate with its key and, for a proxy, the certificates it stands on.
type Identity struct {
	Cert  *x509.Certificate
	Key   *rsa.PrivateKey
	Chain []*x509.Certificate
}

// NewAuthority makes a self-signed authority /DC=org/DC=tarn-test/CN=cn.
func NewAuthority(t testing.TB, cn string) *Authority {
	t.Helper()
	a := &Authority{Identity: Identity{Key: newKey(t)}}
	c := template(cn, 10*365*24*time.Hour)
	c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	a.Cert = sign(t, c, c, a.Key.Public(), a.Key)
	return a
}

// Host issues a certificate for a server; names are DNS names and addresses.
func (a *Authority) Host(t testing.TB, names ...string) *Identity {
	t.Helper()
	c := template(names[0], 365*24*time.Hour, "hosts")
	c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	return a.issue(t, c)
}

// User issues a certificate for a person.
func (a *Authority) User(t testing.TB, cn string) *Identity {
	t.Helper()
	c := template(cn, 365*24*time.Hour, "people")
	c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(t, c)
}

func (a *Authority) issue(t testing.TB, c *x509.Certificate) *Identity {
	t.Helper()
	id := &Identity{Key: newKey(t)}
	id.Cert = sign(t, c, a.Cert, id.Key.Public(), a.Key)
	return id
}

// Revoke puts a certificate on the authority's list; Trust publishes it.
func (a *Authority) Revoke(id *Identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked = append(a.revoked, x509.RevocationListEntry{SerialNumber: id.Cert.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
}

// Trust writes (again) what a folder of trusted authorities holds of this one.
func (a *Authority) Trust(t testing.TB, dir string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.crl++
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(a.crl), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(365 * 24 * time.Hour), RevokedCertificateEntries: a.revoked,
	}, a.Cert, a.Key)
	must(t, err)
	policy := fmt.Sprintf("access_id_CA X509 '%s'\npos_rights globus CA:sign\ncond_subjects globus '\"/DC=org/DC=tarn-test/*\"'\n", a.DN())
	for _, h := range a.hashes(t) {
		replace(t, filepath.Join(dir, h+".signing_policy"), []byte(policy))
		replace(t, filepath.Join(dir, h+".r0"), pemOf("X509 CRL", list))
		replace(t, filepath.Join(dir, h+".0"), pemOf("CERTIFICATE", a.Cert.Raw))
	}
}

// Distrust takes away what Trust wrote.
func (a *Authority) Distrust(t testing.TB, dir string) {
	t.Helper()
	for _, h := range a.hashes(t) {
		for _, ext := range []string{".0", ".r0", ".signing_policy"} {
			must(t, os.Remove(filepath.Join(dir, h+ext)))
		}
	}
}

// hashes are OpenSSL's names for the subject, the one of version 1.0 and later and the one before.
func (a *Authority) hashes(t testing.TB) []string {
	t.Helper()
	var rdns []asn1.RawValue
	if rest, err := asn1.Unmarshal(a.Cert.RawSubject, &rdns); err != nil || len(rest) > 0 {
		t.Fatalf("subject: %v", err)
	}
	// The canonical form: each value as UTF8String in lower case, without the outer sequence.
	var canon []byte
	for _, raw := range rdns {
		var set pkix.RelativeDistinguishedNameSET
		if _, err := asn1.UnmarshalWithParams(raw.FullBytes, &set, "set"); err != nil {
			t.Fatalf("subject: %v", err)
		}
		type attribute struct {
			Type  asn1.ObjectIdentifier
			Value string `asn1:"utf8"`
		}
		var low []attribute
		for _, v := range set {
			low = append(low, attribute{v.Type, strings.ToLower(strings.Join(strings.Fields(v.Value.(string)), " "))})
		}
		b, err := asn1.MarshalWithParams(low, "set")
		must(t, err)
		canon = append(canon, b...)
	}
	short := func(sum []byte) string { return fmt.Sprintf("%08x", binary.LittleEndian.Uint32(sum)) }
	young, old := sha1.Sum(canon), md5.Sum(a.Cert.RawSubject)
	return []string{short(young[:]), short(old[:])}
}

// DN is the subject in the form of grid-mapfiles, /DC=org/CN=name.
func (id *Identity) DN() string {
	var b strings.Builder
	short := map[string]string{"0.9.2342.19200300.100.1.25": "DC", "2.5.4.11": "OU", "2.5.4.3": "CN"}
	for _, n := range id.Cert.Subject.Names {
		fmt.Fprintf(&b, "/%s=%s", short[n.Type.String()], n.Value)
	}
	return b.String()
}

// Proxy issues an RFC 3820 proxy that inherits all rights.
func (id *Identity) Proxy(t testing.TB, life time.Duration) *Identity {
	t.Helper()
	c := template("", life)
	c.NotBefore = time.Now().Add(min(life, 0) - 5*time.Minute)
	serial := new(big.Int).Rsh(c.SerialNumber, 96) // it is part of the name, and software prints it as a number
	c.SerialNumber = serial
	var subject pkix.RDNSequence
	_, err := asn1.Unmarshal(id.Cert.RawSubject, &subject)
	must(t, err)
	subject = append(subject, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: serial.String()}})
	c.RawSubject, err = asn1.Marshal(subject)
	must(t, err)
	c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	info, err := asn1.Marshal(struct {
		Policy struct{ Language asn1.ObjectIdentifier }
	}{
		struct{ Language asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 21, 1}}, // inheritAll
	})
	must(t, err)
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 14}, Critical: true, Value: info}}
	c.BasicConstraintsValid = false // a proxy has none
	p := &Identity{Key: newKey(t), Chain: append([]*x509.Certificate{id.Cert}, id.Chain...)}
	p.Cert = sign(t, c, id.Cert, p.Key.Public(), id.Key)
	return p
}

// Write replaces the files of certificate (with its chain) and key, as when a host renews them.
func (id *Identity) Write(t testing.TB, certFile, keyFile string) {
	t.Helper()
	chain := pemOf("CERTIFICATE", id.Cert.Raw)
	for _, c := range id.Chain {
		chain = append(chain, pemOf("CERTIFICATE", c.Raw)...)
	}
	replace(t, certFile, chain)
	must(t, writeSecret(keyFile, id.pemKey()))
}

// WriteProxy replaces a proxy file: certificate, key, and the certificates below it.
func (id *Identity) WriteProxy(t testing.TB, file string) {
	t.Helper()
	b := append(pemOf("CERTIFICATE", id.Cert.Raw), id.pemKey()...)
	for _, c := range id.Chain {
		b = append(b, pemOf("CERTIFICATE", c.Raw)...)
	}
	must(t, writeSecret(file, b))
}

func (id *Identity) pemKey() []byte {
	return pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(id.Key))
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048) // GSI wants RSA
	must(t, err)
	return k
}

func template(cn string, life time.Duration, units ...string) *x509.Certificate {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	serial[0] &= 0x7f
	dc := asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
	ia5 := func(s string) asn1.RawValue { return asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s)} }
	rdns := pkix.RDNSequence{{{Type: dc, Value: ia5("org")}}, {{Type: dc, Value: ia5("tarn-test")}}}
	for _, u := range units {
		rdns = append(rdns, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, 11}, Value: u}})
	}
	rdns = append(rdns, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: cn}})
	subject, err := asn1.Marshal(rdns)
	if err != nil {
		panic(err)
	}
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), RawSubject: subject, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		SubjectKeyId: serial, // VOMS wants one to name the issuer by
	}
}

func sign(t testing.TB, c, parent *x509.Certificate, pub crypto.PublicKey, key *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

// replace writes a public file anew and moves it into place.
func replace(t testing.TB, file string, b []byte) {
	t.Helper()
	tmp := file + "." + hex.EncodeToString(random(4))
	must(t, os.WriteFile(tmp, b, 0o644))
	must(t, os.Rename(tmp, file))
}

func writeSecret(file string, b []byte) error {
	tmp := file + "." + hex.EncodeToString(random(4))
	if err := os.WriteFile(tmp, bytes.Clone(b), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
