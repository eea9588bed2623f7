package ingest

import (
	"log/slog"
	"time"

	"tarn/backends"
	"tarn/backends/ingest/metadata"
	"tarn/backends/lake"
)

// Options says what a Set stands on. Dir and Lake are needed.
type Options struct {
	Dir  string     // folder of the definitions and ledgers, one subfolder an ingest; made when it is missing
	Lake *lake.Lake // where the files go

	// Kick tells the replication of files that were registered; nil: it finds them by itself.
	Kick func(...backends.DID)
	// Changed tells of folders, as lake paths, in which files were registered; may be nil.
	Changed func(dirs []string)
	// Metadata are the rules by the names that definitions have for them, "" being the default ones; none: no metadata is
	// read. What is broken is logged and stops nothing: what could be read is kept.
	Metadata map[string]*metadata.Extractor
	// Avoid gives the folders of the lake itself (storages, cache, catalogue, mounts): no ingest is of one of these, nor of
	// what is in or around one.
	Avoid func() []string

	Workers  int   // files of one ingest that are sent at a time; 16. Large ones are fewer
	InFlight int64 // bytes of these files, as far as each counts; 512 MiB

	Log *slog.Logger
	Now func() time.Time

	hook func(step, path string) error // of tests, called between the steps; an error is a crash
}

// Record is what a ledger has of one file.
type Record struct {
	Path  string    `json:"path"` // relative to the folder
	Stage Stage     `json:"stage"`
	Rev   uint64    `json:"rev"` // grows with every change in the ledger
	Dev   uint64    `json:"dev"`
	Ino   uint64    `json:"ino"`
	Size  int64     `json:"size"`
	MTime time.Time `json:"mtime"`
	CTime time.Time `json:"ctime"`
	Mode  uint32    `json:"mode"`
	UID   uint32    `json:"uid"`
	GID   uint32    `json:"gid"`
	Rank  int       `json:"rank,omitempty"` // smaller goes first

	DID        backends.DID        `json:"did,omitzero"`
	RSE        string              `json:"rse,omitempty"` // of the first copy, as PFN
	PFN        string              `json:"pfn,omitempty"`
	Checksums  backends.Checksums  `json:"checksums,omitzero"`
	Generation backends.Generation `json:"generation,omitempty"`

	Side string `json:"side,omitempty"` // version of the side file that its metadata came from
	Left []Spot `json:"left,omitempty"` // where copies that were begun may lie, which are not wanted any more

	// Copies are those that the rules count on, when the file was last proved safe.
	Copies []Copy `json:"copies,omitempty"`
	Hidden string `json:"hidden,omitempty"` // name that it has while it is being deleted

	Attempts int       `json:"attempts,omitempty"` // that failed, in a row
	Error    string    `json:"error,omitempty"`    // of the last one
	NextTry  time.Time `json:"next_try,omitzero"`

	FoundAt       time.Time `json:"found_at,omitzero"`
	SealedAt      time.Time `json:"sealed_at,omitzero"`
	TransferredAt time.Time `json:"transferred_at,omitzero"`
	VerifiedAt    time.Time `json:"verified_at,omitzero"`
	RegisteredAt  time.Time `json:"registered_at,omitzero"`
	SafeAt        time.Time `json:"safe_at,omitzero"`
	DeletedAt     time.Time `json:"deleted_at,omitzero"`

	meta  backends.Meta // of this process only; read again after a restart
	tries bool          // its path may have been written to before
	probe bool          // nothing else goes to its RSE before it is known what became of it
	held  lake.Holder   // who has the path
	met   *met          // what the server said of its name; nil: it was not asked
	round *round        // the names that were asked for with it
}

// Copy is a replica with how it was proved. With a catalogue that is Served, Verified is zero where nobody but its server has.
type Copy struct {
	backends.Replica
	Proof string            `json:"proof,omitempty"` // one of the words below; "": the catalogue has the time at which it was verified
	Rules []backends.RuleID `json:"rules,omitempty"` // those of the server that hold it
}

// The words of Copy.Proof.
const (
	ProofSent    = "verified when it was sent"
	ProofStorage = "verified at its storage"
	ProofServer  = "as the catalogue's server says"
)

// Spot is a path at an RSE.
type Spot struct {
	RSE string `json:"rse"`
	PFN string `json:"pfn"`
}

// Audited is what Audit found of one deletion.
type Audited struct {
	Record
	OK      bool     `json:"ok"`
	Faults  []string `json:"faults,omitempty"`  // why it is not
	Checked []string `json:"checked,omitempty"` // RSEs whose storage gave its checksum again
}

// Sample is a moment in the life of an ingest. The counts are of this process.
type Sample struct {
	Time     time.Time `json:"time"`
	Bytes    int64     `json:"bytes"`     // to first copies so far
	Files    int64     `json:"files"`     // made safe so far
	Rate     float64   `json:"rate"`      // bytes a second since the sample before
	FileRate float64   `json:"file_rate"` // files a second since then
}

// Histogram counts durations: Counts[i] are those up to Bounds[i], and the last one those above all bounds.
type Histogram struct {
	Bounds []time.Duration `json:"bounds"` // in nanoseconds
	Counts []int64         `json:"counts"` // one more than Bounds
}

// Latencies is how long files of this process took from being found.
type Latencies struct {
	Transferred Histogram `json:"transferred"`
	Safe        Histogram `json:"safe"`
	Deleted     Histogram `json:"deleted"`
}
