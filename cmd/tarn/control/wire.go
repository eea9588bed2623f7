// Package control is how the commands of tarn talk to a lake: HTTP and JSON over a unix
// socket when a daemon serves it, and the same code over a connection in memory when
// none does, so that there is one path to test.
//
//	POST /v1/ls {"path": "/ctao"}
//
// answers with lines of JSON, each an envelope with one of: item (one result),
// progress, error (the last line, when it failed) or done (the last line, with a
// summary, when it did not). An answer that ends otherwise was cut short. Requests
// with unknown fields are refused. File contents travel as bytes, by
// GET and PUT /v1/content.
package control

import (
	"encoding/json"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// envelope is one line of an answer.
type envelope struct {
	Item     json.RawMessage `json:"item,omitempty"`
	Progress *Progress       `json:"progress,omitempty"`
	Error    *Error          `json:"error,omitempty"`
	Done     json.RawMessage `json:"done,omitempty"`
}

// Progress tells how far a long operation is. Totals of 0 are not known.
type Progress struct {
	What       string `json:"what"` // in one or two words: "copied to PIC-TAPE"
	Files      int64  `json:"files"`
	TotalFiles int64  `json:"total_files,omitempty"`
	Bytes      int64  `json:"bytes"`
	TotalBytes int64  `json:"total_bytes,omitempty"`
	Note       string `json:"note,omitempty"` // "position 3, about 40 s"
}

// Entry is one file or directory of the tree.
type Entry struct {
	Path       Text                  `json:"path"`
	Type       string                `json:"type"` // file, dataset, container, symlink
	Size       int64                 `json:"size"`
	Mode       uint32                `json:"mode"`
	UID        uint32                `json:"uid"`
	GID        uint32                `json:"gid"`
	MTime      time.Time             `json:"mtime,omitzero"`
	CTime      time.Time             `json:"ctime,omitzero"`
	Inode      uint64                `json:"inode"`
	DID        Text                  `json:"did,omitempty"`
	Checksums  backends.Checksums    `json:"checksums,omitzero"`
	Generation Text                  `json:"generation,omitempty"`
	Target     Text                  `json:"target,omitempty"`
	Locality   string                `json:"locality,omitempty"` // where it was asked for
	State      string                `json:"state,omitempty"`    // of a file that is not yet safe: WRITING, SEALED ...
	Layout     backends.Layout       `json:"layout,omitempty"`   // of a scope
	Replicas   []ReplicaEntry        `json:"replicas,omitempty"`
	Meta       backends.Meta         `json:"meta,omitempty"`
	Rules      []backends.RuleStatus `json:"rules,omitempty"`
}

// IsDir tells whether the entry is a collection.
func (e Entry) IsDir() bool { return e.Type == "dataset" || e.Type == "container" }

// ReplicaEntry is one replica of one file.
type ReplicaEntry struct {
	Path     Text             `json:"path,omitempty"`
	RSE      string           `json:"rse"`
	Kind     backends.RSEKind `json:"kind,omitempty"`
	State    string           `json:"state"`
	Locality string           `json:"locality,omitempty"`
	Verified time.Time        `json:"verified,omitzero"`
	PFN      Text             `json:"pfn"`
	Error    string           `json:"error,omitempty"`
}

// UsageEntry is what stands at or below a path.
type UsageEntry struct {
	Path        Text  `json:"path"`
	Files       int64 `json:"files"`
	Directories int64 `json:"directories"`
	Bytes       int64 `json:"bytes"`
	Nearline    int64 `json:"nearline_bytes,omitempty"` // of Bytes, only on tape; when it was asked for
}

// RSEEntry is one storage of the lake.
type RSEEntry struct {
	Name       string            `json:"name"`
	Kind       backends.RSEKind  `json:"kind"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Naming     string            `json:"naming"` // of its new copies
	ReadOnly   bool              `json:"read_only,omitempty"`
	Drain      bool              `json:"drain,omitempty"` // it is being emptied
	Distance   int               `json:"distance"`
	Total      int64             `json:"total"` // bytes
	Free       int64             `json:"free"`
	Error      string            `json:"error,omitempty"` // why it does not answer
	Counters   any               `json:"counters,omitempty"`

	LAN       bool                     `json:"lan,omitempty"`       // at the site of this machine
	Speed     lake.Speed               `json:"speed"`               // of its reads lately
	Endpoints []backends.EndpointState `json:"endpoints,omitempty"` // of its servers
}

// RuleEntry is one rule and how far it is.
type RuleEntry struct {
	backends.RuleStatus
	Path Text `json:"path,omitempty"`
}

// VerifyEntry is what a re-reading of one replica found.
type VerifyEntry struct {
	Path  Text   `json:"path"`
	RSE   string `json:"rse"`
	OK    bool   `json:"ok"`
	Bad   bool   `json:"bad,omitempty"` // proved to be no good, and declared BAD
	Bytes int64  `json:"bytes"`
	Error string `json:"error,omitempty"`
}

// Count is the summary of an operation over many.
type Count struct {
	Done    int64 `json:"done"`
	Skipped int64 `json:"skipped,omitempty"`
	Failed  int64 `json:"failed,omitempty"`
	Bytes   int64 `json:"bytes,omitempty"`
}

// Failure is one of many that could not be done.
type Failure struct {
	Path  Text   `json:"path"`
	Error *Error `json:"error"`
}
