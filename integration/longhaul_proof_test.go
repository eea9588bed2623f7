package integration

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tarn/backends"
	"tarn/backends/naming"
)

// faultsShown is how many faults of one kind are told.
const faultsShown = 5

// faults are what a proof found.
type faults struct{ kinds map[string][]string }

func (f *faults) add(kind, format string, args ...any) {
	if f.kinds == nil {
		f.kinds = map[string][]string{}
	}
	f.kinds[kind] = append(f.kinds[kind], fmt.Sprintf(format, args...))
}

// err is nil when there are none.
func (f *faults) err() error {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(f.kinds)) {
		list := f.kinds[kind]
		more := ""
		if len(list) > faultsShown {
			more = ", ..."
		}
		all = append(all, fmt.Sprintf("%s: %d (%s%s)", kind, len(list), strings.Join(list[:min(len(list), faultsShown)], ", "), more))
	}
	if all == nil {
		return nil
	}
	return errors.New(strings.Join(all, "; "))
}

// proof compares all that an ingest left with the manifest: every file is in the catalogue once, with one copy at each of
// the RSEs, whose bytes, read at the servers' own folders and on the cartridges, are those that were made; there is nothing
// else, at the source nothing at all, and tarn's own audit agrees. Only ingests whose RSEs nobody else uses can be proved so.
func (h *haul) proof(name string, m *manifest, rses ...string) error {
	h.t.Helper()
	var f faults
	left, err := regular(m.dir)
	if err != nil {
		return err
	}
	for _, p := range left {
		f.add("left at the source", "%s", p)
	}
	h.proveCatalogue(&f, m, rses)
	for _, rse := range rses {
		if srv := h.servers[rse]; srv != nil {
			err = h.proveServer(&f, rse, srv.Dir, m)
		} else {
			err = h.proveTape(&f, rse, m)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", rse, err)
		}
	}
	if r := h.try("ingest", "audit", name); r.code != 0 {
		f.add("audit", "exit %d: %s", r.code, strings.TrimSpace(lastLines(r.out+r.err, 5)))
	}
	return f.err()
}

// proveCatalogue wants each file once, with an available and verified copy at each RSE.
func (h *haul) proveCatalogue(f *faults, m *manifest, rses []string) {
	h.t.Helper()
	at := map[string][]string{}
	r := h.try("replicas", m.target, "--json")
	if r.code != 0 {
		f.add("catalogue", "exit %d: %s", r.code, r.err)
		return
	}
	for dec := json.NewDecoder(strings.NewReader(r.out)); ; {
		var e struct{ Path, RSE, State, Verified string }
		if err := dec.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			f.add("catalogue", "%v", err)
			return
		}
		if e.State != string(backends.Available) || e.Verified == "" {
			f.add("copies that are not good", "%s at %s is %s", e.Path, e.RSE, e.State)
		}
		at[e.Path] = append(at[e.Path], e.RSE)
	}
	want := strings.Join(slices.Sorted(slices.Values(rses)), " ")
	for name := range m.files {
		slices.Sort(at[m.lakePath(name)])
		if got := strings.Join(at[m.lakePath(name)], " "); got != want {
			f.add("not where the rules say", "%s is at %q", name, got)
		}
		delete(at, m.lakePath(name))
	}
	for p := range at {
		f.add("in the catalogue, and nobody made it", "%s", p)
	}
}

// proveServer wants each file once in a server's folder, and nothing else there.
func (h *haul) proveServer(f *faults, rse, dir string, m *manifest) error {
	files, err := regular(dir)
	if err != nil {
		return err
	}
	missing := map[string][]string{} // names by checksum
	for name, e := range m.files {
		missing[e.sum] = append(missing[e.sum], name)
	}
	for _, p := range files {
		sum, err := sha256Of(filepath.Join(dir, p))
		if err != nil {
			return err
		}
		names := missing[sum]
		if len(names) == 0 {
			f.add("strange at "+rse, "%s", p)
			continue
		}
		missing[sum] = names[1:]
		if a, ok := naming.ByName("hash"); rse == "PIC-DISK" && ok {
			want, _ := a.Path(backends.DID{Scope: "ctao", Name: m.lakePath(names[0])})
			if p != want {
				f.add("not at its path at "+rse, "%s, want %s", p, want)
			}
		}
	}
	for _, names := range missing {
		for _, name := range names {
			f.add("not at "+rse, "%s", name)
		}
	}
	return nil
}

// proveTape wants the bytes of each file on the cartridges, where the library's index says.
func (h *haul) proveTape(f *faults, rse string, m *manifest) error {
	type place struct {
		cartridge      int
		position, size int64
	}
	places := map[string]place{} // by id
	index, err := os.Open(filepath.Join(h.dir, "rse", rse, "index"))
	if err != nil {
		return err
	}
	defer index.Close()
	sc := bufio.NewScanner(index)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		num := func(i int) int64 { n, _ := strconv.ParseInt(w[i], 10, 64); return n }
		switch {
		case len(w) > 8 && w[1] == "F":
			places[w[2]] = place{int(num(7)), num(8), num(3)}
		case len(w) > 4 && w[1] == "T":
			p := places[w[2]]
			p.cartridge, p.position = int(num(3)), num(4)
			places[w[2]] = p
		case len(w) > 2 && w[1] == "D":
			delete(places, w[2])
		}
	}
	if err := sc.Err(); err != nil {
		return err
	}
	missing := map[string]string{}
	for name, e := range m.files {
		missing[e.sum] = name
	}
	for id, p := range places {
		if p.cartridge < 0 {
			f.add("in the buffer of "+rse+" only", "file %s", id)
			continue
		}
		c, err := os.Open(filepath.Join(h.dir, "rse", rse, "cartridges", fmt.Sprintf("T%05d", p.cartridge)))
		if err != nil {
			return err
		}
		d := sha256.New()
		_, err = io.Copy(d, io.NewSectionReader(c, p.position, p.size))
		c.Close()
		if err != nil {
			return err
		}
		sum := hex.EncodeToString(d.Sum(nil))
		if _, ok := missing[sum]; !ok {
			f.add("strange or twice on "+rse, "file %s", id)
		}
		delete(missing, sum)
	}
	for _, name := range missing {
		f.add("not on "+rse, "%s", name)
	}
	return nil
}

// regular lists the regular files below dir, by their paths there.
func regular(dir string) (out []string, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p != dir {
			return nil // it went meanwhile
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		out = append(out, rel)
		return err
	})
	return out, err
}
