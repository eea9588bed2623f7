package journal

import (
	"maps"
	"slices"
	"time"
)

// State is how far an entry has come on its way to being safe elsewhere.
type State string

// The states in their order. ABANDONED stands beside them: found WRITING after a crash,
// never synced, so nothing about its content was ever promised.
const (
	Writing    State = "WRITING"
	Sealed     State = "SEALED"
	Uploaded   State = "UPLOADED"
	Verified   State = "VERIFIED"
	Registered State = "REGISTERED"
	Attached   State = "ATTACHED"
	Ruled      State = "RULED"
	Safe       State = "SAFE"
	Abandoned  State = "ABANDONED"
)

// Open says whether the content may still change without being sealed: WRITING or ABANDONED.
func (s State) Open() bool { return s == Writing || s == Abandoned }

// Record is what the journal knows of one entry. It is written as JSON, so that a person
// with nothing but the record file can tell what the data file beside it is.
//
// ID, Size, Sums, SumsLate, Created, Sealed, Seq, Recovered and Damaged belong to the journal; what
// a caller puts there is ignored. The rest is the caller's.
type Record struct {
	ID    string `json:"id"`
	Path  []byte `json:"path,omitempty"` // any bytes
	Inode uint64 `json:"inode,omitempty"`
	State State  `json:"state"`

	Size int64             `json:"size"`           // at the last Seal
	Sums map[string]string `json:"sums,omitempty"` // of the content at the last Seal, by algorithm
	// SumsLate: Sums are the quick ones only, fit to find what rots; Verify adds the others.
	SumsLate bool `json:"sums_late,omitempty"`

	Mode  uint32    `json:"mode,omitempty"`
	UID   uint32    `json:"uid"`
	GID   uint32    `json:"gid"`
	MTime time.Time `json:"mtime,omitzero"`

	// Meta holds JSON values; numbers come back as json.Number after a restart.
	Meta   map[string]any `json:"meta,omitempty"`
	Copies []Copy         `json:"copies,omitempty"`
	Base   string         `json:"base,omitempty"` // generation it replaces

	Error    string    `json:"error,omitempty"` // why it does not get on, for people
	Attempts int       `json:"attempts,omitempty"`
	NextTry  time.Time `json:"next_try,omitzero"`

	Created time.Time `json:"created,omitzero"`
	Sealed  time.Time `json:"sealed,omitzero"`
	Seq     uint64    `json:"seq,omitempty"` // order of sealing; 0 before the first

	// Recovered: the content was sealed by recovery or by hand after a crash, not by
	// the close of its writer.
	Recovered bool `json:"recovered,omitempty"`
	// Damaged: the data file is not what was sealed. Verify fails, Error says more.
	Damaged bool `json:"damaged,omitempty"`
}

// Copy is one copy that the uploader makes.
type Copy struct {
	RSE   string `json:"rse"`
	PFN   string `json:"pfn"`
	State State  `json:"state,omitempty"`
}

// stored is the whole payload of a slot: the record and what recovery has to know.
type stored struct {
	Record
	// Name is Path in a form that people can read; written, never read.
	Name string `json:"name,omitempty"`
	// Synced: Sync was acknowledged since the last Seal (or ever), at this size or later.
	Synced     bool  `json:"synced,omitempty"`
	SyncedSize int64 `json:"synced_size,omitempty"`
	// Touched: bytes below the sealed Size may have changed since the Seal. It is on
	// the disk before the first of them changes.
	Touched bool `json:"touched,omitempty"`
	// SyncError: a sync of the data failed, so what is on the disk is anyone's guess.
	SyncError string `json:"sync_error,omitempty"`
}

func (r Record) clone() Record {
	r.Path = slices.Clone(r.Path)
	r.Sums = maps.Clone(r.Sums)
	r.Copies = slices.Clone(r.Copies)
	if r.Meta != nil {
		r.Meta = cloneValue(r.Meta).(map[string]any)
	}
	return r
}

func (s stored) clone() stored {
	s.Record = s.Record.clone()
	return s
}

// cloneValue copies the containers that JSON knows; everything else is a value already.
func cloneValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, x := range v {
			m[k] = cloneValue(x)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, x := range v {
			l[i] = cloneValue(x)
		}
		return l
	case []string:
		return slices.Clone(v)
	}
	return v
}

// keepOwn puts back into r what belongs to the journal, as it was in old.
func (r *Record) keepOwn(old Record) {
	r.ID, r.Size, r.Sums = old.ID, old.Size, maps.Clone(old.Sums)
	r.Created, r.Sealed, r.Seq = old.Created, old.Sealed, old.Seq
	r.SumsLate, r.Recovered, r.Damaged = old.SumsLate, old.Recovered, old.Damaged
}
