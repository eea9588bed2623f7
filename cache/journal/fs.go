package journal

import (
	"io"
	"os"
)

// FS is what the journal asks of the operating system. Options.FS is the real one unless
// a test puts another in its place that fails or forgets what was not synced. Names are
// paths as the journal composes them below Options.Dir. Errors are those of package os:
// the errno is found by errors.Is.
type FS interface {
	// OpenFile is os.OpenFile; a folder may be opened with os.O_RDONLY for its Sync.
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	// Stat gives size and blocks of a file; fs.ErrNotExist when it is not there.
	Stat(name string) (Info, error)
	// ReadDir lists a folder in any order.
	ReadDir(name string) ([]Info, error)
	// Mkdir makes a folder; fs.ErrExist when it is there.
	Mkdir(name string, perm os.FileMode) error
	Rename(from, to string) error
	Remove(name string) error
	// Free is how many bytes the file system of name has free.
	Free(name string) (int64, error)
	// Lock takes the exclusive lock of a file, made if need be, and writes text into it;
	// when another process has it the error is ErrLocked with the text found there.
	Lock(name, text string) (io.Closer, error)
}

// File is an open file. Its methods may be called in parallel.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Truncate is ftruncate, Sync fsync, DataSync fdatasync, Allocate fallocate with the
	// mode bits of Linux.
	Truncate(n int64) error
	Sync() error
	DataSync() error
	// SyncAll is syncfs: all of the file system, and its error is one of any file of it.
	SyncAll() error
	Allocate(mode uint32, off, n int64) error
	// Seek is lseek with SEEK_DATA or SEEK_HOLE; it moves no shared position that matters.
	Seek(off int64, whence int) (int64, error)
	Stat() (Info, error)
	// Writeback asks that dirty pages of the range start their way to the disk. It
	// promises nothing and waits for nothing.
	Writeback(off, n int64)
}

// Info is what the journal needs to know of a file.
type Info struct {
	Name   string // base name
	Size   int64
	Blocks int64 // of 512 bytes
	Dir    bool
}
