package servertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// RucioRSE is a storage element to be added.
type RucioRSE struct {
	// Name is in capitals; "" gets one from Unique.
	Name string
	// Protocols is how it is spoken to; the first of two with the same scheme wins.
	Protocols []RucioProtocol
	// Attributes are set beside: site, istape, staging_buffer, lfn2pfn_algorithm …
	Attributes map[string]string
	// NonDeterministic RSEs store the path of every replica; for the others it follows from the name.
	NonDeterministic bool
	// Tape makes its type TAPE.
	Tape bool
	// Staging makes it a staging area, the buffer in front of a tape.
	Staging bool
	// Volatile makes it a cache that drops files by itself.
	Volatile bool
}

// RucioProtocol is one door of an RSE. All domains read, write and delete by it, third party copies too, unless Domains says otherwise.
type RucioProtocol struct {
	Scheme, Host string
	Port         int
	// Prefix is a path that ends with a slash.
	Prefix string
	// Impl is Rucio's own client of it; "" is posix for file, gfal for the rest.
	Impl string
	// Domains is as in Rucio's API: {"lan": {"read": 1, …}, "wan": {…, "third_party_copy_read": 1}}; numbers are ranks, 0 is not offered.
	Domains map[string]map[string]int
}

// Unique makes a name that no other test of this server has got: prefix-1, prefix-2 …
func (r *RucioServer) Unique(prefix string) string {
	r.at.mu.Lock()
	defer r.at.mu.Unlock()
	r.at.names++
	return fmt.Sprintf("%s-%d", prefix, r.at.names)
}

// Token is root's. It lives an hour, and is renewed when half of that is over.
func (r *RucioServer) Token() string {
	r.t.Helper()
	r.at.mu.Lock()
	defer r.at.mu.Unlock()
	if time.Now().After(r.at.tokenTill) {
		r.at.token = r.Login(RucioRoot, RucioRoot)
		r.at.tokenTill = time.Now().Add(30 * time.Minute)
	}
	return r.at.token
}

// Login gives a new token of an account for who has the user name, by userpass.
func (r *RucioServer) Login(username, account string) string {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.URL+"/auth/userpass", nil)
	must(r.t, err)
	req.Header.Set("X-Rucio-Username", username)
	req.Header.Set("X-Rucio-Password", RucioPassword)
	req.Header.Set("X-Rucio-Account", account)
	resp, err := r.client.Do(req)
	must(r.t, err)
	defer resp.Body.Close()
	token := resp.Header.Get("X-Rucio-Auth-Token")
	if resp.StatusCode != http.StatusOK || token == "" {
		r.t.Fatalf("login of %s: %s %s", username, resp.Status, resp.Header.Get("ExceptionMessage"))
	}
	return token
}

// Call sends a request as root, with body as JSON unless it is nil, and gives the answer's status, its ExceptionClass and its text.
func (r *RucioServer) Call(method, path string, body any) (status int, exception, text string) {
	r.t.Helper()
	var b io.Reader
	if body != nil {
		j, err := json.Marshal(body)
		must(r.t, err)
		b = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.URL+path, b)
	must(r.t, err)
	req.Header.Set("X-Rucio-Auth-Token", r.Token())
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v\n%s", method, path, err, r.LogTail())
	}
	defer resp.Body.Close()
	t, err := io.ReadAll(resp.Body)
	must(r.t, err)
	return resp.StatusCode, resp.Header.Get("ExceptionClass"), string(t)
}

// Do is Call that wants success.
func (r *RucioServer) Do(method, path string, body any) string {
	r.t.Helper()
	status, exception, text := r.Call(method, path, body)
	if status/100 != 2 {
		r.t.Fatalf("%s %s: %d %s %s", method, path, status, exception, text)
	}
	return text
}

// AddAccount adds one of type USER, that logs in by its name and RucioPassword, and the scopes that it owns.
func (r *RucioServer) AddAccount(name string, scopes ...string) {
	r.t.Helper()
	r.Do("POST", "/accounts/"+name, map[string]string{"type": "USER", "email": name + "@localhost"})
	r.AddIdentity(name, "USERPASS", name, RucioPassword)
	for _, s := range scopes {
		r.AddScope(name, s)
	}
}

