package backends

import (
	"context"
	"iter"
	"time"

	"tarn/backends/query"
)

// Catalogue knows which DIDs exist, what they contain and where their replicas are;
// it never touches file bytes.
//
// All methods may be called in parallel. Each that changes something is one
// transaction: after an error nothing has changed, after success the change is
// durable. A catalogue that is down answers ErrUnavailable (with ErrTemporary),
// never ErrNotExist and never an empty sequence without an error.
type Catalogue interface {
	// Stat gives the Info of d, or ErrNotExist. ErrNotDir when an element before the
	// last of an lfn is a file.
	Stat(ctx context.Context, d DID) (Info, error)

	// Contents streams the children of the collection d in ascending byte order of
	// the names they have in the tree (lfn: the last path element; contents: the
	// DID, as scope:name), beginning after the name "after" ("" is the start). It
	// holds no lock and bounded memory; entries added or removed while it runs may
	// or may not be seen, all others are seen exactly once. The sequence ends after
	// the first error. ErrNotExist, ErrNotDir as Stat.
	Contents(ctx context.Context, d DID, after string) iter.Seq2[Info, error]

	// Parents streams the collections that d is attached to.
	Parents(ctx context.Context, d DID) iter.Seq2[DID, error]

	// Find streams the DIDs at or below root (the zero DID: the whole lake) for
	// which q matches. What q can refer to is the metadata of the DID, of the
	// collections above it (nearest wins, in layout lfn), and the keys of Builtin,
	// with the values that Subject gives.
	Find(ctx context.Context, root DID, q query.Expr) iter.Seq2[Info, error]

	// Add creates a DID; in layout lfn its parent must exist (else ErrNotExist) and
	// it is attached to it. A collection that exists is ErrExist. A file that exists
	// with the same generation is success (and adds the replicas it lacks); with
	// another generation the new content replaces the old one, which becomes a Past,
	// if Traits.Versions, and is ErrExist otherwise. Inode and Generation are
	// allotted when they are zero; a replaced file keeps its inode unless in.Inode
	// says otherwise.
	Add(ctx context.Context, in Info, meta Meta, at ...Replica) error

	// Attach makes children part of the collection parent; one that is part of it
	// already is success. ErrLoop when the parent would come to contain itself.
	Attach(ctx context.Context, parent DID, children ...DID) error

	// Detach takes children out of parent; one that is not part of it is success.
	// In layout lfn the home parent cannot be detached from (ErrNotSupported): Remove.
	Detach(ctx context.Context, parent DID, children ...DID) error

	// Replicas lists the copies of the file d, in all states. No copy is no error.
	Replicas(ctx context.Context, d DID) ([]Replica, error)

	// PutReplica adds the replica, or replaces the one at the same RSE. gen guards
	// against a content that was replaced meanwhile: ErrStale when d has another
	// generation now. An empty gen does not ask.
	PutReplica(ctx context.Context, d DID, gen Generation, r Replica) error

	// DropReplica forgets the replica at the RSE if it has this path; none, or one of another path, is success: whoever
	// deleted a file forgets no copy that was registered there meanwhile. An empty pfn does not ask.
	DropReplica(ctx context.Context, d DID, rse, pfn string) error

	// Meta gives d's own metadata; SetMeta merges m into it, a nil value deletes the key.
	Meta(ctx context.Context, d DID) (Meta, error)
	SetMeta(ctx context.Context, d DID, m Meta) error

	// Usage gives the number of files and their bytes in the whole lake, from memory.
	Usage() (files, bytes int64)

	// Traits says what this catalogue can do.
	Traits() CatalogueTraits

	// Close ends all sequences and releases what the catalogue holds.
	Close() error
}

// CatalogueTraits is what a catalogue can do; decorators pass it through.
type CatalogueTraits struct {
	Versions   bool // a file may get new generations, old ones stay for a grace period
	Rename     bool // Namespace.Rename works
	Symlinks   bool // Info.Target is kept
	Attributes bool // mode, owner and times are kept
	AnyName    bool // names may be any bytes but NUL, at most 255 bytes an element
}

