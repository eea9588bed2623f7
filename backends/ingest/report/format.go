package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// number has three digits that count, and no exponent.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "?"
	case a == 0:
		return "0"
	case a >= 100:
		return group(int64(math.Round(v)))
	case a >= 10:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	case a >= 0.1:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 2, 64), ".00")
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// group writes 12345 as 12,345.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	head := ""
	if n < 0 {
		head, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return head + s
}

// scaled writes v with a prefix of thousands.
func scaled(v float64, unit string) string {
	for _, p := range []string{"", "k", "M", "G", "T"} {
		if math.Abs(v) < 999.5 {
			return number(v) + " " + p + unit
		}
		v /= 1000
	}
	return number(v) + " P" + unit
}

func byteCount(n int64) string { return scaled(float64(n), "B") }

func rate(v float64) string { return number(v/1e6) + " MB/s" }

func fileRate(v float64) string { return number(v) }

// took writes a time so that it can be compared with others: seconds below two minutes.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "?"
	case d < time.Second:
		return number(float64(d)/1e6) + " ms"
	case d < 2*time.Minute:
		return number(d.Seconds()) + " s"
	}
	return d.Round(time.Second).String()
}

// against is a test's rate as part of the rate that was asked for.
func against(t Test, asked float64) string {
	switch {
	case asked <= 0:
		return ""
	case t.Scaled:
		return "–" // bytes are scaled, so that their rate says nothing
	}
	return fmt.Sprintf("%.2f", t.BytesPerSecond()/asked)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04 MST")
}
