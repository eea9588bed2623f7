package embedded

import (
	"encoding/binary"
	"time"

	"tarn/backends"
)

// What the version key holds. docs/catalogue-format.md describes the format; a change that an older
// program would misread needs the next number, which a catalogue gets when it is first made use of.
const (
	versionFirst    = 1
	versionTransfer = 2 // rules have a source, an activity, a priority, a weight and a grouping
	formatVersion   = versionTransfer
)

// manifestVersion is the database's external magic number. It cannot be changed in a database that is there.
const manifestVersion = 1

// Every key begins with one of these bytes. Inodes, times and sequence numbers in
// keys are 8 bytes, big endian, so that keys sort as the numbers do.
const (
	prefixVersion  = 'v' // v                              -> version of the format
	prefixCounters = 'n' // n                              -> counters
	prefixScope    = 's' // s scope                        -> entry of the scope's own collection
	prefixEntry    = 'e' // e parent name                  -> entry: the home of a DID
	prefixMember   = 'c' // c parent treename              -> inode of a DID attached to parent beside its home
	prefixTop      = 'o' // o scope name                   -> nothing: a DID of a contents scope that is attached nowhere
	prefixPlace    = 'i' // i inode                        -> place: where the DID of this inode is
	prefixParent   = 'p' // p child parent                 -> nothing: the inverse of c
	prefixReplicas = 'r' // r inode                        -> replicas
	prefixMeta     = 'm' // m inode                        -> metadata
	prefixPast     = 't' // t removed sequence             -> past; the two numbers are its handle
	prefixPastName = 'q' // q parent name 0 removed sequence -> nothing: Pasts by name
	prefixTomb     = 'g' // g parent name 0 sequence       -> entry of a removed collection that Pasts lie below
	prefixHistory  = 'h' // h parent time sequence         -> event
	prefixRule     = 'u' // u id                           -> rule
	prefixRuleOf   = 'w' // w inode id                     -> nothing: rules by DID
	prefixRuleIn   = 'x' // x state id                     -> nothing: rules by state
	prefixPlaces   = 'f' // f rse                          -> number of the last transaction; f rse 0 digest -> how many replicas have the path
	prefixSide     = 'b' // b table 0 key                  -> side record
	prefixTrash    = 'z' // z inode                        -> nothing: history of a removed collection, to be deleted
)

func beKey(prefix byte, ns ...uint64) []byte {
	k := make([]byte, 1, 1+8*len(ns)+64)
	k[0] = prefix
	for _, n := range ns {
		k = binary.BigEndian.AppendUint64(k, n)
	}
	return k
}

func versionKey() []byte  { return []byte{prefixVersion} }
func countersKey() []byte { return []byte{prefixCounters} }

// entryKey is the home of a name; scopes are the names below inode 0.
func entryKey(parent uint64, name string) []byte {
	if parent == 0 {
		return append([]byte{prefixScope}, name...)
	}
	return append(beKey(prefixEntry, parent), name...)
}

func memberKey(parent uint64, name string) []byte {
	return append(beKey(prefixMember, parent), name...)
}
func topKey(scope uint64, name string) []byte { return append(beKey(prefixTop, scope), name...) }
func placeKey(ino uint64) []byte              { return beKey(prefixPlace, ino) }
func parentKey(child, parent uint64) []byte   { return beKey(prefixParent, child, parent) }
func replicasKey(ino uint64) []byte           { return beKey(prefixReplicas, ino) }
func metaKey(ino uint64) []byte               { return beKey(prefixMeta, ino) }
func pastKey(h handle) []byte                 { return beKey(prefixPast, h.removed, h.seq) }
func trashKey(ino uint64) []byte              { return beKey(prefixTrash, ino) }

func historyKey(parent uint64, at time.Time, seq uint64) []byte {
	return beKey(prefixHistory, parent, timeOrder(at), seq)
}

func pastNamePrefix(parent uint64, name string) []byte {
	return append(append(beKey(prefixPastName, parent), name...), 0)
}

func pastNameKey(parent uint64, name string, h handle) []byte {
	k := binary.BigEndian.AppendUint64(pastNamePrefix(parent, name), h.removed)
	return binary.BigEndian.AppendUint64(k, h.seq)
}

func tombPrefix(parent uint64, name string) []byte {
	return append(append(beKey(prefixTomb, parent), name...), 0)
}

func tombKey(parent uint64, name string, removed uint64) []byte {
	return binary.BigEndian.AppendUint64(tombPrefix(parent, name), removed)
}

func ruleKey(id backends.RuleID) []byte { return append([]byte{prefixRule}, id...) }
func ruleOfKey(ino uint64, id backends.RuleID) []byte {
	return append(beKey(prefixRuleOf, ino), id...)
}
func ruleInKey(s backends.RuleState, id backends.RuleID) []byte {
	return append(append([]byte{prefixRuleIn}, ruleStateByte(s)), id...)
}

func ruleStateByte(s backends.RuleState) byte {
	switch s {
	case backends.RuleOK:
		return 'O'
	case backends.RuleStuck:
		return 'S'
	}
	return 'R'
}

// keyInode reads the n-th number of a key.
func keyInode(k []byte, n int) uint64 {
	if len(k) < 9+8*n {
		return 0
	}
	return binary.BigEndian.Uint64(k[1+8*n:])
}

// timeOrder is a time as a number that sorts as time does; 292 years around 1970.
func timeOrder(t time.Time) uint64 { return uint64(t.UnixNano()) ^ 1<<63 }

func orderTime(n uint64) time.Time { return time.Unix(0, int64(n^1<<63)).UTC() }
