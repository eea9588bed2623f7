package backends

import "context"

// Served is the catalogue of a server that makes, keeps and deletes copies by rules of its own. Whoever has many files asks it for all
// of them at once, and hears what the server says now: nothing is answered from memory. What is not answered is an error, never an absence.
type Served interface {
	// Fits tells why the server would not take a name, without asking it; nil: it may take it.
	Fits(d DID) error
	// Look tells of files. One that does not exist is missing in the answer.
	Look(ctx context.Context, files []DID) (map[DID]Look, error)
	// HoldersOf is Places.Holders of many paths at one RSE, in their order.
	HoldersOf(ctx context.Context, rse string, pfns []string) ([]int, error)
	// Ask puts rules on the datasets that the files of directories are attached to: one for each dataset and rule, however often it is
	// asked for. Rule.DID means nothing here. A rule without Expires has no end; ErrNotSupported for one that has ended.
	Ask(ctx context.Context, dirs []DID, rules []Rule) error
	// Held tells, for each of the rules in turn, what the server has of it on the dataset of a directory's files, and what it holds of
	// the files that want names. A rule that is not there has no ID.
	Held(ctx context.Context, dir DID, rules []Rule, want map[DID]bool) ([]Held, error)
}

// Look is what a server has of a file.
type Look struct {
	Info     Info
	Removed  bool // from the tree: the name is hidden
	Replicas []Replica
}

// Held is a rule with what it holds.
type Held struct {
	RuleStatus
	At map[DID][]string // by file, the RSEs with a copy that it has there and keeps
}
