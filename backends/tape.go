package backends

import (
	"context"
	"time"
)

// Tape recalls nearline files of one tape RSE; paths are those of its Storage.
// Stage asks and returns at once, Poll tells, Release gives the disk space back.
// Shapes and words follow the WLCG Tape REST API v1 (stage, cancel, release,
// archiveinfo). All methods may be called in parallel.
type Tape interface {
	// Locality gives one Locality a path, in order: UNAVAILABLE or LOST for what cannot be
	// had, NONE for what is not there. An error is for the whole call only.
	Locality(ctx context.Context, paths ...string) ([]Locality, error)
	// Stage asks for all paths in one request and returns at once. A file that is online
	// already is completed at once, and kept. Equal paths of several requests share
	// one recall. Each file of a request is kept in the disk buffer from its
	// arrival until it is released or cancelled, or the request's lifetime ends.
	Stage(ctx context.Context, paths ...string) (RecallID, error)
	// Poll gives the state of every file of the request, in the order of Stage. ErrNotExist
	// for an unknown or long finished request.
	Poll(ctx context.Context, id RecallID) ([]RecallState, error)
	// Cancel ends the recall of some files, or of all when none is named, for this
	// request only. What is done is released.
	Cancel(ctx context.Context, id RecallID, paths ...string) error
	// Release lets the disk buffer evict some files, or all when none is named.
	Release(ctx context.Context, id RecallID, paths ...string) error
	// Plan says what staging the paths would cost now; nothing is moved.
	// ErrNotSupported where the tape system cannot tell.
	Plan(ctx context.Context, paths ...string) (RecallPlan, error)
}

// RecallID names a stage request.
type RecallID string

// RecallPhase is where one file of a stage request is (WLCG Tape REST: SUBMITTED,
// STARTED, COMPLETED, FAILED, CANCELLED).
type RecallPhase string

// The phases.
const (
	RecallSubmitted RecallPhase = "SUBMITTED"
	RecallStarted   RecallPhase = "STARTED"
	RecallCompleted RecallPhase = "COMPLETED"
	RecallFailed    RecallPhase = "FAILED"
	RecallCancelled RecallPhase = "CANCELLED"
)

// Ended tells whether no further change will come.
func (p RecallPhase) Ended() bool {
	return p == RecallCompleted || p == RecallFailed || p == RecallCancelled
}

// RecallState is one file of a stage request.
type RecallState struct {
	Path     string        `json:"path"`
	Phase    RecallPhase   `json:"phase"`
	Error    string        `json:"error,omitempty"`    // why FAILED
	Position int           `json:"position,omitempty"` // in the queue, 1 is next; 0 not known or not waiting
	ETA      time.Duration `json:"eta,omitempty"`      // 0: not known
}

// RecallPlan is the cost of a recall.
type RecallPlan struct {
	Files  int           `json:"files"`
	Bytes  int64         `json:"bytes"`
	Online int           `json:"online"` // of Files, already online
	Tapes  int           `json:"tapes"`
	Mounts int           `json:"mounts"`
	Time   time.Duration `json:"time"`
}
