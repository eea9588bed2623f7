// Package config reads the one file that describes a lake. It decodes strictly and
// reports every fault at once, with its line. A whole lake is:
//
//	# lake.yaml
//	name: home
//	rses:
//	  - {name: DISK, kind: disk, path: rse/DISK}
//	scopes:
//	  - name: user.ada
//	write_rules:
//	  - {copies: 1, expression: rse_type=DISK}
//
// Everything else has a default. Relative paths are meant from the folder of the file.
// What stands in lake.local.yaml beside it overrides the file, TARN_<SECTION>_<KEY> in
// the environment overrides both (TARN_CACHE_LIMIT=20G), and flags override all.
package config

import (
	"cmp"
	"time"

	"tarn/backends/ingest/metadata"
)

// Config is one lake as its file describes it. After Load all paths are absolute.
type Config struct {
	Name       string      `yaml:"name"`        // of the lake, shown by df and mount
	Site       string      `yaml:"site"`        // where this machine is; RSEs whose attribute site is the same are in its LAN
	Run        string      `yaml:"run"`         // folder of the control socket and the daemon's log
	Memory     Size        `yaml:"memory"`      // of the daemon: buffers, database, and the garbage collector's limit
	Catalogue  Catalogue   `yaml:"catalogue"`   //
	Cache      Cache       `yaml:"cache"`       //
	Journal    Journal     `yaml:"journal"`     //
	Ingest     Ingest      `yaml:"ingest"`      //
	Index      Index       `yaml:"index"`       // of metadata, which tarn index makes
	RSEs       []RSE       `yaml:"rses"`        //
	Scopes     []Scope     `yaml:"scopes"`      //
	WriteRules []WriteRule `yaml:"write_rules"` // for new files; the first is served first
	Checksums  []string    `yaml:"checksums"`   // computed for new files
	Recalls    Recalls     `yaml:"recalls"`     //
	Reads      Reads       `yaml:"reads"`       //
	Transfers  Transfers   `yaml:"transfers"`   // copies that rules want
	Mount      Mount       `yaml:"mount"`       //
	Log        Log         `yaml:"log"`         //

	settings []Setting

	file string // absolute path of the lake file; "" when made by hand
	src  *source
}

// Catalogue says where the catalogue is: a folder of this machine, or a Rucio server.
type Catalogue struct {
	Type      string   `yaml:"type"` // embedded, rucio
	Path      string   `yaml:"path"`
	Grace     Duration `yaml:"grace"`      // how long replaced and removed files can be undeleted
	FreeFloor Size     `yaml:"free_floor"` // writes are refused when the disk has less free
	Cache     Size     `yaml:"cache"`      // memory for blocks of the database; rucio: for what was asked of the server

	Rucio `yaml:",inline"`
}

// Cache is the hot cache.
type Cache struct {
	Path      string `yaml:"path"`
	Limit     Size   `yaml:"limit"`      // hard
	FreeFloor Size   `yaml:"free_floor"` // left free on the disk of Path
	Head      Size   `yaml:"head"`       // first bytes kept of every file that was here once
	Tail      Size   `yaml:"tail"`       // last bytes
	Block     Size   `yaml:"block"`
	Streams   int    `yaml:"streams"` // parallel reads of one remote file
	Verify    string `yaml:"verify"`  // normal, strict
}

// The words of Cache.Verify.
const (
	VerifyNormal = "normal" // the last block is withheld until the whole file is verified, by adler32 if that is known
	VerifyStrict = "strict" // every block is, and all checksums are compared
)

// Journal holds files that are not yet safe elsewhere.
type Journal struct {
	Path  string   `yaml:"path"`
	Delay Duration `yaml:"delay"` // between close and the start of the upload
	Drain Duration `yaml:"drain"` // how long a daemon that ends goes on uploading; the rest stays here
	Close string   `yaml:"close"` // when close(2) returns: local, fast, remote, registered
	Sync  Duration `yaml:"sync"`  // with close: fast, how much may be lost in a power cut
}

// The words of Journal.Close.
const (
	CloseLocal      = "local"      // bytes and record are on the local disk
	CloseFast       = "fast"       // with the journal, which syncs within Journal.Sync; kill -9 loses nothing
	CloseRemote     = "remote"     // a verified copy is at an RSE
	CloseRegistered = "registered" // and the catalogue has it
)

// Ingest is what the ingests of this machine have in common.
type Ingest struct {
	Path     string     `yaml:"path"`     // folder of their definitions and ledgers
	Metadata []Metadata `yaml:"metadata"` // rules that an ingest can name
	Python   string     `yaml:"python"`   // one with h5py, for attributes of HDF5 files; "": python3, or the system's
}

