package credential

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"tarn/backends"
)

// Keys are those of an S3 account.
type Keys struct {
	Access  string // the ID of the key, which is no secret
	Secret  string // "" when there are none that can be used
	Session string // the token that temporary keys come with
	From    string // the variable or file that they are from
}

type keyFile = cached[map[string]Keys]

// Keys gives those of file, or, where file is "", the first that AWS's tools would find: AWS_ACCESS_KEY_ID with
// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile AWS_PROFILE ("default") of AWS_SHARED_CREDENTIALS_FILE
// (~/.aws/credentials). The zero Keys when there are none: requests go unsigned then. Keys that cannot be used come with an
// error that says why, and without their secret.
//
// A file has the form of ~/.aws/credentials, and must be readable by its owner alone:
//
//	[default]
//	aws_access_key_id = AKIA...
//	aws_secret_access_key = ...
//	aws_session_token = ...
func (s *Source) Keys(file string) (Keys, error) {
	profile, named := "default", file != ""
	if file == "" {
		if id, secret := s.o.Getenv("AWS_ACCESS_KEY_ID"), s.o.Getenv("AWS_SECRET_ACCESS_KEY"); id != "" || secret != "" {
			return judgeKeys(Keys{Access: id, Secret: secret, Session: s.o.Getenv("AWS_SESSION_TOKEN"), From: "AWS_ACCESS_KEY_ID"}, nil)
		}
		if p := s.o.Getenv("AWS_PROFILE"); p != "" {
			profile, named = p, true
		}
		if file = s.o.Getenv("AWS_SHARED_CREDENTIALS_FILE"); file != "" {
			named = true
		} else if home := s.o.Getenv("HOME"); home != "" {
			file = filepath.Join(home, ".aws", "credentials")
		} else {
			return Keys{}, nil
		}
	}
	c, _ := s.keys.LoadOrStore(file, &keyFile{})
	all, err := c.(*keyFile).get(file, func() (map[string]Keys, stamp, error) {
		b, st, err := s.secret(file, true)
		if err != nil {
			return nil, st, err
		}
		all, err := parseKeys(b)
		return all, st, err
	})
	k, ok := all[profile]
	k.From = file
	switch {
	case errors.Is(err, errNone) && !named:
		return Keys{}, nil
	case errors.Is(err, errNone):
		err = fmt.Errorf("the file is not there: %w", backends.ErrPermission)
	case err == nil && !ok && !named:
		return Keys{}, nil
	case err == nil && !ok:
		err = fmt.Errorf("it has no profile %q: %w", profile, backends.ErrPermission)
	}
	return judgeKeys(k, err)
}

// judgeKeys takes the secret from keys that are of no use.
func judgeKeys(k Keys, err error) (Keys, error) {
	if err == nil && (k.Access == "" || k.Secret == "") {
		err = fmt.Errorf("one of aws_access_key_id and aws_secret_access_key is missing: %w", backends.ErrDamaged)
	}
	if err == nil && strings.ContainsFunc(k.Access+k.Secret+k.Session, func(r rune) bool { return r <= ' ' || r > '~' }) {
		err = fmt.Errorf("they have characters that no key has: %w", backends.ErrDamaged)
	}
	if err != nil {
		err = fmt.Errorf("the S3 keys of %s: %w", k.From, err)
		k.Secret, k.Session = "", ""
	}
	return k, err
}

// parseKeys reads profiles by name. Its errors name lines, never what is in them.
func parseKeys(b []byte) (map[string]Keys, error) {
	all := map[string]Keys{}
	profile := ""
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxFile)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			if profile, _, ok = strings.Cut(name, "]"); !ok {
				return nil, fmt.Errorf("line %d is no profile: %w", n, backends.ErrDamaged)
			}
			profile = strings.TrimSpace(profile)
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d is no setting: %w", n, backends.ErrDamaged)
		}
		k := all[profile]
		switch value = strings.TrimSpace(value); strings.ToLower(strings.TrimSpace(key)) {
		case "aws_access_key_id":
			k.Access = value
		case "aws_secret_access_key":
			k.Secret = value
		case "aws_session_token":
			k.Session = value
		default:
			continue
		}
		all[profile] = k
	}
	if lines.Err() != nil {
		return nil, fmt.Errorf("a line is too long: %w", backends.ErrDamaged)
	}
	return all, nil
}

// KeysHint tells somebody whose keys (of file, as for Keys) were refused, or who has none, what may be wrong.
func (s *Source) KeysHint(file string) string {
	k, err := s.Keys(file)
	switch {
	case err != nil:
		return err.Error()
	case k.Secret == "":
		return "no S3 keys were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or name a file of keys in the lake file"
	}
	return fmt.Sprintf("as %s (%s): may it do this in the bucket?", k.Access, k.From)
}

// FoundKeys is what List tells of the keys of file, and whether there are any.
func (s *Source) FoundKeys(file string) (Found, bool) {
	k, err := s.Keys(file)
	return Found{Kind: "s3 keys", From: k.From, Name: k.Access, Problem: problem(err)}, k.From != ""
}
