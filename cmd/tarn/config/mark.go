package config

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Mark is how full an RSE is: a part of the space that its storage has, written 90%, or bytes of replicas on record,
// written as a Size. Up to 1 it is a part; 0 is none.
type Mark float64

// ParseMark reads a Mark.
func ParseMark(s string) (Mark, error) {
	t := strings.TrimSpace(s)
	if p, ok := strings.CutSuffix(t, "%"); ok {
		f, err := strconv.ParseFloat(strings.TrimSpace(p), 64)
		if err != nil || !(f >= 0 && f <= 100) {
			return 0, fmt.Errorf("%q is not a part of 100: write it as 90%%", s)
		}
		return Mark(f / 100), nil
	}
	n, err := ParseSize(t)
	if err != nil || n == 1 {
		return 0, fmt.Errorf("%q is neither a part of the space nor a size: write it as 90%% or 20G", s)
	}
	return Mark(n), nil
}

// IsPart tells whether m is a part of the space.
func (m Mark) IsPart() bool { return m > 0 && m <= 1 }

// String prints m so that ParseMark reads it back.
func (m Mark) String() string {
	switch {
	case m == 0:
		return "0"
	case m.IsPart():
		return strconv.FormatFloat(float64(m)*100, 'g', 12, 64) + "%"
	}
	return Size(m).String()
}

// UnmarshalYAML reads a scalar.
func (m *Mark) UnmarshalYAML(n *yaml.Node) (err error) { *m, err = ParseMark(n.Value); return err }

// MarshalYAML writes m as ParseMark reads it.
func (m Mark) MarshalYAML() (any, error) { return m.String(), nil }
