package ingest

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"tarn/backends"
)

// stored is a Record in the ledger: JSON, which cannot hold names that are not valid UTF-8. These are beside it.
type stored struct {
	*Record
	Names *names `json:"names,omitempty"`
}

// names are those of a record, byte by byte: its path, that of its DID, and the PFNs in their order.
type names struct {
	Path []byte   `json:"path"`
	DID  []byte   `json:"did"`
	PFNs [][]byte `json:"pfns"`
}

// pfns are the places of all PFNs of a record.
func (r *Record) pfns() []*string {
	out := []*string{&r.PFN}
	for i := range r.Left {
		out = append(out, &r.Left[i].PFN)
	}
	for i := range r.Copies {
		out = append(out, &r.Copies[i].PFN)
	}
	return out
}

func encodeRecord(r *Record) ([]byte, error) {
	s := stored{Record: r}
	n := names{Path: []byte(r.Path), DID: []byte(r.DID.Name)}
	valid := utf8.ValidString(r.Path) && utf8.ValidString(r.DID.Name)
	for _, p := range r.pfns() {
		n.PFNs = append(n.PFNs, []byte(*p))
		valid = valid && utf8.ValidString(*p)
	}
	if !valid {
		s.Names = &n
	}
	return json.Marshal(s)
}

// decodeRecord reads what encodeRecord wrote. ErrDamaged.
func decodeRecord(b []byte) (*Record, error) {
	s := stored{Record: &Record{}}
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("record: %w: %w", backends.ErrDamaged, err)
	}
	r := s.Record
	if s.Names == nil {
		return r, nil
	}
	r.Path, r.DID.Name = string(s.Names.Path), string(s.Names.DID)
	all := r.pfns()
	if len(all) != len(s.Names.PFNs) {
		return nil, fmt.Errorf("record of %q: %d names for %d copies: %w", r.Path, len(s.Names.PFNs), len(all), backends.ErrDamaged)
	}
	for i, p := range all {
		*p = string(s.Names.PFNs[i])
	}
	return r, nil
}
