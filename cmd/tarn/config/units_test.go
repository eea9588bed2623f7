package config

import (
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]Size{
		"0": 0, "4096": 4096, "10G": 10 << 30, "64MiB": 64 << 20, "64 MiB": 64 << 20, "1.5T": 3 << 39,
		"10gb": 10e9, "12TB": 12e12, "1k": 1024, "7B": 7, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) is %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "G", "-1", "1.5", "10X", "1..2G", "8E", "8388608T", "9223372036854775808", "1e3", "ten"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) is %d, want an error", s, got)
		}
	}
}

func TestParseRate(t *testing.T) {
	for s, want := range map[string]Rate{"0": 0, "800MB/s": 800e6, "64MiB": 64 << 20, " 1G/s ": 1 << 30} {
		got, err := ParseRate(s)
		if err != nil || got != want {
			t.Errorf("ParseRate(%q) is %d, %v; want %d", s, got, err, want)
		}
		if back, err := ParseRate(got.String()); err != nil || back != want {
			t.Errorf("%q is read back as %d, %v", got, back, err)
		}
	}
	for _, s := range []string{"", "/s", "10X/s", "-1M/s", "1M/m"} {
		if got, err := ParseRate(s); err == nil {
			t.Errorf("ParseRate(%q) is %d, want an error", s, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0": 0, "200ms": 200 * time.Millisecond, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour,
		"1d12h": 36 * time.Hour, "2w1d": 15 * 24 * time.Hour, "1.5d": 36 * time.Hour,
	} {
		if got, err := ParseDuration(s); err != nil || got.D() != want {
			t.Errorf("ParseDuration(%q) is %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "5", "-1h", "d", "1h1d", "-1d", "999999999d", "1e9d", "nand", "1d-1h", "1 day"} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("ParseDuration(%q) is %v, want an error", s, got)
		}
	}
}

func TestParseSpeedAndMode(t *testing.T) {
	for s, want := range map[string]Speed{"1000x": 1000, "1": 1, "0.5x": 0.5} {
		if got, err := ParseSpeed(s); err != nil || got != want {
			t.Errorf("ParseSpeed(%q) is %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", "0x", "-1x", "fast", "Infx", "NaN"} {
		if got, err := ParseSpeed(s); err == nil {
			t.Errorf("ParseSpeed(%q) is %v, want an error", s, got)
		}
	}
	for s, want := range map[string]Mode{"0755": 0o755, "700": 0o700, "0o1777": 0o1777} {
		if got, err := ParseMode(s); err != nil || got != want {
			t.Errorf("ParseMode(%q) is %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0888", "rwx", "17777", "-1"} {
		if got, err := ParseMode(s); err == nil {
			t.Errorf("ParseMode(%q) is %v, want an error", s, got)
		}
	}
}

// What is printed is read back as the same.
func FuzzUnits(f *testing.F) {
	for _, s := range []string{"10G", "64MiB", "1.5T", "1h30m", "7d", "1000x", "0755", "1.5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ParseSize(s); err == nil {
			if w, err := ParseSize(v.String()); err != nil || w != v || v < 0 {
				t.Errorf("size %q is %d, printed %q, read %d, %v", s, v, v, w, err)
			}
		}
		if v, err := ParseDuration(s); err == nil {
			if w, err := ParseDuration(v.String()); err != nil || w != v || v < 0 {
				t.Errorf("duration %q is %d, printed %q, read %d, %v", s, v, v, w, err)
			}
		}
		if v, err := ParseSpeed(s); err == nil {
			if w, err := ParseSpeed(v.String()); err != nil || w != v {
				t.Errorf("speed %q is %v, read %v, %v", s, v, w, err)
			}
		}
		if v, err := ParseMode(s); err == nil {
			if w, err := ParseMode(v.String()); err != nil || w != v {
				t.Errorf("mode %q is %v, read %v, %v", s, v, w, err)
			}
		}
	})
}
