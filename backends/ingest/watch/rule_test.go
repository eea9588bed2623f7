package watch

import (
	"errors"
	"testing"

	"tarn/backends"
)

func TestParseRule(t *testing.T) {
	for _, c := range []struct{ in, out, trigger string }{
		{"", "closed", ""},
		{"closed", "closed", ""},
		{"trigger:.trigger", "trigger:.trigger", "a/f.fits.trigger"},
		{"age:30s", "age:30s", ""},
		{"age:90m", "age:1h30m0s", ""},
	} {
		r, err := ParseRule(c.in)
		if err != nil || r.String() != c.out || r.Trigger("a/f.fits") != c.trigger {
			t.Errorf("%q: %v, %q, %v", c.in, r, r.Trigger("a/f.fits"), err)
		}
	}
	for _, bad := range []string{"open", "closed:", "trigger", "trigger:", "trigger:/x", "trigger:a\x00", "age", "age:", "age:-1s", "age:0s", "age:30", "age:1000000h", " closed"} {
		if _, err := ParseRule(bad); !errors.Is(err, backends.ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzRule(f *testing.F) {
	for _, s := range []string{"", "closed", "trigger:.trigger", "age:30s", "age:1ns", "trigger:a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again != r {
			t.Errorf("%q: %q, %v, %v", s, r, again, err)
		}
		if r.Trigger("x") != "" {
			if file, is := r.triggers(r.Trigger("x")); !is || file != "x" {
				t.Errorf("%q: the trigger of x is %q, that of %q", s, r.Trigger("x"), file)
			}
		}
	})
}
