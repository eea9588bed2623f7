package control

import (
	"context"
	"path"
	"time"

	"tarn/backends"
	"tarn/backends/compare"
	"tarn/backends/lake"
	"tarn/backends/rseexpr"
)

// CheckRequest asks to compare storages with the catalogue: the files at and below Paths, or all that lies at the RSEs
// that match RSE.
type CheckRequest struct {
	Paths      []Text        `json:"paths,omitempty"`
	RSE        string        `json:"rse,omitempty"` // an RSE expression
	Deep       bool          `json:"deep,omitempty"`
	Repair     bool          `json:"repair,omitempty"`
	DeleteDark bool          `json:"delete_dark,omitempty"`
	Force      bool          `json:"force,omitempty"` // believe a storage that has none of its replicas
	Grace      time.Duration `json:"grace,omitempty"` // least age of what is called dark; 0: 1 h
}

// CheckEntry is one thing that is not as it should be, in the words of compare.
type CheckEntry struct {
	What     string    `json:"what"`
	RSE      string    `json:"rse,omitempty"`
	PFN      Text      `json:"pfn,omitempty"`
	Path     Text      `json:"path,omitempty"` // in the lake
	Size     int64     `json:"size,omitempty"`
	MTime    time.Time `json:"mtime,omitzero"`
	Detail   string    `json:"detail,omitempty"`
	Note     bool      `json:"note,omitempty"` // no fault
	Repaired bool      `json:"repaired,omitempty"`
}

// CheckReply counts what was looked at.
type CheckReply struct {
	RSEs     int   `json:"rses"`
	Files    int64 `json:"files"` // listed
	Bytes    int64 `json:"bytes"`
	Replicas int64 `json:"replicas"` // on record
	Good     int64 `json:"good"`
	Problems int64 `json:"problems"` // that are left
	Repaired int64 `json:"repairs"`
	Lost     int64 `json:"losses"` // files of which no good copy is left
	Notes    int64 `json:"notes"`
}

// check compares storages with the catalogue, and repairs.
func (s *Service) check(ctx context.Context, req CheckRequest, out *stream) (any, error) {
	if req.DeleteDark {
		if !s.importing.TryLock() {
			return nil, Fail(backends.ErrBusy, "repair when the import has ended, or without --delete-dark", "an import is running, whose files are not known before they are registered")
		}
		defer s.importing.Unlock()
	}
	match, err := rseexpr.Parse(req.RSE)
	if req.RSE == "" {
		match, err = rseexpr.Parse("*")
	}
	if err != nil {
		return nil, Fail(ErrUsage, "an RSE expression looks like PIC-DISK or country=ES&rse_type=DISK", "%v", err)
	}
	var rses []*lake.RSE
	for _, r := range s.Lake.RSEs() {
		if match.Match(r.RSE) {
			rses = append(rses, r)
		}
	}
	if len(rses) == 0 {
		return nil, Fail(backends.ErrNotExist, "`tarn rse ls` shows the RSEs and their attributes", "%q matches no RSE of this lake", req.RSE)
	}
	reply := CheckReply{RSEs: len(rses)}
	tell := func(f compare.Finding) error {
		switch {
		case f.Note:
			reply.Notes++
		case f.Repaired:
			reply.Repaired++
		case f.What == compare.Gone:
			reply.Lost++
			reply.Problems++
		default:
			reply.Problems++
		}
		if f.What == compare.Lost || f.What == compare.Bad {
			if f.Repaired {
				s.Kick(f.DID)
			}
		}
		e := CheckEntry{What: f.What, RSE: f.RSE, PFN: Text(f.PFN), Size: f.Size, MTime: f.MTime, Detail: f.Detail, Note: f.Note, Repaired: f.Repaired}
		if !f.DID.IsZero() {
			e.Path = placeOf(f.DID)
		}
		return out.item(e)
	}
	o := compare.Options{
		Lake: s.Lake, Scratch: s.Scratch, Deep: req.Deep, Repair: req.Repair, DeleteDark: req.DeleteDark, Force: req.Force, Grace: req.Grace,
		Unsent: s.unsentPlaces, Log: s.Log, Now: s.Now,
		Progress: func(rse string, n int64) { out.progress(Progress{What: "listed at " + rse, Files: n}) },
	}
	var sum compare.Summary
	if len(req.Paths) > 0 {
		sum, err = compare.Files(ctx, o, func(each func(backends.Info) error) error {
			return s.eachFile(ctx, req.Paths, func(_ string, in backends.Info) error { return each(in) })
		}, func(rse string) bool {
			r, ok := s.Lake.RSE(rse)
			return ok && match.Match(r.RSE) || !ok && req.RSE == ""
		}, tell)
	} else {
		sum, err = compare.Storages(ctx, o, rses, tell)
	}
	reply.Files, reply.Bytes, reply.Replicas, reply.Good = sum.Files, sum.Bytes, sum.Replicas, sum.Good
	return reply, err
}

// placeOf is where a DID stands in the tree, or, where that is elsewhere, the DID.
func placeOf(d backends.DID) Text {
	if d.Name != "" && d.Name[0] == '/' {
		return Text(d.Name)
	}
	return Text(d.String())
}

// unsentPlaces gives the copies that the journal has or makes, and what else knows of copies before the catalogue.
func (s *Service) unsentPlaces() compare.Unsent {
	var out compare.Unsent
	for _, u := range s.FS.Uploads() {
		for _, c := range u.Copies {
			out.Places = append(out.Places, compare.Place{RSE: c.RSE, PFN: path.Clean(c.PFN)})
		}
		if len(u.Path) > 0 && u.Path[0] == '/' {
			out.Files = append(out.Files, s.didOf(backends.Info{}, u.Path))
		}
	}
	if s.Copies != nil {
		for _, p := range s.Copies() {
			out.Places = append(out.Places, compare.Place{RSE: p.RSE, PFN: path.Clean(p.PFN)})
		}
	}
	return out
}
