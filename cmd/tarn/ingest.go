package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"tarn/backends"
	"tarn/backends/compare"
	"tarn/backends/ingest"
	"tarn/backends/ingest/metadata"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// defaultMetadata is the name of the rules for ingests that name none.
const defaultMetadata = "default"

// openIngests opens what is known of the ingests of this machine; none of them runs yet.
func (o *opened) openIngests() error {
	c := o.cfg
	rules := map[string]*metadata.Extractor{}
	attributes := o.hdf5Attributes()
	compile := func(name string, r metadata.Rules) error {
		x, err := r.Compile()
		if err != nil {
			return fmt.Errorf("metadata rules %q: %w", name, err)
		}
		rules[name] = x.WithHDF5(attributes)
		return nil
	}
	if err := compile("", metadata.Default()); err != nil {
		return err
	}
	for _, m := range c.Ingest.Metadata {
		if err := compile(m.Name, m.Rules()); err != nil {
			return err
		}
		if m.Name == defaultMetadata {
			rules[""] = rules[m.Name]
		}
	}
	tell := &newNames{o: o, seen: map[string]bool{}}
	set, err := ingest.Open(ingest.Options{Dir: c.Ingest.Path, Lake: o.lake, Kick: tell.registered, Changed: tell.changed, Metadata: rules, Avoid: o.ownFolders, Log: o.log, Now: o.now})
	switch {
	case errors.Is(err, backends.ErrBusy):
		return fmt.Errorf("open the ingests in %s: %w", c.Ingest.Path, err)
	case err != nil: // the lake is of use without them
		o.noIngests = o.folderFault("ingest.path", fmt.Errorf("open the ingests in %s: %w", c.Ingest.Path, err))
		o.log.Error("ingests do not run", "err", err)
		return nil
	}
	o.ingests = set
	o.onClose(set.Close)
	return nil
}

// hdf5Attributes reads attributes of HDF5 files where there is a Python that can; that there is none is told once.
func (o *opened) hdf5Attributes() metadata.Attributes {
	pythons := []string{"python3", "/usr/bin/python3"}
	if o.cfg.Ingest.Python != "" {
		pythons = []string{o.cfg.Ingest.Python}
	}
	reader := metadata.NewH5Py(pythons...)
	o.onClose(reader.Close)
	var told sync.Once
	return func(f io.ReaderAt, size int64, names []string) (map[string]any, error) {
		attributes, err := reader.Attributes(f, size, names)
		if errors.Is(err, metadata.ErrNoReader) {
			told.Do(func() {
				o.log.Warn("attributes of HDF5 files do not become metadata: install python3-h5py, or let ingest.python of lake.yaml name a Python that has h5py", "tried", pythons)
			})
			return nil, nil
		}
		return attributes, err
	}
}

// ownFolders are those that the lake file names, and where the lake is mounted: what an ingest took from there it would
// find there again.
func (o *opened) ownFolders() []string {
	c := o.cfg
	out := []string{c.Run, c.Catalogue.Path, c.Cache.Path, c.Journal.Path, c.Ingest.Path}
	for _, r := range c.RSEs {
		if r.Path != "" {
			out = append(out, r.Path)
		}
	}
	mounts, err := config.SystemMounts()
	if err != nil {
		o.log.Warn("it is not known where the lake is mounted", "err", err)
	}
	for _, m := range mounts {
		if m.Lake == c.File() {
			out = append(out, m.Point)
		}
	}
	return out
}

// notWatched refuses a mountpoint in the folder of an ingest of this lake, which would take the lake into itself.
func (o *opened) notWatched(point string) error {
	if o.ingests == nil {
		return nil
	}
	for _, st := range o.ingests.List() {
		if point == st.Dir || strings.HasPrefix(point, strings.TrimSuffix(st.Dir, "/")+"/") {
			return control.Fail(control.ErrUsage, "mount it elsewhere, or end that with `tarn ingest rm "+st.Name+"`",
				"the mountpoint %s lies in %s, the folder of ingest %s", control.Text(point).Quote(), control.Text(st.Dir).Quote(), st.Name)
		}
	}
	return nil
}

// ingestCopies are the copies that ingests have made or make, and have not registered yet.
func (o *opened) ingestCopies() (out []compare.Place) {
	if o.ingests == nil {
		return nil
	}
	for _, st := range o.ingests.List() {
		for r, err := range o.ingests.Files(context.Background(), st.Name, ingest.Found, ingest.Sealed, ingest.Transferred, ingest.Verified) {
			if err != nil {
				o.log.Warn("the copies of an ingest are not known", "ingest", st.Name, "err", err)
				break
			}
			if r.PFN == "" && len(r.Left) == 0 {
				continue
			}
			out = append(out, compare.Place{RSE: r.RSE, PFN: path.Clean(r.PFN)})
			for _, l := range r.Left {
				out = append(out, compare.Place{RSE: l.RSE, PFN: path.Clean(l.PFN)})
			}
		}
	}
	return out
}

// runIngests works on all that are not paused, or only on those that are named, until the lake is closed.
func (o *opened) runIngests(names ...string) {
	if o.ingests == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := o.ingests.RunOnly(ctx, names...); err != nil && ctx.Err() == nil {
			o.log.Error("the ingests ended", "err", err)
		}
	})
	o.onClose(func() error {
		cancel()
		wg.Wait()
		return nil
	})
}

// newNames tells the replication of files that an ingest has registered, and the mount of their folders.
type newNames struct {
	o *opened

	mu   sync.Mutex      // guards the rest
	seen map[string]bool // folders of which the kernel was told that they are there
}

// maxSeen bounds the folders that are remembered; one that is forgotten is told of again.
const maxSeen = 10000

func (n *newNames) registered(dids ...backends.DID) {
	if n.o.engine != nil {
		n.o.engine.Kick(dids...)
	}
}

// changed tells the mount of folders, as lake paths.
func (n *newNames) changed(dirs []string) {
	if n.o.fs == nil {
		return
	}
	ctx, cancel := withinAsks(context.Background()) // of a server's lake it may have to be asked
	defer cancel()
	for _, dir := range dirs {
		for _, p := range n.fresh(dir) {
			n.o.fs.Changed(ctx, p)
		}
	}
}

// fresh gives the folders to tell of, the highest first: those above dir that are new, and dir.
func (n *newNames) fresh(dir string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.seen) > maxSeen {
		clear(n.seen)
	}
	out := []string{dir}
	n.seen[dir] = true
	for p := path.Dir(dir); len(p) > 1 && !n.seen[p]; p = path.Dir(p) {
		n.seen[p] = true
		out = append([]string{p}, out...)
	}
	return out
}
