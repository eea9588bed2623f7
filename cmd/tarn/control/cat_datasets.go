package control

import (
	"context"
	"errors"

	"tarn/backends"
	"tarn/backends/filecat"
)

// DatasetsRequest asks for datasets: those of the names, or those that match a pattern ("": all).
type DatasetsRequest struct {
	Names   []Text `json:"names,omitempty"`
	Pattern string `json:"pattern,omitempty"`
}

// DatasetEntry is one of them, or why there is none of that name.
type DatasetEntry struct {
	filecat.Dataset
	Error *Error `json:"error,omitempty"`
}

func (s *Service) catDatasets(ctx context.Context, req DatasetsRequest, out *stream) (any, error) {
	fc := s.Files
	for _, name := range req.Names {
		d, err := fc.Dataset(ctx, string(name))
		e := DatasetEntry{Dataset: d, Error: Describe(noDataset(string(name), err))}
		e.Name = string(name)
		if err := out.item(e); err != nil {
			return nil, err
		}
	}
	if len(req.Names) > 0 {
		return nil, nil
	}
	for d, err := range fc.Datasets(ctx, req.Pattern) {
		if err != nil {
			return nil, err
		}
		if err := out.item(DatasetEntry{Dataset: d}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// noDataset says what to do about a name that is none.
func noDataset(name string, err error) error {
	if errors.Is(err, backends.ErrNotExist) {
		return Fail(backends.ErrNotExist, "`tarn catalogue dataset ls` lists them", "there is no dataset %s", Text(name).Quote())
	}
	return err
}

// AddDatasetRequest defines a dataset by a query.
type AddDatasetRequest struct {
	Name  Text   `json:"name"`
	Path  Text   `json:"path"`
	Query string `json:"query"`
}

func (s *Service) catAddDataset(ctx context.Context, req AddDatasetRequest, _ *stream) (any, error) {
	fc, root, _, err := s.prepared(ctx, req.Path, req.Query)
	if err != nil {
		return nil, err
	}
	return fc.AddDataset(ctx, string(req.Name), root, req.Query)
}

// DatasetRequest names one.
type DatasetRequest struct {
	Name Text `json:"name"`
}

func (s *Service) catDatasetFiles(ctx context.Context, req DatasetRequest, out *stream) (any, error) {
	fc := s.Files
	if _, err := fc.Dataset(ctx, string(req.Name)); err != nil {
		return nil, noDataset(string(req.Name), err)
	}
	var c Count
	for in, err := range fc.DatasetFiles(ctx, string(req.Name)) {
		if err != nil {
			return nil, err
		}
		c.Done++
		c.Bytes += in.Size
		if err := out.value(LFNResult{LFN: s.lfnOf(in.DID)}, in.Size); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// DatasetDifference is a file by which a dataset differs from what it was.
type DatasetDifference struct {
	What string `json:"what"` // added, removed, left, changed, moved
	LFN  Text   `json:"lfn"`
}

func (s *Service) catCheckDataset(ctx context.Context, req DatasetRequest, out *stream) (any, error) {
	fc := s.Files
	c, err := fc.CheckDataset(ctx, string(req.Name), func(d filecat.Difference) error {
		return out.item(DatasetDifference{d.What, s.lfnOf(d.DID)})
	})
	return c, noDataset(string(req.Name), err)
}

// ChangeDatasetRequest changes datasets: update, freeze, release, annotate, rm.
type ChangeDatasetRequest struct {
	Names []Text `json:"names"`
	Do    string `json:"do"`
	Text  string `json:"text,omitempty"` // of annotate
}

func (s *Service) catChangeDataset(ctx context.Context, req ChangeDatasetRequest, out *stream) (any, error) {
	fc := s.Files
	change := map[string]func(string) (filecat.Dataset, error){
		"update":   func(n string) (filecat.Dataset, error) { return fc.UpdateDataset(ctx, n) },
		"freeze":   func(n string) (filecat.Dataset, error) { return fc.FreezeDataset(ctx, n) },
		"release":  func(n string) (filecat.Dataset, error) { return fc.ReleaseDataset(ctx, n) },
		"annotate": func(n string) (filecat.Dataset, error) { return fc.AnnotateDataset(ctx, n, req.Text) },
		"rm":       func(n string) (filecat.Dataset, error) { return filecat.Dataset{}, fc.RemoveDataset(ctx, n) },
	}[req.Do]
	if change == nil {
		return nil, Fail(ErrUsage, "", "%q is nothing that can be done with a dataset", req.Do)
	}
	return eachLFN(ctx, req.Names, out, func(name string) (any, error) {
		_, err := change(name)
		if errors.Is(err, backends.ErrImmutable) {
			err = Fail(backends.ErrImmutable, "`tarn catalogue dataset release NAME` makes it dynamic again", "dataset %s is frozen", Text(name).Quote())
		}
		return true, noDataset(name, err)
	})
}

// KinRequest asks for the ancestors or descendants of files, down to a depth (0: all).
type KinRequest struct {
	LFNs        []Text `json:"lfns"`
	Descendants bool   `json:"descendants,omitempty"`
	Depth       int    `json:"depth"`
}

func (s *Service) catKin(ctx context.Context, req KinRequest, out *stream) (any, error) {
	fc := s.Files
	if req.Depth < 0 {
		return nil, Fail(ErrUsage, "", "a depth of %d: want 1 or more, or 0 for all", req.Depth)
	}
	way := filecat.Ancestors
	if req.Descendants {
		way = filecat.Descendants
	}
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		d, err := s.registered(ctx, p)
		if err != nil {
			return nil, err
		}
		depths := map[string]int{} // by LFN, as in DIRAC
		err = fc.Kin(ctx, way, d, req.Depth, func(k filecat.Kin) error {
			depths[string(s.lfnOf(k.DID))] = k.Depth
			return nil
		})
		return depths, err
	})
}

// registered gives the DID of a file of the catalogue.
func (s *Service) registered(ctx context.Context, p string) (backends.DID, error) {
	n, err := s.node(ctx, p)
	if err != nil {
		return backends.DID{}, err
	}
	defer n.Forget(1)
	d := n.Info().DID
	if d.Scope == "" && n.Path() != "/" {
		return d, Fail(backends.ErrBusy, "`tarn uploads ls` shows how far it is", "%s is not registered yet", Text(p).Quote())
	}
	if n.IsDir() {
		return d, Fail(backends.ErrIsDir, "ancestors are files", "%s is a directory", Text(p).Quote())
	}
	return d, nil
}

// ChangeKinRequest notes of what files were made, or takes that back.
type ChangeKinRequest struct {
	LFNs      []Text `json:"lfns"`
	Ancestors []Text `json:"ancestors"`
	Remove    bool   `json:"remove,omitempty"`
}

func (s *Service) catChangeKin(ctx context.Context, req ChangeKinRequest, out *stream) (any, error) {
	fc := s.Files
	var above []backends.DID
	for _, a := range req.Ancestors {
		d, err := s.registered(ctx, string(a))
		if req.Remove && errors.Is(err, backends.ErrNotExist) {
			d, err = s.Lake.PathDID(string(a)), nil // what is gone can be taken back by its name
		}
		if err != nil {
			return nil, err
		}
		above = append(above, d)
	}
	return eachLFN(ctx, req.LFNs, out, func(p string) (any, error) {
		d, err := s.registered(ctx, p)
		switch {
		case err != nil:
		case req.Remove:
			err = fc.RemoveAncestors(ctx, d, above...)
		default:
			err = fc.AddAncestors(ctx, d, above...)
		}
		return true, err
	})
}
