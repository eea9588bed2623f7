package credential

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/backends"
)

func profile(name, id, secret string) string {
	return fmt.Sprintf("[%s]\naws_access_key_id = %s\naws_secret_access_key=%s\n", name, id, secret)
}

// The order of AWS's tools, and a file that is named alone.
func TestKeysAreFoundInTheOrderOfAWS(t *testing.T) {
	vars := map[string]string{}
	s, dir := source(t, vars)
	want := func(file, id, secret, session, from string) {
		t.Helper()
		if got, err := s.Keys(file); err != nil || got != (Keys{id, secret, session, from}) {
			t.Errorf("got %+v, %v; want %s of %s", got, err, id, from)
		}
	}
	want("", "", "", "", "")
	vars["HOME"] = dir
	want("", "", "", "", "")
	if err := os.Mkdir(filepath.Join(dir, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, ".aws", "credentials")
	write(t, home, "# mine\n\n"+profile("default", "ID1", "a/+=b")+"region = x\n; more\n"+profile("grid", "ID2", "two")+"AWS_SESSION_TOKEN = tok=\n", 0o600)
	want("", "ID1", "a/+=b", "", home)
	vars["AWS_PROFILE"] = "grid"
	want("", "ID2", "two", "tok=", home)
	shared := filepath.Join(dir, "shared")
	write(t, shared, profile("grid", "ID3", "three"), 0o600)
	vars["AWS_SHARED_CREDENTIALS_FILE"] = shared
	want("", "ID3", "three", "", shared)
	vars["AWS_ACCESS_KEY_ID"], vars["AWS_SECRET_ACCESS_KEY"], vars["AWS_SESSION_TOKEN"] = "ID4", "four", "t"
	want("", "ID4", "four", "t", "AWS_ACCESS_KEY_ID")
	mine := filepath.Join(dir, "rse")
	write(t, mine, profile("default", "ID5", "five"), 0o600)
	want(mine, "ID5", "five", "", mine)
	if l := s.List(); len(l) != 1 || l[0].Kind != "s3 keys" || l[0].Name != "ID4" || l[0].Problem != "" {
		t.Errorf("list: %+v", l)
	}
	if f, ok := s.FoundKeys(mine); !ok || f.Name != "ID5" || f.From != mine {
		t.Errorf("found: %+v", f)
	}
}

func TestKeysAreReadAgain(t *testing.T) {
	s, dir := source(t, nil)
	file := filepath.Join(dir, "keys")
	if _, err := s.Keys(file); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), file) {
		t.Errorf("a named file that is not there: %v", err)
	}
	for i := range 20 { // of the same length, and within the clock's grain
		write(t, file, profile("default", "ID", fmt.Sprintf("secret%02d", i)), 0o600)
		if got, err := s.Keys(file); err != nil || got.Secret != fmt.Sprintf("secret%02d", i) {
			t.Fatalf("keys %d: %q, %v", i, got.Secret, err)
		}
	}
}

func TestKeysThatAreOfNoUse(t *testing.T) {
	vars := map[string]string{}
	s, dir := source(t, vars)
	file := filepath.Join(dir, "keys")
	for what, text := range map[string]string{
		"no default":   profile("other", "ID", "s3cr3t"),
		"no ID":        "[default]\naws_secret_access_key = s3cr3t\n",
		"no secret":    "[default]\naws_access_key_id = ID\naws_session_token = s3cr3t\n",
		"no setting":   "[default]\ns3cr3t\n",
		"no profile":   "[default s3cr3t\n",
		"no character": profile("default", "ID", "s3cr3t\x01"),
		"long line":    profile("default", "ID", strings.Repeat("s3cr3t", maxFile)),
	} {
		write(t, file, text, 0o600)
		got, err := s.Keys(file)
		if err == nil || got.Secret != "" || got.Session != "" || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(s.KeysHint(file), file) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
		if f, ok := s.FoundKeys(file); !ok || f.Problem == "" || strings.Contains(fmt.Sprint(f), "s3cr3t") {
			t.Errorf("%s: found %+v", what, f)
		}
	}
	write(t, file, profile("default", "ID", "s3cr3t"), 0o640)
	if k, err := s.Keys(file); !errors.Is(err, backends.ErrPermission) || k.Secret != "" || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
	vars["AWS_ACCESS_KEY_ID"] = "ID"
	if k, err := s.Keys(""); err == nil || k.Secret != "" {
		t.Errorf("half of the variables: %+v, %v", k, err)
	}
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte(profile("default", "ID", "secret")))
	f.Add([]byte("[a]\n[b\n=\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseKeys(b); err != nil && !errors.Is(err, backends.ErrDamaged) {
			t.Error(err)
		}
	})
}
