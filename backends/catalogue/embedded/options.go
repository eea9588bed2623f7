package embedded

import (
	"log/slog"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Options says where a catalogue is and what it may use. Zero values mean defaults.
type Options struct {
	// Dir is the folder of the lake; it must exist. An empty folder becomes a new lake.
	Dir string
	// MustExist refuses an empty folder: a disk that is not mounted is no new lake.
	MustExist bool
	// Replacing, of Restore alone, is called when the new catalogue is ready and nobody has the old one open, which is in its place still; an
	// error ends the restore.
	Replacing func() error
	// InMemory keeps everything in memory and nothing in Dir.
	InMemory bool
	// CacheBytes bounds the memory of the database; default 96 MiB. An eighth of it, 1 to
	// 64 MiB, is the size of a memtable, of which up to three exist beside what is
	// being flushed; on disk a memtable's log takes as much, and the levels follow. 8 MiB
	// or less suits a file system of 64 MiB.
	CacheBytes int64
	// FreeFloor is how much of Dir's file system is left free; default 256 MiB. What
	// would go below it is refused with ErrNoSpace. It is raised to what the database
	// may need for logs and merging (11 to 18 times the memtable).
	FreeFloor int64
	// Grace is how long Pasts are kept; default 24 hours.
	Grace time.Duration
	// VerifyBytes is up to which size all stored tables are verified by Open; what is
	// larger is verified in the background after it. Default 256 MiB; -1: never by Open.
	VerifyBytes int64
	// Places names the RSEs of which Holders can tell, which costs a record for each path.
	// They are put on record when the lake is opened with an RSE here for the first time.
	Places []string
	Now    func() time.Time
	Log    *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.CacheBytes <= 0 {
		o.CacheBytes = 96 << 20
	}
	if o.FreeFloor <= 0 {
		o.FreeFloor = 256 << 20
	}
	if o.Grace <= 0 {
		o.Grace = 24 * time.Hour
	}
	if o.VerifyBytes == 0 {
		o.VerifyBytes = 256 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.FreeFloor = max(o.FreeFloor, o.minFloor())
	return o
}

func (o Options) memtable() int64 { return min(max(o.CacheBytes/8, 1<<20), 64<<20) }

func (o Options) baseLevel() int64 { return min(10<<20, 4*o.memtable()) }

// minFloor is what the database may write without being asked: the logs of two more
// memtables, the flush of three, and one merge of level 0 into the next.
func (o Options) minFloor() int64 { return 10*o.memtable() + 2*o.baseLevel() }

// badger derives the database's options.
//
// Values stay in the tree of tables (ValueThreshold), so the value log holds next to
// nothing. Without compression blocks are read where the file is mapped, which costs
// neither memory of ours nor a cache; each is verified when it is read.
func (o Options) badger(dir string) badger.Options {
	b := badger.DefaultOptions(dir)
	if o.InMemory {
		b = badger.DefaultOptions("").WithInMemory(true)
	}
	b.SyncWrites = !o.InMemory
	b.VerifyValueChecksum = true
	b.ChecksumVerificationMode = options.OnBlockRead
	b.Compression = options.None
	b.BlockCacheSize = 0
	b.IndexCacheSize = 0
	b.MetricsEnabled = false
	b.DetectConflicts = false // there is one writer
	b.MemTableSize = o.memtable()
	b.NumMemtables = 2
	b.BaseTableSize = min(2<<20, o.memtable())
	b.BaseLevelSize = o.baseLevel()
	b.ValueThreshold = min(1<<20, o.memtable()*15/100)
	b.ValueLogFileSize = 1 << 20
	b.NumCompactors = 2
	b.NumGoroutines = 1
	b.ExternalMagicVersion = manifestVersion
	b.Logger = badgerLog{o.Log}
	return b
}

// badgerLog passes the database's own messages on at debug level: what matters of
// them reaches callers as errors.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any)   { l.debug("error", f, a) }
func (l badgerLog) Warningf(f string, a ...any) { l.debug("warning", f, a) }
func (l badgerLog) Infof(f string, a ...any)    { l.debug("info", f, a) }
func (l badgerLog) Debugf(f string, a ...any)   { l.debug("debug", f, a) }
