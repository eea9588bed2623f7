// Package backends holds the words of a datalake and the contracts between tarn's
// layers: data identifiers, replicas, rules, checksums, errors, and the interfaces
// Catalogue, Namespace, Versions, Rules, Storage and Tape. It does no I/O and
// imports nothing of tarn but the query language, so a newcomer who reads it knows
// the system. Implementations live in the folders below it, one folder each, and
// prove themselves with the contract suites of package backendstest.
//
// The words are Rucio's and the grid's own: a DID (scope:name) is a file, a dataset
// or a container; an RSE is a named storage; a replica is one copy of a file at an
// RSE under a PFN; a rule asks for copies on the RSEs that match an expression.
package backends

import "fmt"

// DID is a data identifier. In a scope of layout lfn the name is the file's path
// in the lake, with the scope as its first element: {"ctao", "/ctao/dl3/run1.fits"}.
// The scope's own collection is {"ctao", "/ctao"}. In a scope of layout contents the
// name is whatever the catalogue holds, and the scope's own (virtual) collection has
// the empty name.
type DID struct {
	Scope string `json:"scope"`
	Name  string `json:"name"`
}

// String gives scope:name.
func (d DID) String() string { return d.Scope + ":" + d.Name }

// IsZero tells whether d names nothing at all.
func (d DID) IsZero() bool { return d == DID{} }

// CheckScope applies Rucio's scope schema (lib/rucio/common/schema/generic.py):
// 1 to 25 letters, digits, dots, dashes and underscores. "." and ".." and names
// that begin with a dot are refused, since a scope is a directory of the tree.
func CheckScope(s string) error {
	if s == "" || s[0] == '.' {
		return fmt.Errorf("scope %q: 1 to 25 letters, digits, '.', '-', '_', not beginning with a dot: %w", s, ErrName)
	}
	if len(s) > 25 {
		return fmt.Errorf("scope %q: longer than 25 bytes: %w", s, ErrNameTooLong)
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return fmt.Errorf("scope %q: letters, digits, '.', '-', '_' only: %w", s, ErrName)
		}
	}
	return nil
}

// Type is what a DID is.
type Type uint8

// The DID types of Rucio.
const (
	File Type = iota + 1
	Dataset
	Container
)

// String gives Rucio's word in lower case: file, dataset, container.
func (t Type) String() string {
	switch t {
	case File:
		return "file"
	case Dataset:
		return "dataset"
	case Container:
		return "container"
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// MarshalText and UnmarshalText make the JSON of a Type its word.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the word that MarshalText wrote.
func (t *Type) UnmarshalText(b []byte) error {
	for _, k := range []Type{File, Dataset, Container} {
		if k.String() == string(b) {
			*t = k
			return nil
		}
	}
	return fmt.Errorf("DID type %q: want file, dataset or container", b)
}

// IsCollection tells whether t can hold other DIDs.
func (t Type) IsCollection() bool { return t == Dataset || t == Container }

// Layout is how the DIDs of a scope become a tree.
type Layout string

// The two layouts of DESIGN: a DID's name is its path, or a container shows its
// datasets and a dataset its files.
const (
	LayoutLFN      Layout = "lfn"
	LayoutContents Layout = "contents"
)
