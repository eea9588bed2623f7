package backends

import (
	"fmt"
	"strings"
	"time"
)

// The priorities of rules, and what 0 means.
const (
	LowestPriority  = 1
	DefaultPriority = 3
	HighestPriority = 5
)

// Check tells what is wrong with the fields of a rule that need no lake to be understood: ErrNotSupported.
func (r Rule) Check() error {
	switch {
	case r.Copies < 1:
		return fmt.Errorf("%d copies: %w", r.Copies, ErrNotSupported)
	case r.Expression == "":
		return fmt.Errorf("no RSE expression: %w", ErrNotSupported)
	case r.Priority < 0 || r.Priority > HighestPriority:
		return fmt.Errorf("priority %d is not one of %d to %d: %w", r.Priority, LowestPriority, HighestPriority, ErrNotSupported)
	case strings.ContainsAny(r.Activity+r.Weight, "\n\x00"):
		return fmt.Errorf("an activity or weight of several lines: %w", ErrNotSupported)
	}
	switch r.Grouping {
	case "", GroupAll, GroupDataset, GroupNone:
		return nil
	}
	return fmt.Errorf("grouping %q is not %s, %s or %s: %w", r.Grouping, GroupAll, GroupDataset, GroupNone, ErrNotSupported)
}

// Same tells whether two rules ask for the same copies: of one DID, as many, at the same RSEs, made from the same ones.
func (r Rule) Same(other Rule) bool {
	return r.DID == other.DID && r.Copies == other.Copies && r.Expression == other.Expression && r.Source == other.Source
}

// Updated is the rule r after its like was asked for again: what the newer one says counts, what it leaves
// out stays, and it ends when the last of the two does, so that nobody's copies lose their rule early.
func (r Rule) Updated(by Rule) Rule {
	say := func(old *string, now string) {
		if now != "" {
			*old = now
		}
	}
	say(&r.Comment, by.Comment)
	say(&r.Account, by.Account)
	say(&r.Activity, by.Activity)
	say(&r.Weight, by.Weight)
	if by.Grouping != "" {
		r.Grouping = by.Grouping
	}
	if by.Priority != 0 {
		r.Priority = by.Priority
	}
	switch {
	case r.Expires.IsZero() || by.Expires.IsZero():
		r.Expires = time.Time{}
	case by.Expires.After(r.Expires):
		r.Expires = by.Expires
	}
	return r
}

// Urgency is the priority that the transfers of the rule have.
func (r Rule) Urgency() int {
	if r.Priority == 0 {
		return DefaultPriority
	}
	return r.Priority
}
