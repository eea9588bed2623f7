package main

import (
	"fmt"
	"strconv"
	"strings"

	"tarn/backends"
	"tarn/backends/rseexpr"
)

// ruleKeys is what a rule in words may say, in the order of its help.
var ruleKeys = []string{"copies", "rse", "from", "lifetime", "activity", "priority", "weight", "grouping", "comment"}

// parsedRule is a rule in words. Its lifetime counts from when it is put somewhere.
type parsedRule struct {
	backends.Rule
	lifetime string
}

// parseRule reads a rule in words: copies=1 rse=PIC-DISK from='site=LAPALMA|site=PIC'. Words that hold spaces stand
// in quotes, single or double. Everything that is wrong is in the one error.
func parseRule(s string) (parsedRule, error) {
	r := parsedRule{Rule: backends.Rule{Copies: 1}}
	words, err := splitWords(s)
	if err != nil {
		return r, err
	}
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	expression := func(key, v string) string {
		if _, err := rseexpr.Parse(v); err != nil {
			fault("%s: %v; an RSE expression looks like country=ES&rse_type=DISK", key, err)
		}
		return v
	}
	given := map[string]bool{}
	for _, w := range words {
		key, v, ok := strings.Cut(w, "=")
		if !ok {
			fault("%q: want KEY=VALUE, quote values that hold spaces", w)
			continue
		}
		if given[key] {
			fault("%s is given twice", key)
			continue
		}
		given[key] = true
		switch key {
		case "copies":
			if r.Copies, err = strconv.Atoi(v); err != nil || r.Copies < 1 {
				fault("copies: want a number from 1 on, not %q", v)
			}
		case "rse":
			r.Expression = expression(key, v)
		case "from":
			r.Source = expression(key, v)
		case "lifetime":
			if d, err := parseDuration(v); err != nil {
				fault("lifetime: %v", err)
			} else if d <= 0 {
				fault("lifetime: want more than nothing, not %q", v)
			}
			r.lifetime = v
		case "activity":
			r.Activity = v
		case "priority":
			if r.Priority, err = strconv.Atoi(v); err != nil || r.Priority < 1 || r.Priority > 5 {
				fault("priority: want 1 to 5 (the most urgent), not %q", v)
			}
		case "weight":
			r.Weight = v
		case "grouping":
			switch r.Grouping = backends.Grouping(strings.ToUpper(v)); r.Grouping {
			case backends.GroupAll, backends.GroupDataset, backends.GroupNone:
			default:
				fault("grouping: want ALL, DATASET or NONE, not %q", v)
			}
		case "comment":
			r.Comment = v
		default:
			hint := "want " + strings.Join(ruleKeys, ", ")
			if _, err := rseexpr.Parse(w); err == nil {
				hint += "; an RSE expression stands behind rse=, as rse='" + w + "'"
			}
			fault("unknown word %q: %s", key, hint)
		}
	}
	if !given["rse"] {
		fault("no rse=EXPRESSION, which says where the copies go")
	}
	if len(faults) > 0 {
		return r, fmt.Errorf("rule %q: %s", s, strings.Join(faults, "; "))
	}
	return r, nil
}

// splitWords splits at spaces outside of quotes, which it takes away.
func splitWords(s string) (out []string, err error) {
	var word strings.Builder
	quote, inWord := rune(0), false
	for _, c := range s {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if inWord {
				out = append(out, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("rule %q: the quote %c is not closed", s, quote)
	}
	if inWord {
		out = append(out, word.String())
	}
	return out, nil
}
