package servertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Audience is the one of Issuer's tokens, which any WLCG service takes.
const Audience = "https://wlcg.cern.ch/jwt/v1/any"

// Issuer issues bearer tokens of the WLCG profile and serves the key to check them by.
type Issuer struct {
	URL string
	key *ecdsa.PrivateKey
}

// NewIssuer starts one at https://localhost with the host certificate of pki.
func NewIssuer(t testing.TB, pki *PKI) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	i := &Issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/test/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/jwks"})
	})
	mux.HandleFunc("/test/jwks", func(w http.ResponseWriter, r *http.Request) {
		pub, _ := key.PublicKey.Bytes() // 4, x, y
		json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
			"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig", "x": b64(pub[1:33]), "y": b64(pub[33:]),
		}}})
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{pki.Host.Cert.Raw}, PrivateKey: pki.Host.Key}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	i.URL = strings.Replace(srv.URL, "127.0.0.1", "localhost", 1) + "/test"
	return i
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Token gives one that is valid for life, with scopes as "storage.read:/ storage.modify:/dir".
func (i *Issuer) Token(t testing.TB, scope string, life time.Duration) string {
	t.Helper()
	head, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": "k1"})
	must(t, err)
	now := time.Now()
	body, err := json.Marshal(map[string]any{
		"iss": i.URL, "sub": GridUser, "aud": Audience, "iat": now.Unix() - 60, "nbf": now.Unix() - 60, "exp": now.Add(life).Unix(),
		"jti": hex.EncodeToString(random(8)), "wlcg.ver": "1.0", "scope": scope,
	})
	must(t, err)
	text := b64(head) + "." + b64(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	must(t, err)
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64(sig)
}
