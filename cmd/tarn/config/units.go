package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Size is a number of bytes, written 10G, 64MiB, 1.5T or 4096. As in coreutils, K, M,
// G and T are powers of 1024 (as KiB, MiB ... are), and KB, MB ... powers of 1000.
type Size int64

// The units.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
	MB  Size = 1e6
	TB  Size = 1e12
)

var sizeUnits = map[string]float64{
	"": 1, "B": 1,
	"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50,
	"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40, "PIB": 1 << 50,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15,
}

// ParseSize reads a Size. Negative ones are refused.
func ParseSize(s string) (Size, error) {
	t := strings.TrimSpace(s)
	i := 0
	for i < len(t) && (t[i] >= '0' && t[i] <= '9' || t[i] == '.') {
		i++
	}
	unit, ok := sizeUnits[strings.ToUpper(strings.TrimSpace(t[i:]))]
	if i == 0 || !ok {
		return 0, fmt.Errorf("%q is not a size: write it as 10G, 64MiB or 4096", s)
	}
	if unit == 1 {
		n, err := strconv.ParseInt(t[:i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a size: want a whole number of bytes below 8 EiB", s)
		}
		return Size(n), nil
	}
	f, err := strconv.ParseFloat(t[:i], 64)
	if err != nil || f*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size: write it as 10G, 64MiB or 4096, below 8 EiB", s)
	}
	return Size(f * unit), nil
}

// String prints s exactly, so that ParseSize reads it back.
func (s Size) String() string {
	for _, u := range []struct {
		n    Size
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if s >= u.n && s%u.n == 0 {
			return strconv.FormatInt(int64(s/u.n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalYAML reads a scalar.
func (s *Size) UnmarshalYAML(n *yaml.Node) (err error) { *s, err = ParseSize(n.Value); return err }

// Rate is bytes a second, written as a Size with or without /s: 800MB/s.
type Rate int64

// ParseRate reads a Rate.
func ParseRate(s string) (Rate, error) {
	n, err := ParseSize(strings.TrimSuffix(strings.TrimSpace(s), "/s"))
	if err != nil {
		return 0, fmt.Errorf("%q is not a rate: write it as 800MB/s, 64MiB/s or 0", s)
	}
	return Rate(n), nil
}

// String prints r so that ParseRate reads it back.
func (r Rate) String() string {
	if r == 0 {
		return "0"
	}
	return Size(r).String() + "/s"
}

// UnmarshalYAML reads a scalar.
func (r *Rate) UnmarshalYAML(n *yaml.Node) (err error) { *r, err = ParseRate(n.Value); return err }

// Duration is a time span: Go's notation, and d and w for days and weeks, as 1h30m, 7d, 1d12h.
type Duration time.Duration

// ParseDuration reads a Duration. Negative ones are refused.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("%q is not a duration: write it as 200ms, 1h30m or 7d", s)
	rest, days := strings.TrimSpace(s), 0.0
	for _, u := range []struct {
		name string
		days float64
	}{{"w", 7}, {"d", 1}} {
		n, after, ok := strings.Cut(rest, u.name)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(n, 64)
		if err != nil || strings.ContainsAny(n, "+-eExXpP_nN") {
			return 0, bad
		}
		days, rest = days+f*u.days, after
		if rest == "" {
			rest = "0"
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || days*24*float64(time.Hour)+float64(d) >= math.MaxInt64 {
		return 0, bad
	}
	return Duration(days*24*float64(time.Hour)) + Duration(d), nil
}

// D is the Duration as the standard library has it.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String prints d so that ParseDuration reads it back.
func (d Duration) String() string {
	const day = Duration(24 * time.Hour)
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// UnmarshalYAML reads a scalar.
func (d *Duration) UnmarshalYAML(n *yaml.Node) (err error) {
	*d, err = ParseDuration(n.Value)
	return err
}

// Speed is how many times faster than the real thing something runs: 1000x.
type Speed float64

// ParseSpeed reads a Speed.
func ParseSpeed(s string) (Speed, error) {
	f, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(s), "x"), 64)
	if err != nil || !(f > 0) || math.IsInf(f, 0) {
		return 0, fmt.Errorf("%q is not a speed: write it as 1000x", s)
	}
	return Speed(f), nil
}

// String prints s so that ParseSpeed reads it back.
func (s Speed) String() string { return strconv.FormatFloat(float64(s), 'g', -1, 64) + "x" }

// UnmarshalYAML reads a scalar.
func (s *Speed) UnmarshalYAML(n *yaml.Node) (err error) { *s, err = ParseSpeed(n.Value); return err }

// Mode is permission bits, written in octal.
type Mode uint32

// ParseMode reads 0755, 755 or 0o755.
func ParseMode(s string) (Mode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(s), "0o"), 8, 32)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("%q is not a mode: write it in octal, as 0755", s)
	}
	return Mode(n), nil
}

// String prints m in octal.
func (m Mode) String() string { return fmt.Sprintf("%#04o", uint32(m)) }

// UnmarshalYAML reads a scalar.
func (m *Mode) UnmarshalYAML(n *yaml.Node) (err error) { *m, err = ParseMode(n.Value); return err }
