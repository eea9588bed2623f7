package index

import (
	"encoding/binary"
	"hash/fnv"

	"tarn/backends"
)

// What is stored. A cover is what one `tarn index` has read; its records are below its number, so that a new one is
// written beside the old one and takes its place in one transaction, and the old one is deleted by its prefix.
//
//	v NUMBER                      cover: JSON
//	x NUMBER                      the records of this number are no cover's, or not yet: to be deleted
//	m SEQUENCE N                  change to be looked at: JSON
//	b SEQUENCE N                  the same for the cover that is being made
//	f                             of what lake this is
//	e NUMBER d SCOPE 0 NAME       DID -> id
//	e NUMBER r ID                 id -> record
//	e NUMBER u ID PARENT          what it is in; parent 0: the root of the cover
//	e NUMBER c PARENT ID          the same from above
//	e NUMBER p HASH PLACE ID      a value of a key, at its place in the order of query.Places
const (
	kindCover  = 'v'
	kindDead   = 'x'
	kindMark   = 'm'
	kindBehind = 'b'
	kindLake   = 'f'
	kindEpoch  = 'e'

	kindDID     = 'd'
	kindRecord  = 'r'
	kindUp      = 'u'
	kindDown    = 'c'
	kindPosting = 'p'
)

// epoch is the number of a cover, never used again.
type epoch uint32

// id is a DID's in one cover: from 1 on.
type id uint64

func numberKey(kind byte, n epoch) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, uint32(n))
}

func numberOf(key []byte) epoch { return epoch(binary.BigEndian.Uint32(key[1:])) }

// prefix is that of all keys of a cover of a kind.
func (e epoch) prefix(kind byte) []byte { return append(numberKey(kindEpoch, e), kind) }

func (e epoch) did(d backends.DID) []byte {
	k := append(e.prefix(kindDID), d.Scope...)
	k = append(k, 0)
	return append(k, d.Name...)
}

func (e epoch) record(i id) []byte { return i.append(e.prefix(kindRecord)) }

func (e epoch) up(i, parent id) []byte   { return parent.append(i.append(e.prefix(kindUp))) }
func (e epoch) down(parent, i id) []byte { return i.append(parent.append(e.prefix(kindDown))) }

func (i id) append(b []byte) []byte { return binary.BigEndian.AppendUint64(b, uint64(i)) }

// lastID is the id at the end of a key.
func lastID(key []byte) id { return id(binary.BigEndian.Uint64(key[len(key)-8:])) }

// posting is the key of all values at a place; the id follows. Two keys of the same hash are told apart by the query.
func (e epoch) posting(key string, place []byte) []byte {
	h := fnv.New64a()
	h.Write([]byte(key))
	return append(h.Sum(e.prefix(kindPosting)), place...)
}

func sequenceKey(kind byte, seq uint64, n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64([]byte{kind}, seq), n)
}

func sequenceOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:]) }
