// Package ingest takes files from a folder into the lake and deletes them there when, and
// only when, that is safe: it notices files, waits until each is complete, stores it at a
// first RSE while its checksums are computed, has that copy verified by the storage,
// registers it, lets the rules on the target make the other copies, and deletes the source
// with a proof of every copy on record. Where the catalogue is a server's that makes copies by
// its own rules (backends.Served), these stand on the datasets of the files, and the proof is what it says.
//
//	s, err := ingest.Open(ingest.Options{Dir: "/srv/lake/ingest", Lake: l, Kick: engine.Kick})
//	err = s.Add(ctx, ingest.Definition{
//		Name: "lapalma", Dir: "/data/dl0", Target: "/ctao/dl0",
//		Rules: []backends.Rule{{Copies: 1, Expression: "PIC-DISK"}, {Copies: 1, Expression: "CNAF-DISK", Source: "PIC-DISK"}},
//		Delete: ingest.DeleteAfterRules,
//	})
//	err = s.Run(ctx) // ends with ctx
package ingest

import (
	"time"

	"tarn/backends"
)

// Definition is one ingest as its owner asked for it.
type Definition struct {
	Name   string `json:"name"`
	Dir    string `json:"dir"`    // absolute, on this machine
	Target string `json:"target"` // lake path of the collection that Dir's contents go into

	// Rules are put on Target, once. The copies of the first are made first, by the ingest
	// itself; those of the others by the replication.
	Rules []backends.Rule `json:"rules"`

	Pattern   []string      `json:"pattern,omitempty"`   // globs of file names, as path.Match; none: every file
	Complete  string        `json:"complete,omitempty"`  // when a file is: closed (the default), trigger:SUFFIX, age:DURATION
	Delete    string        `json:"delete,omitempty"`    // never (the default), after-rules, keep-newest:SIZE
	Order     string        `json:"order,omitempty"`     // oldest (the default), priority
	Priority  []string      `json:"priority,omitempty"`  // with order priority: globs of file names, the first that matches goes first
	Bandwidth int64         `json:"bandwidth,omitempty"` // bytes a second of all its transfers; 0: no limit
	Schedule  string        `json:"schedule,omitempty"`  // when it may transfer: HH:MM-HH:MM, several with commas, local time; "": always
	Rescan    time.Duration `json:"rescan,omitempty"`    // between two looks at the whole folder; 0: 1 min
	Metadata  string        `json:"metadata,omitempty"`  // name of the rules for metadata (package metadata); "": the default ones

	Paused  bool      `json:"paused,omitempty"`
	Single  bool      `json:"single,omitempty"` // it was a single pass: Run leaves it alone, and its folder is free for others
	Created time.Time `json:"created,omitzero"`
}

// Stage is how far a file is. Each is noted durably before the next begins, but for Transferred, which is noted with Verified:
// of a copy that was not proved nothing is known, and it is looked at again.
type Stage string

// The stages of a file, in their order.
const (
	Found       Stage = "FOUND"       // noticed, not complete
	Sealed      Stage = "SEALED"      // complete: inode, size and times are on record, and where its first copy goes
	Transferred Stage = "TRANSFERRED" // the first copy is at its RSE
	Verified    Stage = "VERIFIED"    // and its storage has proved it
	Registered  Stage = "REGISTERED"  // the catalogue has it
	Safe        Stage = "SAFE"        // every rule is fulfilled by verified copies
	Deleting    Stage = "DELETING"    // the proof is on record, the source is being deleted
	Deleted     Stage = "DELETED"     // a tombstone
)

// Count is files and their bytes.
type Count struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// The words of Status.State.
const (
	Running = "RUNNING"
	Paused  = "PAUSED"
	Waiting = "WAITING" // for its schedule
	Failed  = "FAILED"  // its folder is not there, is another ingest's, ...: Status.Error says why; tried again
	Done    = "DONE"    // of a single pass
)

// Status is how an ingest is doing. The counts from Sealed on are of files that came at least so far, since it was added.
type Status struct {
	Definition
	State string `json:"state"`
	Error string `json:"error,omitempty"`

	Incomplete  Count `json:"incomplete"` // in the folder, not complete
	Found       Count `json:"found"`      // complete and incomplete
	Sealed      Count `json:"sealed"`
	Transferred Count `json:"transferred"`
	Verified    Count `json:"verified"`
	Registered  Count `json:"registered"`
	Safe        Count `json:"safe"`
	Deleted     Count `json:"deleted"`

	Rate      float64       `json:"rate"`       // bytes a second to first copies, over the last ten seconds
	FileRate  float64       `json:"file_rate"`  // files a second made safe, as Rate
	ETA       time.Duration `json:"eta"`        // until all that was found is safe, in nanoseconds; 0: not known
	Oldest    *Lagging      `json:"oldest"`     // of the files that are not safe
	Stuck     []Lagging     `json:"stuck"`      // files that failed again and again, or whose rule the catalogue's server is stuck with; the first 100
	StuckAll  int64         `json:"stuck_all"`  // all of them
	Changed   int64         `json:"changed"`    // files that changed after they were sealed, and began anew
	Kept      int64         `json:"kept"`       // safe files that were not deleted since they changed
	Attempts  int64         `json:"attempts"`   // transfers begun
	Failures  int64         `json:"failures"`   // of them, failed
	Started   time.Time     `json:"started"`    // when this process began with it
	FirstSeen time.Time     `json:"first_seen"` // the first file; zero: none yet
	LastDone  time.Time     `json:"last_done"`  // when a file was last made safe
}

// Lagging is a file that is not safe yet.
type Lagging struct {
	Path     string    `json:"path"` // relative to Dir
	Stage    Stage     `json:"stage"`
	Bytes    int64     `json:"bytes"`
	Since    time.Time `json:"since"` // it was found
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason,omitempty"`
	NextTry  time.Time `json:"next_try,omitzero"`

	stalled bool // by the catalogue's server
}