// Index is the local index of metadata.
type Index struct {
	MaxAge Duration `yaml:"max_age"` // an older one does not answer; 0: it does
	Every  Duration `yaml:"every"`   // a daemon makes what is indexed anew so often; 0: never
}

// Metadata says where the metadata of files comes from. What it leaves out is as metadata.Default has it.
type Metadata struct {
	Name  string            `yaml:"name"`  // default: the rules of ingests that name none
	Names []metadata.Name   `yaml:"names"` // patterns of file names, the first that matches
	FITS  map[string]string `yaml:"fits"`  // keyword to key
	HDF5  map[string]string `yaml:"hdf5"`  // attribute of the root to key
	Sides []string          `yaml:"sides"` // suffixes of side files
}

// Rules completes m.
func (m Metadata) Rules() metadata.Rules {
	r := metadata.Default()
	if m.Names != nil {
		r.Names = m.Names
	}
	if m.FITS != nil {
		r.FITS = m.FITS
	}
	if m.HDF5 != nil {
		r.HDF5 = m.HDF5
	}
	if m.Sides != nil {
		r.Sides = m.Sides
	}
	return r
}

// RSE is one storage.
type RSE struct {
	Name       string            `yaml:"name"`
	Kind       string            `yaml:"kind"` // disk, tape
	Path       string            `yaml:"path"`
	Attributes map[string]string `yaml:"attributes"`
	Naming     string            `yaml:"naming"` // disk: of new copies; unique, or one of Rucio's: hash, identity, belleii, ctao_bdms
	ReadOnly   bool              `yaml:"read_only"`
	Distance   int               `yaml:"distance"`   // smaller is nearer; the nearest replica is read
	Marker     string            `yaml:"marker"`     // disk: a file that stands in Path when its file system is mounted
	FreeFloor  Size              `yaml:"free_floor"` // disk: left free there
	Protocols  []Protocol        `yaml:"protocols"`  // disk: ways to a storage elsewhere, in place of Path
	Size       Size              `yaml:"size"`       // disk with protocols: what there is where the server does not tell; 1P
	Tape       *Tape             `yaml:"tape"`

	High    Mark     `yaml:"high"`     // disk: above it copies that no rule needs are deleted, until it is below Low; 0: none are
	Low     Mark     `yaml:"low"`      // default: a tenth less
	Grace   Duration `yaml:"grace"`    // least time since a copy was made or verified until High may delete it; 1h
	Scratch bool     `yaml:"scratch"`  // last copies may go as well, when no rule is left on their file
	Shared  bool     `yaml:"shared"`   // others keep files there, too
	Drain   bool     `yaml:"drain"`    // it is being emptied
	DrainTo string   `yaml:"drain_to"` // where to, beside where rules let copies be: an RSE expression
}

// Protocol is one way to an RSE. Its priorities are Rucio's: 1 is tried first, 0 is never used.
type Protocol struct {
	URL    string `yaml:"url"`    // one of Schemes: the prefix of all paths
	Read   *int   `yaml:"read"`   // default 1, as the others
	Write  *int   `yaml:"write"`  //
	Delete *int   `yaml:"delete"` //
	// CopyRead and CopyWrite are for copies that two servers make between themselves; default: as Read and Write.
	CopyRead  *int `yaml:"third_party_copy_read"`
	CopyWrite *int `yaml:"third_party_copy_write"`

	Keys   string  `yaml:"keys"`   // s3s, s3: a file of keys in the form of ~/.aws/credentials; default: as AWS's tools find them
	Style  string  `yaml:"style"`  // s3s, s3: path, or host (bucket.s3.example.org); default: host at Amazon and Google
	Region string  `yaml:"region"` // s3s, s3: default: the server is asked
	Proxy  string  `yaml:"proxy"`  // davs, https, root, roots, gsiftp: a file with the proxy that this server is shown; the environment's credentials are not, then
	Token  string  `yaml:"token"`  // davs, https, roots: a file with the bearer token that it is shown, alone or beside the proxy
	LAN    *Domain `yaml:"lan"`    // priorities for machines at the RSE's site, where they differ
	WAN    *Domain `yaml:"wan"`    // and for all others
	Limits Limits  `yaml:"limits"` // of the server's door, scheme://host:port; where several name it, the smaller ones count
}

// Domain is one of Rucio's two, lan and wan, with the priorities of a protocol in it. What it does not name is as the
// protocol's own.
type Domain struct {
	Read   *int `yaml:"read"`
	Write  *int `yaml:"write"`
	Delete *int `yaml:"delete"`

	CopyRead  *int `yaml:"third_party_copy_read"`
	CopyWrite *int `yaml:"third_party_copy_write"`
}

// Limits bound what goes through one door of a server; 0 is no limit.
type Limits struct {
	Concurrent int  `yaml:"concurrent"` // calls at a time, and apart from them uploads
	Read       Rate `yaml:"read"`
	Write      Rate `yaml:"write"`
}

