package watch

import (
	"fmt"
	"strings"
	"time"

	"tarn/backends"
)

// kind is what a rule goes by.
type kind string

const (
	closed  kind = "closed"
	trigger kind = "trigger"
	age     kind = "age"
)

// Rule says when a file is complete. The zero value is closed.
type Rule struct {
	kind   kind
	suffix string        // of trigger
	age    time.Duration // of age
}

// maxAge is more than any file waits for; a longer age is a mistake in its unit.
const maxAge = 30 * 24 * time.Hour

// ParseRule reads
//
//	closed           nobody has the file open for writing; "" is the same
//	trigger:SUFFIX   there is a file of the same name and SUFFIX, of any type: trigger:.trigger
//	age:DURATION     it has not changed for so long while it was looked at: age:30s
//
// Errors are backends.ErrName.
func ParseRule(s string) (Rule, error) {
	word, arg, has := strings.Cut(s, ":")
	switch {
	case s == "" || s == string(closed):
		return Rule{}, nil
	case word == string(trigger) && has:
		if arg == "" || len(arg) > 100 || strings.ContainsAny(arg, "/\x00") {
			return Rule{}, fmt.Errorf("complete %q: %w: the suffix of a trigger is 1 to 100 characters of a file name", s, backends.ErrName)
		}
		return Rule{kind: trigger, suffix: arg}, nil
	case word == string(age) && has:
		d, err := time.ParseDuration(arg)
		if err != nil || d <= 0 || d > maxAge {
			return Rule{}, fmt.Errorf("complete %q: %w: an age is a duration such as 30s, at most %v", s, backends.ErrName, maxAge)
		}
		return Rule{kind: age, age: d}, nil
	}
	return Rule{}, fmt.Errorf("complete %q: %w: it is closed, trigger:SUFFIX or age:DURATION", s, backends.ErrName)
}

// String is what ParseRule reads.
func (r Rule) String() string {
	switch r.kind {
	case trigger:
		return string(trigger) + ":" + r.suffix
	case age:
		return string(age) + ":" + r.age.String()
	}
	return string(closed)
}

// Trigger names the trigger file of a path, which is deleted with its source; "" where the
// rule has none.
func (r Rule) Trigger(path string) string {
	if r.kind != trigger {
		return ""
	}
	return path + r.suffix
}

// triggers gives the path that a trigger file stands for.
func (r Rule) triggers(path string) (string, bool) {
	if r.kind != trigger {
		return "", false
	}
	file, ok := strings.CutSuffix(path, r.suffix)
	return file, ok && file != "" && !strings.HasSuffix(file, "/")
}
