package lake

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"tarn/backends"
)

// The limits of POSIX names that the tree keeps.
const (
	maxName = 255
	maxPath = 4096
)

// CleanPath makes an absolute lake path of s, lexically: "." and ".." are resolved and
// never lead above the root, "" is the root. ErrName for a NUL, ErrNameTooLong for an
// element above 255 bytes or a path above 4096.
func CleanPath(s string) (string, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return "", fmt.Errorf("path %q: holds a NUL byte: %w", s, backends.ErrName)
	}
	p := path.Clean("/" + s)
	if len(p) > maxPath {
		return "", fmt.Errorf("path of %d bytes: %w", len(p), backends.ErrNameTooLong)
	}
	for e := range strings.SplitSeq(p[1:], "/") {
		if len(e) > maxName {
			return "", fmt.Errorf("name %.40q... of %d bytes: %w", e, len(e), backends.ErrNameTooLong)
		}
	}
	return p, nil
}

// checkElement tells whether name can stand in a directory.
func checkElement(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("name %q: %w", name, backends.ErrName)
	case len(name) > maxName:
		return fmt.Errorf("name %.40q... of %d bytes: %w", name, len(name), backends.ErrNameTooLong)
	}
	return nil
}

// The names of layout contents.
//
// The entry of a DID in a directory is its name when both have the same scope, and
// scope:name otherwise, percent-encoded where POSIX or the way back need it:
//
//	/ and NUL            %2F and %00
//	. and .. as a whole  %2E and %2E.
//	%                    %25, when what follows makes it look like an escape
//	the first : of a     %3A, when what precedes it is a valid scope, since it
//	name of the scope    would read as another scope's DID
//	an empty name        %_
//
// What is longer than 255 bytes then is cut and ends in %~ and 32 digits of the DID's
// SHA-256 (nothing but these for a DID whose scope is no valid one); such a name cannot be decoded, it is looked for in the listing. EncodeName
// is injective; DecodeName takes its results only, so that a DID has one name in a
// directory and no more.

const cutMark = "%~"

// EncodeName gives the entry name of d in a directory of the given scope.
func EncodeName(scope string, d backends.DID) string {
	var b strings.Builder
	if d.Scope != scope {
		if backends.CheckScope(d.Scope) != nil {
			return cut("", d)
		}
		b.WriteString(d.Scope)
		b.WriteByte(':')
		escape(&b, d.Name, -1)
	} else {
		colon := strings.IndexByte(d.Name, ':')
		if colon >= 0 && backends.CheckScope(d.Name[:colon]) != nil {
			colon = -1
		}
		switch d.Name {
		case "":
			return "%_"
		case ".", "..":
			b.WriteString("%2E" + d.Name[1:])
		default:
			escape(&b, d.Name, colon)
		}
	}
	if b.Len() <= maxName {
		return b.String()
	}
	return cut(b.String(), d)
}

// escape writes name; the byte at colon is escaped too.
func escape(b *strings.Builder, name string, colon int) {
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '/' || c == 0 || i == colon || c == '%' && looksEscaped(name[i+1:]) {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
			continue
		}
		b.WriteByte(c)
	}
}

// looksEscaped tells whether a % before s would be read as an escape.
func looksEscaped(s string) bool {
	return s != "" && (s[0] == '_' || s[0] == '~') || len(s) > 1 && isHex(s[0]) && isHex(s[1])
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' || c >= 'a' && c <= 'f' }

// cut shortens an encoded name, not within an escape or a rune.
func cut(enc string, d backends.DID) string {
	sum := sha256.Sum256([]byte(d.String()))
	n := min(len(enc), maxName-len(cutMark)-32)
	if n < len(enc) {
		if i := strings.LastIndexByte(enc[n-2:n], '%'); i >= 0 {
			n += i - 2
		}
		for i := 0; i < utf8.UTFMax && !utf8.RuneStart(enc[n]); i++ {
			n--
		}
	}
	return enc[:n] + cutMark + hex.EncodeToString(sum[:16])
}

// isCut tells whether an entry name is one that cannot be decoded.
func isCut(name string) bool {
	i := len(name) - 32 - len(cutMark)
	return i >= 0 && name[i:i+len(cutMark)] == cutMark
}

// DecodeName is the inverse of EncodeName. Any name that EncodeName would not give is
// ErrNotExist: nothing can have it. So is a cut one, which only a listing can resolve.
func DecodeName(scope, name string) (backends.DID, error) {
	if err := checkElement(name); err != nil {
		return backends.DID{}, err
	}
	d := backends.DID{Scope: scope}
	rest := name
	if s, n, ok := strings.Cut(name, ":"); ok && s != scope && backends.CheckScope(s) == nil {
		d.Scope, rest = s, n
	}
	if rest != "%_" || d.Scope != scope {
		d.Name = unescape(rest)
	}
	if EncodeName(scope, d) != name {
		return backends.DID{}, fmt.Errorf("name %q: no DID is shown so: %w", name, backends.ErrNotExist)
	}
	return d, nil
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			v, _ := hex.DecodeString(s[i+1 : i+3])
			b.WriteByte(v[0])
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// lfnName gives the entry name of a child in layout lfn: the last element of its path.
// False when d is not directly below dir or POSIX cannot show the element: such a DID
// stands elsewhere in the tree, or nowhere.
func (l *Lake) lfnName(dir, d backends.DID) (string, bool) {
	name, ok := strings.CutPrefix(d.Name, dir.Name+"/")
	return name, ok && d.Scope == l.ScopeOf(d.Name) && checkElement(name) == nil
}