// Priority is that of Read, Write or Delete with its default.
func Priority(p *int) int {
	if p == nil {
		return 1
	}
	return *p
}

// CopyReadPriority is that for sending files to other servers.
func (p Protocol) CopyReadPriority() int { return Priority(cmp.Or(p.CopyRead, p.Read)) }

// CopyWritePriority is that for receiving files from other servers.
func (p Protocol) CopyWritePriority() int { return Priority(cmp.Or(p.CopyWrite, p.Write)) }

// The words of RSE.Kind.
const (
	Disk     = "disk"
	TapeKind = "tape"
)

// Tape is the emulated library behind a tape RSE. All times are those of the real
// thing; Speed divides them.
type Tape struct {
	Drives        int      `yaml:"drives"`
	Cartridges    int      `yaml:"cartridges"`
	CartridgeSize Size     `yaml:"cartridge_size"`
	Buffer        Size     `yaml:"buffer"`   // disk in front of the drives; a hard limit
	Speed         Speed    `yaml:"speed"`    // 1000x
	Robot         Duration `yaml:"robot"`    // the arm's way between slot and drive
	Mount         Duration `yaml:"mount"`    // load and thread
	Unmount       Duration `yaml:"unmount"`  // unload
	Seek          Duration `yaml:"seek"`     // over the full length
	Rewind        Duration `yaml:"rewind"`   // over the full length
	Rate          Size     `yaml:"rate"`     // bytes a second of one drive
	Keep          Duration `yaml:"keep"`     // recalled files stay in the buffer so long
	Patience      Duration `yaml:"patience"` // how long other cartridges wait for one that has work
	Colocate      bool     `yaml:"colocate"` // files of one folder go to one cartridge
	Spread        bool     `yaml:"spread"`   // files go to the cartridges in turn
}

// Scope is a top folder of the lake.
type Scope struct {
	Name   string `yaml:"name"`
	Layout string `yaml:"layout"` // lfn, contents
	Mode   Mode   `yaml:"mode"`
}

// WriteRule asks for copies of each new file.
type WriteRule struct {
	Copies     int    `yaml:"copies"`
	Expression string `yaml:"expression"`
	Comment    string `yaml:"comment"`
}

// Transfers governs the copies that rules want.
type Transfers struct {
	AtATime    int        `yaml:"at_a_time"`   // to one RSE; 0: as many as bring most, 2 to 32
	PerLink    int        `yaml:"per_link"`    // from one RSE to another; 0: no bound
	ThirdParty Size       `yaml:"third_party"` // smaller files are carried, also between servers that could send them to one another
	Activities []Activity `yaml:"activities"`  // whose share is not 1
	Links      []Link     `yaml:"links"`       // the first that names both RSEs counts, and before per_link
}

// Activity is what rules name with --activity.
type Activity struct {
	Name  string `yaml:"name"`
	Share int    `yaml:"share"` // of an RSE that copies of several activities wait for
}

// Link bounds the copies between RSEs.
type Link struct {
	From   string `yaml:"from"`   // RSE expressions
	To     string `yaml:"to"`     //
	Copies int    `yaml:"copies"` // at a time; 0: none, -1: no bound
}

// Reads governs reading from storages.
type Reads struct {
	Failover Duration `yaml:"failover"` // after which a replica that gives nothing is left for the next one
	Hedge    int      `yaml:"hedge"`    // a read that takes so many times as long as usual is made at another replica, too; 0: never
	Patience Duration `yaml:"patience"` // how long a reader waits while no replica at a server can be read; 0: not at all
}

// Recalls governs reading from tape.
type Recalls struct {
	Hold      Duration  `yaml:"hold"`    // window in which recalls are collected
	Timeout   Duration  `yaml:"timeout"` // after which a reader gets ETIMEDOUT
	Readahead Readahead `yaml:"readahead"`
	Policy    Policy    `yaml:"policy"`
}

// Readahead is what is recalled beside a file that is read, from the same folder.
type Readahead struct {
	Files int  `yaml:"files"` // 0: off
	Bytes Size `yaml:"bytes"` // 0: a quarter of the hot cache
}

// Policy protects tape from accidents.
type Policy struct {
	Nonblock string       `yaml:"nonblock"` // an open with O_NONBLOCK of a nearline file: resident, eagain
	Rules    []PolicyRule `yaml:"rules"`    // the first that matches decides; none: recall
	Burst    Burst        `yaml:"burst"`
}

// PolicyRule decides for the processes that match all that it names.
type PolicyRule struct {
	Comm   []string `yaml:"comm"` // process names as the kernel has them: cut to 15 bytes
	UID    []uint32 `yaml:"uid"`
	TTY    *bool    `yaml:"tty"`    // has a controlling terminal
	Action string   `yaml:"action"` // recall, refuse, ask
}