// AddIdentity lets an account log in another way: kind is USERPASS, X509 (see RucioDN), OIDC, SSH or GSS; secret is a password, else "".
func (r *RucioServer) AddIdentity(account, kind, identity, secret string) {
	r.t.Helper()
	body := map[string]any{"identity": identity, "authtype": kind, "email": account + "@localhost", "default": true}
	if secret != "" {
		body["password"] = secret
	}
	r.Do("POST", "/accounts/"+account+"/identities", body)
}

// RucioDN is the subject of a certificate as the server sees it, in the form of RFC 2253.
func RucioDN(id *Identity) string {
	parts := strings.Split(id.DN()[1:], "/") // no part of a name in a test holds one
	slices.Reverse(parts)
	return strings.Join(parts, ",")
}

// SetAdmin makes an account an administrator, in Rucio's generic permissions.
func (r *RucioServer) SetAdmin(account string) {
	r.t.Helper()
	r.Do("POST", "/accounts/"+account+"/attr/admin", map[string]any{"key": "admin", "value": true})
}

// AddScope adds one of an account's.
func (r *RucioServer) AddScope(account, scope string) {
	r.t.Helper()
	r.Do("POST", "/scopes/"+account+"/"+url.PathEscape(scope), nil)
}

// SetQuota lets an account have rules for so many bytes at RSEs; -1 is without a limit. Without a quota even root may have none.
func (r *RucioServer) SetQuota(account string, bytes int64, rses ...string) {
	r.t.Helper()
	for _, rse := range rses {
		r.Do("POST", "/accountlimits/local/"+account+"/"+rse, map[string]int64{"bytes": bytes})
	}
}

// AddRSE adds a storage element, its distances to the others of this test and back, and root's quota; it gives its name.
func (r *RucioServer) AddRSE(e RucioRSE) string {
	r.t.Helper()
	if e.Name == "" {
		e.Name = strings.ToUpper(r.Unique("rse"))
	}
	kind := "DISK"
	if e.Tape {
		kind = "TAPE"
	}
	r.Do("POST", "/rses/"+e.Name, map[string]any{"deterministic": !e.NonDeterministic, "volatile": e.Volatile, "staging_area": e.Staging, "rse_type": kind})
	for _, p := range e.Protocols {
		r.AddProtocol(e.Name, p)
	}
	for k, v := range e.Attributes {
		r.SetAttribute(e.Name, k, v)
	}
	for _, other := range r.rses {
		for _, path := range []string{e.Name + "/distances/" + other, other + "/distances/" + e.Name} {
			r.Do("POST", "/rses/"+path, map[string]int{"distance": 1})
		}
	}
	r.SetQuota(RucioRoot, -1, e.Name)
	r.rses = append(r.rses, e.Name)
	r.Flush()
	return e.Name
}

// AddProtocol gives an RSE another door.
func (r *RucioServer) AddProtocol(rse string, p RucioProtocol) {
	r.t.Helper()
	if p.Impl == "" {
		p.Impl = "rucio.rse.protocols.gfal.Default"
		if p.Scheme == "file" {
			p.Impl = "rucio.rse.protocols.posix.Default"
		}
	}
	if p.Domains == nil {
		p.Domains = map[string]map[string]int{
			"lan": {"read": 1, "write": 1, "delete": 1},
			"wan": {"read": 1, "write": 1, "delete": 1, "third_party_copy_read": 1, "third_party_copy_write": 1},
		}
	}
	r.Do("POST", "/rses/"+rse+"/protocols/"+p.Scheme, map[string]any{
		"hostname": p.Host, "port": p.Port, "prefix": p.Prefix, "impl": p.Impl, "domains": p.Domains,
	})
	r.Flush()
}

// SetAttribute sets one of an RSE's.
func (r *RucioServer) SetAttribute(rse, key, value string) {
	r.t.Helper()
	r.Do("POST", "/rses/"+rse+"/attr/"+key, map[string]string{"value": value})
	r.Flush()
}

// Flush empties Rucio's cache: it keeps RSEs and what expressions gave, also nothing, for ten minutes. Changes of RSEs here do it themselves.
func (r *RucioServer) Flush() {
	r.t.Helper()
	c, err := net.DialTimeout("tcp4", r.at.memcached, 10*time.Second)
	must(r.t, err)
	defer c.Close()
	must(r.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(c, "flush_all\r\n")
	must(r.t, err)
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "OK\r\n" {
		r.t.Fatalf("memcached: %q, %v", b, err)
	}
}
