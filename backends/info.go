package backends

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Info is what a catalogue knows of one DID, without its replicas and metadata.
type Info struct {
	DID  DID  `json:"did"`
	Type Type `json:"type"`

	// Size in bytes, of a file. 0 for collections.
	Size int64 `json:"size"`
	// Checksums of a file's content; at least one is known for a file with replicas.
	Checksums Checksums `json:"checksums,omitzero"`
	// Generation names this content of the file; see GenerationOf.
	Generation Generation `json:"generation,omitempty"`
	// Target is the link text when the DID is a symbolic link (Type File, Size
	// len(Target), no replicas). Catalogues without Traits.Symlinks never have it.
	Target string `json:"target,omitempty"`

	// Mode holds the permission bits (07777 at most).
	Mode  uint32    `json:"mode"`
	UID   uint32    `json:"uid"`
	GID   uint32    `json:"gid"`
	MTime time.Time `json:"mtime"`
	CTime time.Time `json:"ctime"`
	// Born is when the name came to be, if that was before Add (a file written here is
	// registered later): the parent's times move to it. Catalogues need not keep it.
	Born time.Time `json:"-"`

	// Inode is stable for the DID's life, over renames and generations, and unique
	// in the lake. Add allots one when it is 0.
	Inode uint64 `json:"inode"`
	// Layout is set on the Info of a scope only.
	Layout Layout `json:"layout,omitempty"`
}

// IsSymlink tells whether the DID is a symbolic link.
func (i Info) IsSymlink() bool { return i.Target != "" }

// IsDir tells whether the DID stands in the tree as a directory.
func (i Info) IsDir() bool { return i.Type.IsCollection() }

// Undated tells that the times of a file are not known (Cached.Names).
func (i *Info) Undated() bool { return i.Type == File && i.MTime.IsZero() }

// Checksums holds hexadecimal, lower case digests; an empty string is "not known".
type Checksums struct {
	Adler32 string `json:"adler32,omitempty"` // 8 digits
	MD5     string `json:"md5,omitempty"`     // 32 digits
	SHA256  string `json:"sha256,omitempty"`  // 64 digits
}

// IsZero tells whether no digest is known.
func (c Checksums) IsZero() bool { return c == Checksums{} }

// Best gives the strongest known digest and its algorithm's name, or "", "".
func (c Checksums) Best() (alg, hex string) {
	switch {
	case c.SHA256 != "":
		return "sha256", c.SHA256
	case c.MD5 != "":
		return "md5", c.MD5
	case c.Adler32 != "":
		return "adler32", c.Adler32
	}
	return "", ""
}

// String gives "alg:hex" of the strongest digest.
func (c Checksums) String() string {
	alg, hex := c.Best()
	if alg == "" {
		return ""
	}
	return alg + ":" + hex
}

// Match compares every algorithm that both sides know. It reports an error that
// wraps ErrCorrupt on the first difference, and ErrCorrupt as well when the two
// have no algorithm in common: what cannot be compared is not verified.
func (c Checksums) Match(got Checksums) error {
	n := 0
	for _, p := range []struct{ alg, want, got string }{
		{"sha256", c.SHA256, got.SHA256}, {"md5", c.MD5, got.MD5}, {"adler32", c.Adler32, got.Adler32},
	} {
		if p.want == "" || p.got == "" {
			continue
		}
		n++
		if !strings.EqualFold(p.want, p.got) {
			return fmt.Errorf("%s is %s, want %s: %w", p.alg, p.got, p.want, ErrCorrupt)
		}
	}
	if n == 0 {
		return fmt.Errorf("no checksum in common to compare: %w", ErrCorrupt)
	}
	return nil
}

// Generation names one immutable content of a file: equal generations mean equal
// bytes, whatever the path. It is the key in the hot cache.
type Generation string

// GenerationOf derives the generation of a content. With a cryptographic digest the
// content alone decides ("sha256:<hex>:<size>"); with adler32 or nothing the DID is
// part of it, since different files may share such a digest.
func GenerationOf(d DID, size int64, c Checksums) Generation {
	switch alg, hex := c.Best(); alg {
	case "sha256", "md5":
		return Generation(fmt.Sprintf("%s:%s:%d", alg, hex, size))
	default:
		return Generation(fmt.Sprintf("did:%s:%s:%s:%d", d, alg, hex, size))
	}
}

// Meta is a DID's metadata: JSON values by key. Numbers are float64 or json.Number,
// times RFC 3339 strings.
type Meta map[string]any