// Burst holds back a process that opens more than Files nearline files within
// Window while it reads less than Below of each.
type Burst struct {
	Files  int      `yaml:"files"` // 0: off
	Window Duration `yaml:"window"`
	Below  Size     `yaml:"below"`
}

// Mount holds what the kernel is told.
type Mount struct {
	AllowOther   bool     `yaml:"allow_other"`
	ReadOnly     bool     `yaml:"read_only"`
	XAttr        bool     `yaml:"xattr"`
	AttrTimeout  Duration `yaml:"attr_timeout"` // the kernel is told of changes, so it may keep what it knows for long
	EntryTimeout Duration `yaml:"entry_timeout"`
	Delete       bool     `yaml:"delete"`   // unlink and rmdir are allowed
	Watchdog     Duration `yaml:"watchdog"` // a daemon that does not respond for so long is replaced; 0: never
	IOURing      string   `yaml:"io_uring"` // auto, on (warns where the kernel does not let), off
	Umask        *Mode    `yaml:"umask"`    // taken off every mode shown
	UID          *uint32  `yaml:"uid"`      // every owner is shown as this one
	GID          *uint32  `yaml:"gid"`
}

// Log says what is logged where.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	File   string `yaml:"file"`   // default: tarn.log in Run for a daemon, stderr in the foreground
	Format string `yaml:"format"` // text, json
}

// Default is the Config of an empty file, with paths below base ("" for the folder of
// the file itself).
func Default(base string) *Config {
	below := func(s string) string {
		if base == "" {
			return s
		}
		return base + "/" + s
	}
	no := false
	return &Config{
		Run: below("run"), Memory: 768 * MiB,
		Catalogue: Catalogue{
			Type: "embedded", Path: below("catalogue"), Grace: Duration(24 * time.Hour),
			FreeFloor: 256 * MiB, Cache: 64 * MiB, Rucio: defaultRucio(),
		},
		Cache: Cache{
			Path: below("cache"), Limit: 10 * GiB, FreeFloor: 1 * GiB, Head: 1 * MiB, Tail: 1 * MiB,
			Block: 1 * MiB, Streams: 4, Verify: VerifyNormal,
		},
		Journal:   Journal{Path: below("journal"), Delay: Duration(time.Second), Drain: Duration(2 * time.Minute), Close: CloseLocal, Sync: Duration(time.Second)},
		Ingest:    Ingest{Path: below("ingest")},
		Index:     Index{MaxAge: Duration(24 * time.Hour)},
		Transfers: Transfers{ThirdParty: 1 * MiB},
		Checksums: []string{"adler32", "sha256"},
		Reads:     Reads{Failover: Duration(15 * time.Second), Hedge: 4, Patience: Duration(time.Minute)},
		Recalls: Recalls{
			Hold: Duration(200 * time.Millisecond), Timeout: Duration(24 * time.Hour), Readahead: Readahead{Files: 10000},
			Policy: Policy{
				Nonblock: "resident",
				Rules: []PolicyRule{
					{Comm: []string{"updatedb", "updatedb.mlocat", "updatedb.plocat", "mlocate", "plocate", "tracker-miner-f", "tracker-extract", "localsearch", "baloo_file", "baloo_file_extr",
						"tumblerd", "thunar", "nautilus", "dolphin", "clamscan", "clamd", "freshclam", "aide", "rkhunter", "restic", "file"}, Action: "refuse"},
					{Comm: []string{"grep", "egrep", "fgrep", "rg", "ag", "ack", "ugrep"}, TTY: &no, Action: "refuse"},
					{Action: "recall"},
				},
				Burst: Burst{Files: 32, Window: Duration(time.Minute), Below: 1 * MiB},
			},
		},
		Mount: Mount{XAttr: true, AttrTimeout: Duration(time.Hour), EntryTimeout: Duration(time.Hour), Delete: true, Watchdog: Duration(time.Minute), IOURing: "auto"},
		Log:   Log{Level: "info", Format: "text"},
	}
}

// DefaultTape is a library of the size and pace of a small real one (two LTO-9 drives).
func DefaultTape() Tape {
	return Tape{
		Drives: 2, Cartridges: 20, CartridgeSize: 18 * TB, Buffer: 10 * GiB, Speed: 1,
		Robot: Duration(10 * time.Second), Mount: Duration(18 * time.Second), Unmount: Duration(15 * time.Second),
		Seek: Duration(100 * time.Second), Rewind: Duration(80 * time.Second), Rate: 400 * MB,
		Keep: Duration(24 * time.Hour), Patience: Duration(10 * time.Minute),
	}
}

// File is the absolute path of the lake file that c was loaded from.
func (c *Config) File() string { return c.file }