// Namespace edits the tree, for catalogues that can.
type Namespace interface {
	// Scopes streams the scopes, in ascending order, as the Infos of their own collections.
	Scopes(ctx context.Context) iter.Seq2[Info, error]
	// AddScope creates a scope; in holds its DID (only Scope counts), Mode, owner, Layout. ErrExist, ErrName.
	AddScope(ctx context.Context, in Info) error
	// RemoveScope deletes an empty scope. ErrNotEmpty, ErrNotExist.
	RemoveScope(ctx context.Context, scope string) error

	// Rename moves a DID of an lfn scope, with all that is below it, in one
	// transaction whose cost does not grow with what is below. A file at the new
	// name is replaced (becomes a Past), an empty collection is replaced by a
	// collection; ErrNotEmpty, ErrIsDir, ErrNotDir as rename(2), ErrName for a
	// collection into itself, ErrNotSupported between scopes of other layouts.
	// Inode, generation, replicas and metadata stay.
	Rename(ctx context.Context, from, to DID) error

	// Remove drops the name. A file with replicas becomes a Past for the grace period;
	// a collection must be empty (ErrNotEmpty). In layout contents it detaches d
	// everywhere and drops the DID.
	Remove(ctx context.Context, d DID) error

	// Update changes attributes; CTime becomes now.
	Update(ctx context.Context, d DID, c Change) error
}

// Versions keeps what was replaced or removed until its grace period ends.
type Versions interface {
	// Pasts streams the Past records of the name d, newest first; with the zero DID
	// all there are, oldest first.
	Pasts(ctx context.Context, d DID) iter.Seq2[Past, error]
	// Undelete makes the Past current again; the content that stands at its name, if
	// any, becomes a Past in turn. ErrNotExist when it was purged.
	Undelete(ctx context.Context, handle string) error
	// Purge forgets the Past; its replicas must have been deleted before.
	Purge(ctx context.Context, handle string) error
	// History streams a collection's attach and detach events since a time, oldest first.
	History(ctx context.Context, parent DID, since time.Time) iter.Seq2[Event, error]
}

// Places tells which paths of an RSE are on record, for catalogues that keep them by path.
type Places interface {
	// Holders counts the replicas that have this path at the RSE, in all states: of files
	// that are there and of Pasts. ErrNotSupported for an RSE whose paths are not kept.
	Holders(ctx context.Context, rse, pfn string) (int, error)
}

// Cached is a catalogue that remembers for a while what a server said.
type Cached interface {
	// Refresh forgets what is remembered of d and of all below it; the zero DID: everything.
	Refresh(d DID)
	// AsOf tells of when what is shown of d is, where that is older than it should be since the server
	// cannot be asked; else zero.
	AsOf(d DID) time.Time
	// Member gives the Info of child if it is in the collection dir, from what is remembered of that where it can: Stat
	// and Parents in one. ErrNotExist.
	Member(ctx context.Context, dir, child DID) (Info, error)
	// Names is Contents for those who want to see the names first: files may be without their times (Info.Undated), of
	// which a server can tell one at a time only.
	Names(ctx context.Context, d DID, after string) iter.Seq2[Info, error]
}

// Inheriting gives metadata with that of the collections above, for catalogues that tell it of many DIDs at once.
type Inheriting interface {
	// FullMeta gives the metadata of each of dids with that of the collections above it, nearest wins. One that is not
	// there is left out.
	FullMeta(ctx context.Context, dids ...DID) (map[DID]Meta, error)
}

// Rules holds the copies users asked for. Rucio acts on them itself; for the embedded
// catalogue package replication does.
type Rules interface {
	// AddRule stores the rule, with state REPLICATING. One that asks for the same copies
	// (Rule.Same: DID, copies, expression and source) is success and gives its ID; of its
	// other fields those change that the new one has (Rule.Updated), its state stays.
	// ErrNotSupported for a rule that Check refuses.
	AddRule(ctx context.Context, r Rule) (RuleID, error)
	// RulesOf streams the rules on d itself and on the collections above it.
	RulesOf(ctx context.Context, d DID) iter.Seq2[RuleStatus, error]
	// AllRules streams every rule; with states given, only those in one of them.
	AllRules(ctx context.Context, states ...RuleState) iter.Seq2[RuleStatus, error]
	// SetRuleState notes how far a rule is. ErrNotExist.
	SetRuleState(ctx context.Context, id RuleID, s RuleState, why string) error
	// DeleteRule forgets the rule. ErrNotExist.
	DeleteRule(ctx context.Context, id RuleID) error
}

// Importer adds many DIDs at once, for catalogues that have a faster way than Add.
type Importer interface {
	// Import adds every entry whose parent exists or came before it, as Add does, in
	// batches that are each one transaction; what exists with the same generation is
	// skipped. It returns how many were added when the sequence or ctx ends.
	Import(ctx context.Context, entries iter.Seq2[Entry, error]) (added int64, err error)
}

// Entry is one DID of an import.
type Entry struct {
	Info     Info
	Meta     Meta
	Replicas []Replica
	// Into is the collection that it becomes part of in a scope of layout contents, where no name tells, of a catalogue that is Served.
	Into DID
}
