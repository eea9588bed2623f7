package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"tarn/backends"
	"tarn/backends/query"
	"tarn/cmd/tarn/config"
)

// Every cause keeps its exit code and its identity on the way through the socket.
func TestErrorsCrossTheWire(t *testing.T) {
	for _, p := range []struct {
		err  error
		code int
	}{
		{ErrUsage, CodeUsage}, {ErrPartial, CodePartial}, {ErrNothing, CodeNothing}, {ErrStaging, CodeStaging}, {ErrFatal, CodeFatal},
		{ErrNoDaemon, CodeFatal}, {ErrCutShort, CodeTemporary}, {ErrNoDirectory, CodeNoDir}, {config.ErrNoLake, CodeFatal},
		{backends.ErrNotExist, CodeNoFile}, {backends.ErrExist, CodeOther}, {backends.ErrIsDir, CodeUsage}, {backends.ErrNotDir, CodeNoDir},
		{backends.ErrNotEmpty, CodeOther}, {backends.ErrPermission, CodeRefused}, {backends.ErrImmutable, CodeRefused},
		{backends.ErrReadOnly, CodeRefused}, {backends.ErrOffline, CodeRefused}, {backends.ErrRefused, CodeRefused}, {backends.ErrStale, CodeTemporary},
		{backends.ErrCorrupt, CodeCorrupt}, {backends.ErrLost, CodeCorrupt}, {backends.ErrNoSpace, CodeNoSpace}, {backends.ErrQuota, CodeNoSpace},
		{backends.ErrName, CodeUsage}, {backends.ErrNameTooLong, CodeUsage}, {backends.ErrNotSupported, CodeOther},
		{backends.ErrTemporary, CodeTemporary}, {backends.ErrUnavailable, CodeTemporary}, {backends.ErrBusy, CodeFatal}, {backends.ErrLoop, CodeOther},
		{backends.ErrDamaged, CodeFatal}, {backends.ErrVersion, CodeFatal}, {backends.ErrClosed, CodeTemporary}, {backends.ErrCancelled, CodeOther},
		{context.DeadlineExceeded, CodeTimeout}, {context.Canceled, CodeOther},
	} {
		e := Describe(fmt.Errorf("do it: %w", p.err))
		if e.Code != p.code || e.Message != "do it: "+p.err.Error() {
			t.Errorf("%v: code %d, message %q; want code %d", p.err, e.Code, e.Message, p.code)
		}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var far Error
		if err := json.Unmarshal(b, &far); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(&far, p.err) || far.Code != p.code || far.Hint != e.Hint {
			t.Errorf("%v arrives as %+v", p.err, far)
		}
		if again := Describe(fmt.Errorf("ask: %w", &far)); again.Code != p.code || again.Kind != e.Kind {
			t.Errorf("%v wrapped again is %+v", p.err, again)
		}
	}
	if Describe(nil) != nil {
		t.Error("no error is described")
	}
	if e := Describe(errors.New("x")); e.Code != CodeOther || e.Kind != "other" {
		t.Errorf("an unknown error is %+v", e)
	}
	_, err := query.Parse("a = = b")
	if e := Describe(err); e.Code != CodeUsage || e.Hint == "" {
		t.Errorf("a bad query is %+v", e)
	}
	if e := Describe(&config.Error{File: "x"}); e.Code != CodeFatal {
		t.Errorf("a bad lake file is %+v", e)
	}
	if e := Fail(backends.ErrNotExist, "", "no %s", "x"); e.Hint != "" || e.Message != "no x" || !errors.Is(e, backends.ErrNotExist) {
		t.Errorf("Fail gives %+v", e)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "/a/b", "\xff\xfe", "new\nline", `q"uote`, "ü", `{"base64":"x"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := json.Marshal(struct{ T Text }{Text(s)})
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ T Text }
		if err := json.Unmarshal(b, &got); err != nil || string(got.T) != s {
			t.Errorf("%q becomes %s, read %q, %v", s, b, got.T, err)
		}
		for _, r := range got.T.Quote() {
			if r < ' ' {
				t.Errorf("%q is quoted as %q", s, got.T.Quote())
			}
		}
	})
}

func FuzzUnmarshalText(f *testing.F) {
	f.Add([]byte(`{"base64":"/w=="}`))
	f.Add([]byte(`"a"`))
	f.Add([]byte(`{"base64":"*"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x Text
		_ = x.UnmarshalJSON(b) // must not panic
	})
}
