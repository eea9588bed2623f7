package rest

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"strings"

	"tarn/backends"
)

// PFN computes where a deterministic RSE has a DID, exactly as the server does (rse/translation.py, and lfns2pfns in rse/protocols): nothing is
// folded or escaped, so that a name with a leading slash gives a double one. algorithm is RSE.Algorithm. False where only the server
// knows: another algorithm than hash or identity, or a protocol whose implementation has rules of its own.
func PFN(algorithm string, p Protocol, d backends.DID) (string, bool) {
	path, ok := lfnPath(algorithm, d)
	if !ok {
		return "", false
	}
	prefix := p.Prefix
	if !strings.HasPrefix(prefix, "/") {
		prefix = "/" + prefix
	}
	if !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	module := strings.TrimPrefix(p.Impl, "rucio.rse.protocols.")
	module, _, _ = strings.Cut(module, ".")
	switch module {
	case "posix": // no port
		return p.Scheme + "://" + p.Hostname + prefix + path, true
	case "gfal": // no port where it is 0
		host := p.Hostname
		if _, after, ok := strings.Cut(host, "://"); ok {
			host, _, _ = strings.Cut(after, "://")
		}
		if p.Port != 0 {
			host = fmt.Sprintf("%s:%d", host, p.Port)
		}
		service := ""
		if v, ok := p.Extended["web_service_path"]; ok {
			service = fmt.Sprint(v)
		}
		return p.Scheme + "://" + host + service + prefix + path, true
	case "webdav", "xrootd", "mock", "dummy", "storm":
		return fmt.Sprintf("%s://%s:%d%s%s", p.Scheme, p.Hostname, p.Port, prefix, path), true
	}
	return "", false
}

// lfnPath is the path of a DID below the prefix.
func lfnPath(algorithm string, d backends.DID) (string, bool) {
	scope := d.Scope
	if strings.HasPrefix(scope, "user") || strings.HasPrefix(scope, "group") {
		scope = strings.ReplaceAll(scope, ".", "/")
	}
	switch algorithm {
	case "hash":
		sum := md5.Sum([]byte(d.String()))
		h := hex.EncodeToString(sum[:2])
		return scope + "/" + h[:2] + "/" + h[2:] + "/" + d.Name, true
	case "identity":
		return scope + "/" + d.Name, true
	}
	return "", false
}
