package backends

import (
	"context"
	"iter"
)

// Side keeps small records beside the DIDs: declared metadata fields, datasets that are defined by queries,
// ancestors. A record has a table, 1 to 64 bytes without NUL, and in it a key of at most MaxSideKey bytes.
type Side interface {
	// SideRecord gives the value at a key. ErrNotExist.
	SideRecord(ctx context.Context, table, key string) ([]byte, error)
	// SideRecords streams the records of the table whose keys begin with prefix ("": all) in ascending byte order of
	// their keys, beginning after the key "after" ("": the start). As Contents it holds no lock and bounded memory, and
	// ends after the first error.
	SideRecords(ctx context.Context, table, prefix, after string) iter.Seq2[SideRecord, error]
	// PutSide stores all of the records as one transaction; one with a nil value is deleted, and no such record is success.
	// ErrNotSupported for more than a transaction holds: MaxSideBatch records of 16 KiB in all always fit. ErrName,
	// ErrNameTooLong for a table or key that is none, ErrQuota for a value of more than MaxSideValue bytes.
	PutSide(ctx context.Context, records ...SideRecord) error
	// LoadSide stores many records as PutSide does, in batches that are each one transaction. It returns how many
	// were stored when the sequence ends, also by an error.
	LoadSide(ctx context.Context, records iter.Seq2[SideRecord, error]) (stored int64, err error)
}

// SideRecord is one record of a Side.
type SideRecord struct {
	Table, Key string
	Value      []byte
}

// The bounds of side records.
const (
	MaxSideKey   = 8 << 10
	MaxSideValue = 32 << 10
	MaxSideBatch = 100
)

// Names finds DIDs by their inodes, for catalogues whose DIDs may be renamed.
type Names interface {
	// NameOf gives the DID that has the inode now. ErrNotExist when none has.
	NameOf(ctx context.Context, inode uint64) (DID, error)
}
