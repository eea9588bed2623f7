package backends

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"
)

// Storage is one storage element spoken to in one protocol; paths are relative to
// its prefix, slash-separated, clean, never absolute and without "..": anything else
// is ErrName. All methods may be called in parallel.
type Storage interface {
	// Stat gives the Attr of a file or folder, or ErrNotExist. It never recalls.
	Stat(ctx context.Context, path string) (Attr, error)
	// List streams the entries of a folder, sorted by name, without temporaries of
	// unfinished uploads. ErrNotExist, ErrNotDir.
	List(ctx context.Context, dir string) iter.Seq2[Attr, error]
	// Open opens a file for reading. ErrNotExist, ErrIsDir, and ErrOffline when the
	// bytes are on tape and not staged.
	Open(ctx context.Context, path string) (Object, error)
	// Create begins an upload of size bytes (-1: not known), making parent folders.
	// Nothing is visible at path until Commit; what is there already is replaced by it.
	Create(ctx context.Context, path string, size int64) (Upload, error)
	// Checksum gives what the storage itself knows or computes of a file, at least one
	// digest; ErrNotSupported when Traits.Checksums is empty.
	Checksum(ctx context.Context, path string) (Checksums, error)
	// Remove deletes a file, or an empty folder; ErrNotExist, ErrNotEmpty.
	Remove(ctx context.Context, path string) error
	// Space gives total and free bytes, from memory or within milliseconds.
	Space(ctx context.Context) (total, free int64, err error)
	// Traits says what this protocol can do; decorators pass it through.
	Traits() StorageTraits
	Close() error
}

// StorageTraits is what a storage can do.
type StorageTraits struct {
	Checksums []string // algorithms that Checksum can give: adler32, md5, sha256
	Folders   bool     // folders exist by themselves (false: object stores)
	Local     bool     // reading costs no network; a second cached copy gains nothing but speed of a slow disk
	Tape      bool     // Open may answer ErrOffline; a Tape goes with it
}

// Attr is one entry of a storage.
type Attr struct {
	Path  string    `json:"path"` // relative to the prefix
	Size  int64     `json:"size"`
	IsDir bool      `json:"is_dir,omitempty"`
	MTime time.Time `json:"mtime"`
}

// Object is an open remote file; ReadAt may run in parallel and reads short only at
// the end, with io.EOF.
type Object interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Size() int64
	Close() error
}

// Upload appears at its path on Commit, whole and verified, or never. Write is
// sequential and from one goroutine. Abort after Commit does nothing, so that
// `defer u.Abort()` is always right.
type Upload interface {
	io.Writer
	// Commit makes the file visible and durable if its size is the one given to
	// Create and its checksums match want (every algorithm both know, at least one);
	// else ErrCorrupt, and nothing is visible. It returns the storage's proof: digests of
	// the bytes that the storage has, as it computed them itself or as they were read
	// back, and no others. Where it is only known what was sent there are none, and
	// whoever needs a proof has to ask for it. A context
	// that ends does not interrupt the last step, so that what an error leaves behind
	// does not come into view later, when it was looked for and not found.
	Commit(ctx context.Context, want Checksums) (Checksums, error)
	Abort() error
}

// Expecter is an Upload that can be spared work.
type Expecter interface {
	// Expect says, before the first Write, what Commit will be given at least, and which of these digests it shall
	// compare. That the others are of the same bytes is the caller's word: they are not computed.
	Expect(want Checksums, compare ...string)
}

// Expect tells u, if it is one that can be told.
func Expect(u Upload, want Checksums, compare ...string) {
	if e, ok := u.(Expecter); ok {
		e.Expect(want, compare...)
	}
}

// Resumer is an Upload that can go on after its connection broke in the midst of the file.
type Resumer interface {
	// Flush returns when the storage has all that was written. Nothing is written after that but what Resume asks for.
	Flush(ctx context.Context) error
	// Resume makes an Upload writable again whose Write or Flush failed, and gives the offset from which the bytes are to be written
	// once more: what stands before it was written by this Upload. Whether it is there as it was sent is for Commit to find.
	// ErrNotSupported where it cannot be gone on with.
	Resume(ctx context.Context) (off int64, err error)
}

// Flush and Resume are those of u if it is a Resumer; else nothing, and ErrNotSupported.
func Flush(ctx context.Context, u Upload) error {
	if r, ok := u.(Resumer); ok {
		return r.Flush(ctx)
	}
	return nil
}

func Resume(ctx context.Context, u Upload) (off int64, err error) {
	if r, ok := u.(Resumer); ok {
		return r.Resume(ctx)
	}
	return 0, fmt.Errorf("go on with an upload: %w", ErrNotSupported)
}

// ThirdParty is a Storage whose server can exchange files with another one, so that the bytes do not come by here.
type ThirdParty interface {
	// CopyTo makes the servers copy a file of size bytes to dst of another storage, which appears there whole and verified
	// as by Upload.Commit, by the server that receives it, or never. ErrNotSupported when these two storages cannot: then
	// nothing was done, and the bytes have to be carried. ErrNotExist when there is no such file; ErrCorrupt when it has
	// another size or checksum. progress, which may be nil, hears how many bytes have arrived, as far as the servers tell:
	// ever more, one call at a time, and none after CopyTo has returned. It returns the proof of the storage that has
	// the copy, as Upload.Commit does: there may be none.
	//
	// Decorators let it through, and take off those of the destination: a protocol is given one of its own kind, or cannot.
	CopyTo(ctx context.Context, src string, to Storage, dst string, size int64, want Checksums, progress func(int64)) (Checksums, error)
}

// Decorator is a Storage that stands before another one.
type Decorator interface {
	Storage
	Unwrap() Storage
}

// EndpointState is how it stands with one door of a server.
type EndpointState struct {
	Endpoint   string    `json:"endpoint"`        // scheme://host:port
	State      string    `json:"state"`           // closed, open or half-open, as a circuit's
	Since      time.Time `json:"since,omitzero"`  // of that; zero: it was never another
	Failures   int       `json:"failures"`        // without a success since
	Error      string    `json:"error,omitempty"` // the last of them
	Failed     time.Time `json:"failed,omitzero"` // when that was
	Active     int       `json:"active"`          // calls and uploads under way
	Waiting    int       `json:"waiting"`         // for a turn
	Concurrent int       `json:"concurrent"`      // limit of calls at a time; 0: none
	Read       int64     `json:"read"`            // limit in bytes a second; 0: none
	Write      int64     `json:"write"`           // as Read
}

// The words of EndpointState.State.
const (
	EndpointClosed   = "closed"    // in use
	EndpointOpen     = "open"      // left alone
	EndpointHalfOpen = "half-open" // one call tries it
)