// Clone copies m so that the copy can be changed.
func (m Meta) Clone() Meta {
	out := make(Meta, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// String is the JSON of m.
func (m Meta) String() string {
	b, err := json.Marshal(m)
	if err != nil {
		return "{}"
	}
	return string(b)
}

// Change is what Namespace.Update sets; nil fields stay as they are.
type Change struct {
	Mode  *uint32
	UID   *uint32
	GID   *uint32
	MTime *time.Time
}

// ReplicaState is Rucio's state of a replica.
type ReplicaState string

// The replica states.
const (
	Available    ReplicaState = "AVAILABLE"
	Copying      ReplicaState = "COPYING"
	Bad          ReplicaState = "BAD"
	BeingDeleted ReplicaState = "BEING_DELETED"
)

// Replica is one copy of a file at an RSE. PFN is the path below the RSE's prefix.
type Replica struct {
	RSE   string       `json:"rse"`
	PFN   string       `json:"pfn"`
	State ReplicaState `json:"state"`
	// Verified is when the storage's checksum or a read-back last agreed; zero: never.
	Verified time.Time `json:"verified,omitzero"`
	// Error says why the state is BAD.
	Error string `json:"error,omitempty"`
}

// Locality is where a file's bytes can be had, in the words of SRM and the WLCG Tape REST API.
type Locality string

// The localities.
const (
	Online            Locality = "ONLINE"
	Nearline          Locality = "NEARLINE"
	OnlineAndNearline Locality = "ONLINE_AND_NEARLINE"
	Unavailable       Locality = "UNAVAILABLE"
	Lost              Locality = "LOST"
	NoLocality        Locality = "NONE"
)

// IsOnline tells whether bytes can be read at once.
func (l Locality) IsOnline() bool { return l == Online || l == OnlineAndNearline }

// RSEKind is disk or tape.
type RSEKind string

// The kinds of RSE, in Rucio's spelling of rse_type.
const (
	DiskKind RSEKind = "DISK"
	TapeKind RSEKind = "TAPE"
)

// RSE is a Rucio storage element as the catalogue and the rules see it.
type RSE struct {
	Name       string            `json:"name"`
	Kind       RSEKind           `json:"kind"`
	Attributes map[string]string `json:"attributes,omitempty"` // country=ES
	ReadOnly   bool              `json:"read_only,omitempty"`
}

// RuleID names a rule.
type RuleID string

// Rule asks for Copies copies of DID (of every file below it, for a collection) on
// RSEs that match Expression, until Expires (zero: for ever).
type Rule struct {
	DID        DID       `json:"did"`
	Copies     int       `json:"copies"`
	Expression string    `json:"expression"` // Rucio's RSE expression grammar
	Expires    time.Time `json:"expires,omitzero"`
	Comment    string    `json:"comment,omitempty"`
	Account    string    `json:"account,omitempty"`

	// Source, when given, is an RSE expression (Rucio's source_replica_expression): copies are made from
	// replicas at RSEs that match it, and wait for one.
	Source   string   `json:"source,omitempty"`
	Activity string   `json:"activity,omitempty"` // transfers of one link are shared fairly between activities
	Priority int      `json:"priority,omitempty"` // 1 to 5, 5 is the most urgent (Rucio's); 0: 3
	Weight   string   `json:"weight,omitempty"`   // the RSE attribute, a number, by which RSEs are preferred
	Grouping Grouping `json:"grouping,omitempty"` // "": DATASET
}

// Grouping is Rucio's: which files of a rule go to the same RSEs.
type Grouping string

// The groupings.
const (
	GroupAll     Grouping = "ALL"     // all files of the rule
	GroupDataset Grouping = "DATASET" // the files of each collection that holds files
	GroupNone    Grouping = "NONE"    // each file goes its own way
)

// RuleState is Rucio's state of a rule.
type RuleState string

// The rule states.
const (
	RuleOK          RuleState = "OK"
	RuleReplicating RuleState = "REPLICATING"
	RuleStuck       RuleState = "STUCK"
)

// RuleStatus is a rule and how far it is fulfilled.
type RuleStatus struct {
	ID RuleID `json:"id"`
	Rule
	State   RuleState `json:"state"`
	Error   string    `json:"error,omitempty"` // why it is STUCK
	Created time.Time `json:"created"`
}

// lastsFor is how much sooner than it was asked to a rule may end: its server reckons by another clock.
const lastsFor = 10 * time.Minute

// Lasts tells whether a rule holds its copies until the one that is wanted would let them go. One that was deleted may be there for some
// time yet, with an end: for an hour in Rucio.
func (r Rule) Lasts(want Rule, now time.Time) bool {
	if r.Expires.IsZero() {
		return true
	}
	return !want.Expires.IsZero() && r.Expires.After(now) && !r.Expires.Before(want.Expires.Add(-lastsFor))
}

// Past is a content or a whole file that was replaced or removed and whose grace
// period has not ended: it can be undeleted, or purged once Until has passed.
type Past struct {
	Info     Info      `json:"info"`
	Replicas []Replica `json:"replicas"`
	Meta     Meta      `json:"meta,omitempty"`
	Removed  time.Time `json:"removed"`
	Until    time.Time `json:"until"`
	// Replaced is true when a newer generation took its name, false for an unlink.
	Replaced bool `json:"replaced"`
	// Handle identifies the record to Versions.Undelete and Versions.Purge.
	Handle string `json:"handle"`
}

// Event is one line of a collection's history of attach and detach.
type Event struct {
	Time   time.Time  `json:"time"`
	Op     string     `json:"op"` // attach, detach
	Parent DID        `json:"parent"`
	Child  DID        `json:"child"`
	Gen    Generation `json:"generation,omitempty"`
}
