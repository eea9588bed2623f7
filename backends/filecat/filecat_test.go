package filecat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/query"
)

// rig is a file catalogue over an embedded one with CTA's tree.
type rig struct {
	*testing.T
	cat *embedded.Catalogue
	fc  *Catalogue
}

func newRig(t *testing.T) *rig {
	t.Helper()
	var seconds atomic.Int64
	now := func() time.Time {
		return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(time.Duration(seconds.Add(1)) * time.Second)
	}
	cat, err := embedded.Open(embedded.Options{InMemory: true, CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cat.Close(); err != nil {
			t.Error(err)
		}
	})
	user := func(name string) (uint32, bool) { return 1000, name == "ada" }
	k := &rig{t, cat, New(Options{Catalogue: cat, Side: cat, Names: cat, Records: cat, Now: now, UserID: user})}
	k.must(cat.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: "vo.cta.in2p3.fr"}}))
	return k
}

const root = "/vo.cta.in2p3.fr"

func (k *rig) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func (k *rig) wants(err, want error) {
	k.Helper()
	if !errors.Is(err, want) {
		k.Fatalf("error is %v, want %v", err, want)
	}
}

func (k *rig) equal(what string, got, want any) {
	k.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		k.Fatalf("%s is\n  %s\nwant\n  %s", what, g, w)
	}
}

func (k *rig) did(p string) backends.DID {
	k.Helper()
	in, err := byName{}.Resolve(k.Context(), strings.TrimSuffix(root+"/"+p, "/"))
	k.must(err)
	return in.DID
}

func (k *rig) dir(p string, m backends.Meta) {
	k.Helper()
	k.must(k.cat.Add(k.Context(), backends.Info{DID: k.did(p), Type: backends.Container}, nil))
	k.set(p, m)
}

// set sets metadata as the commands do.
func (k *rig) set(p string, m backends.Meta) {
	k.Helper()
	k.must(k.trySet(p, m))
}

func (k *rig) trySet(p string, m backends.Meta) error {
	k.Helper()
	s, err := k.fc.Schema(k.Context())
	k.must(err)
	in, err := k.cat.Stat(k.Context(), k.did(p))
	k.must(err)
	m, err = k.fc.ToSet(k.Context(), s, in, m)
	if err == nil {
		err = k.cat.SetMeta(k.Context(), in.DID, m)
	}
	return err
}

func (k *rig) file(p string, size int64, m backends.Meta) {
	k.Helper()
	in := backends.Info{DID: k.did(p), Type: backends.File, Size: size, UID: 1000, Checksums: backends.Checksums{Adler32: fmt.Sprintf("%08x", size)}}
	k.must(k.cat.Add(k.Context(), in, m, backends.Replica{RSE: "CC-DISK", PFN: "cta/" + p, State: backends.Available}))
}

// find gives the names below the scope that match.
func (k *rig) find(kind Kind, q string) (out []string) {
	k.Helper()
	e, err := k.fc.Query(k.Context(), q)
	k.must(err)
	for in, err := range k.fc.Find(k.Context(), "", kind, e) {
		k.must(err)
		out = append(out, strings.TrimPrefix(in.DID.Name, root+"/"))
	}
	slices.Sort(out)
	return out
}

// production is a little of PROD5b.
func production(t *testing.T) *rig {
	k := newRig(t)
	for _, f := range []Field{
		{Name: "MCCampaign", Type: query.String, For: Directory}, {Name: "particle", Type: query.String, For: Directory},
		{Name: "thetaP", Type: query.Float, For: Directory}, {Name: "data_level", Type: query.Int, For: Directory},
		{Name: "configuration_id", Type: query.Int, For: Directory}, {Name: "runNumber", Type: query.Int, For: File},
		{Name: "version", Type: query.String, For: File}, {Name: "taken", Type: query.Date, For: File},
	} {
		k.must(k.fc.AddField(t.Context(), f))
	}
	k.dir("prod", backends.Meta{"MCCampaign": "PROD5b"})
	for i, p := range []string{"gamma-diffuse", "electron"} {
		k.dir("prod/"+p, backends.Meta{"particle": p})
		k.dir("prod/"+p+"/20", backends.Meta{"thetaP": 20.0, "configuration_id": 13 + i})
		k.dir("prod/"+p+"/20/Data", backends.Meta{"data_level": -1})
		for n := range 3 {
			k.file(fmt.Sprintf("prod/%s/20/Data/run%d", p, n), int64(10*(i+1)+n), backends.Meta{"runNumber": n, "guid": fmt.Sprintf("%s-%d", p, n)})
		}
	}
	return k
}

func TestFields(t *testing.T) {
	k := production(t)
	ctx := t.Context()
	s, err := k.fc.Schema(ctx)
	k.must(err)
	k.equal("fields", len(s.Fields()), 8)
	k.equal("the first", s.Fields()[0].Name, "MCCampaign")
	k.must(k.fc.AddField(ctx, Field{Name: "thetaP", Type: query.Float, For: Directory})) // again
	k.wants(k.fc.AddField(ctx, Field{Name: "thetaP", Type: query.Float, For: File}), backends.ErrExist)
	for _, name := range []string{"", "SE", "size", "LastAccessDate", "tarn.x", strings.Repeat("x", 256)} {
		k.wants(k.fc.AddField(ctx, Field{Name: name, Type: query.Int, For: File}), backends.ErrName)
	}
	k.wants(k.fc.AddField(ctx, Field{Name: "a", Type: "number", For: File}), backends.ErrNotSupported)
	k.wants(k.fc.AddField(ctx, Field{Name: "a", Type: query.Int, For: "link"}), backends.ErrNotSupported)

	var te *query.TypeError
	for _, m := range []backends.Meta{{"thetaP": "steep"}, {"runNumber": 1.5}, {"taken": "yesterday"}, {"runNumber": map[string]any{}}, {"runNumber": []any{1.0, "x"}}} {
		if err := k.trySet("prod/electron/20/Data/run0", m); !errors.As(err, &te) {
			t.Errorf("setting %v: %v, want a TypeError", m, err)
		}
	}
	k.set("prod/electron/20/Data/run0", backends.Meta{"runNumber": "7", "version": 1.0, "taken": "2026-11-23T12:00:00+01:00", "undeclared": []any{true}})
	all, own, err := k.fc.UserMeta(ctx, k.did("prod/electron/20/Data/run0"))
	k.must(err)
	k.equal("own", own, `{"guid":"electron-0","runNumber":7,"taken":"2026-11-23T11:00:00Z","undeclared":[true],"version":"1"}`)
	k.equal("inherited", []any{all["MCCampaign"], all["particle"], all["data_level"]}, "[PROD5b electron -1]")

	k.must(k.fc.RemoveField(ctx, "thetaP"))
	k.wants(k.fc.RemoveField(ctx, "thetaP"), backends.ErrNotExist)
	k.set("prod", backends.Meta{"thetaP": "steep"})
}

// Setting a declared field of directories below one that has it is refused.
func TestMetadataConflict(t *testing.T) {
	k := production(t)
	err := k.trySet("prod/electron/20/Data", backends.Meta{"thetaP": 40.0})
	k.wants(err, backends.ErrExist)
	if !strings.Contains(err.Error(), "thetaP is set on /vo.cta.in2p3.fr/prod/electron/20 already") {
		t.Errorf("the error is %v", err)
	}
	k.set("prod/electron/20", backends.Meta{"thetaP": 40.0})                             // where it is set it may change
	k.set("prod/electron/20/Data", backends.Meta{"thetaP": nil, "runNumber": 3})         // taking away is no conflict, nor is another kind
	k.set("prod/electron/20/Data/run0", backends.Meta{"thetaP": 20.0, "particle": "mu"}) // nor a file
}

func TestFind(t *testing.T) {
	k := production(t)
	gamma := []string{"prod/gamma-diffuse/20/Data/run0", "prod/gamma-diffuse/20/Data/run1", "prod/gamma-diffuse/20/Data/run2"}
	for q, want := range map[string][]string{
		"MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0":                              gamma,
		`{"particle": {"in": ["gamma-diffuse", "proton"]}, "configuration_id": {">=": 13}}`: gamma,
		"configuration_id>13 runNumber>=2":                                                  {"prod/electron/20/Data/run2"},
		"Path=/vo.cta.in2p3.fr/prod/electron/ runNumber=0":                                  {"prod/electron/20/Data/run0"},
		"User=ada Size>21": {"prod/electron/20/Data/run2"},
		"SE=CC-DISK particle!=electron runNumber=0,1":          gamma[:2],
		"particle=electron particle=gamma-diffuse runNumber=1": {"prod/electron/20/Data/run1", gamma[1]},
		"MCCampaign=PROD6": nil,
		"FileName=run? data_level=-1 particle=elec*,x runNumber<1 GUID=electron-0 nsb=Missing": {"prod/electron/20/Data/run0"},
	} {
		k.equal(q, k.find(File, q), want)
	}
	k.equal("directories", k.find(Directory, "thetaP=20"), []string{"prod/electron/20", "prod/electron/20/Data", "prod/gamma-diffuse/20", "prod/gamma-diffuse/20/Data"})
	k.equal("both", len(k.find("", "thetaP=20")), 10)
	var te *query.TypeError
	if _, err := k.fc.Query(t.Context(), "thetaP=steep"); !errors.As(err, &te) {
		t.Errorf("thetaP=steep: %v", err)
	}
	var se *query.SyntaxError
	for _, q := range []string{
		"User=nobodyatall", "size>1G", "Size=1,many", "not size<big", "UID=root", "GID>x", "mtime>yesterday", "mtime>1700000000",
		"CreationDate<2026", "ModificationDate>=soon", "type=directory", `{"Size": {">": "1G"}}`,
	} {
		if _, err := k.fc.Query(t.Context(), q); !errors.As(err, &se) {
			t.Errorf("%s: %v", q, err)
		}
	}
	for _, q := range []string{"size>1e9", "Size=10,20", "size=1*", "mtime>2026-01", "CreationDate<2026-11-23T10:30", "type!=dataset", "type in file,container", "mtime=Any", "size=Missing"} {
		if _, err := k.fc.Query(t.Context(), q); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}

	e, err := k.fc.Query(t.Context(), "particle=electron")
	k.must(err)
	values, more, err := k.fc.Compatible(t.Context(), root+"/prod", e)
	k.must(err)
	k.equal("values", []any{values["configuration_id"], values["MCCampaign"], values["particle"], len(values["runNumber"]), values["version"], more}, "[[14] [PROD5b] [electron] 3 [] []]")

	e, err = k.fc.Query(t.Context(), "particle=electron runNumber=1")
	k.must(err)
	for in, err := range k.fc.Detailed(t.Context(), "", File, e) {
		k.must(err)
		k.equal("details", in.Meta, `{"MCCampaign":"PROD5b","configuration_id":14,"data_level":-1,"guid":"electron-1","particle":"electron","runNumber":1,"thetaP":20}`)
	}
}

func TestNarrow(t *testing.T) {
	for _, c := range []struct {
		a, b, want string
		ok         bool
	}{
		{"", "/", "/", true}, {"/a", "/", "/a", true}, {"/", "/a/b", "/a/b", true}, {"/a/b", "/a", "/a/b", true}, {"/a", "/a/b", "/a/b", true},
		{"/a", "/ab", "", false}, {"/a/b/", "/a/c", "", false}, {"/a/", "/a", "/a", true},
	} {
		if got, ok := narrow(c.a, c.b); got != c.want || ok != c.ok {
			t.Errorf("narrow(%q, %q) = %q, %v", c.a, c.b, got, ok)
		}
	}
}

func (k *rig) files(name string) (out []string) {
	k.Helper()
	for in, err := range k.fc.DatasetFiles(k.Context(), name) {
		k.must(err)
		out = append(out, strings.TrimPrefix(in.DID.Name, root+"/prod/"))
	}
	slices.Sort(out)
	return out
}

func (k *rig) check(name string) (c Checked, differences []string) {
	k.Helper()
	c, err := k.fc.CheckDataset(k.Context(), name, func(d Difference) error {
		differences = append(differences, d.What+" "+strings.TrimPrefix(d.DID.Name, root+"/prod/"))
		return nil
	})
	k.must(err)
	slices.Sort(differences)
	return c, differences
}

func TestDatasets(t *testing.T) {
	k := production(t)
	ctx := t.Context()
	const name = "Prod5b_LaPalma_gamma_North_20deg_R1"
	d, err := k.fc.AddDataset(ctx, name, root+"/prod", "particle=gamma-diffuse runNumber<2")
	k.must(err)
	k.equal("dataset", []any{d.Files, d.Bytes, d.Status, len(d.Hash), string(d.MetaQuery)}, `[2 21 Dynamic 32 {"particle": "gamma-diffuse", "runNumber": {"<": 2}}]`)
	_, err = k.fc.AddDataset(ctx, name, "", "a=1")
	k.wants(err, backends.ErrExist)
	_, err = k.fc.AddDataset(ctx, "x", "", "a=")
	var se *query.SyntaxError
	if !errors.As(err, &se) {
		t.Errorf("a query that is none: %v", err)
	}
	_, err = k.fc.AddDataset(ctx, "x", "/nowhere", "a=1")
	k.wants(err, backends.ErrNotExist)
	_, err = k.fc.AddDataset(ctx, "", "", "a=1")
	k.wants(err, backends.ErrName)
	if got, diff := k.check(name); !got.Same() || diff != nil || got.Now.Hash != d.Hash {
		t.Errorf("a new dataset differs: %+v", got)
	}

	k.file("prod/gamma-diffuse/20/Data/run9", 90, backends.Meta{"runNumber": 0})
	k.file("prod/gamma-diffuse/20/Data/run0", 17, nil) // another content
	k.set("prod/gamma-diffuse/20/Data/run1", backends.Meta{"runNumber": 5})
	_, diff := k.check(name)
	k.equal("differences", diff, []string{"added gamma-diffuse/20/Data/run9", "changed gamma-diffuse/20/Data/run0", "left gamma-diffuse/20/Data/run1"})
	k.equal("files now", k.files(name), []string{"gamma-diffuse/20/Data/run0", "gamma-diffuse/20/Data/run9"})
	d, err = k.fc.UpdateDataset(ctx, name)
	k.must(err)
	k.equal("updated", []any{d.Files, d.Bytes}, "[2 107]")

	_, err = k.fc.AnnotateDataset(ctx, name, "for the paper")
	k.must(err)
	d, err = k.fc.FreezeDataset(ctx, name)
	k.must(err)
	k.equal("frozen", []any{d.Status, d.Annotation}, "[Frozen for the paper]")
	_, err = k.fc.FreezeDataset(ctx, name)
	k.wants(err, backends.ErrImmutable)
	_, err = k.fc.UpdateDataset(ctx, name)
	k.wants(err, backends.ErrImmutable)
	k.must(k.cat.Rename(ctx, k.did("prod/gamma-diffuse/20"), k.did("prod/gamma-diffuse/zenith20")))
	k.must(k.cat.Remove(ctx, k.did("prod/gamma-diffuse/zenith20/Data/run9")))
	k.file("prod/gamma-diffuse/zenith20/Data/run8", 80, backends.Meta{"runNumber": 1})
	k.equal("frozen files", k.files(name), []string{"gamma-diffuse/20/Data/run9", "gamma-diffuse/zenith20/Data/run0"})
	_, diff = k.check(name)
	k.equal("differences", diff, []string{"added gamma-diffuse/zenith20/Data/run8", "moved gamma-diffuse/zenith20/Data/run0", "removed gamma-diffuse/20/Data/run9"})

	_, err = k.fc.ReleaseDataset(ctx, name)
	k.must(err)
	k.equal("files after the release", k.files(name), []string{"gamma-diffuse/zenith20/Data/run0", "gamma-diffuse/zenith20/Data/run8"})
	_, err = k.fc.AddDataset(ctx, "other", "", "particle=electron or particle=proton")
	k.must(err)
	var names []string
	for d, err := range k.fc.Datasets(ctx, "") {
		k.must(err)
		names = append(names, d.Name+" "+string(d.MetaQuery))
	}
	k.equal("all", len(names), 2)
	k.equal("the second", names[1], "other ")
	n := 0
	for _, err := range k.fc.Datasets(ctx, "Prod5b_*") {
		k.must(err)
		n++
	}
	k.equal("of a pattern", n, 1)
	k.must(k.fc.RemoveDataset(ctx, name))
	k.must(k.fc.RemoveDataset(ctx, "other"))
	k.wants(k.fc.RemoveDataset(ctx, name), backends.ErrNotExist)
	for _, table := range []string{tableDataset, tableFile, tableList} {
		for r, err := range k.cat.SideRecords(ctx, table, "", "") {
			t.Errorf("%s has %q left, %v", table, r.Key, err)
		}
	}
}

// What a crash leaves of a list goes with the next one; one that is being written stays.
func TestListsOfACrash(t *testing.T) {
	k := production(t)
	ctx := t.Context()
	list, _, err := k.fc.beginList(ctx)
	k.must(err)
	k.must(k.cat.PutSide(ctx, listed{did: k.did("f"), id: 1}.record(list)))
	_, err = k.fc.AddDataset(ctx, "a", "", "runNumber=1")
	k.must(err)
	has := func() (n int) {
		for _, err := range k.cat.SideRecords(ctx, tableFile, list, "") {
			k.must(err)
			n++
		}
		return n
	}
	k.equal("records while it is being written", has(), 1)
	k.fc = New(k.fc.o) // the process has died
	_, err = k.fc.AddDataset(ctx, "b", "", "runNumber=1")
	k.must(err)
	k.equal("records after the next one", has(), 0)
}

func TestKin(t *testing.T) {
	k := production(t)
	ctx := t.Context()
	for _, f := range []string{"dl0", "dl1", "dl2", "dl3", "cal"} {
		k.file(f, 1, nil)
	}
	k.must(k.fc.AddAncestors(ctx, k.did("dl1"), k.did("dl0"), k.did("cal")))
	k.must(k.fc.AddAncestors(ctx, k.did("dl2"), k.did("dl1"), k.did("cal")))
	k.must(k.fc.AddAncestors(ctx, k.did("dl3"), k.did("dl2")))
	k.must(k.fc.AddAncestors(ctx, k.did("dl3"), k.did("dl2"))) // again
	kin := func(way Relation, f string, depth int) (out []string) {
		k.must(k.fc.Kin(ctx, way, k.did(f), depth, func(x Kin) error {
			s := fmt.Sprint(x.Depth, " ", strings.TrimPrefix(x.DID.Name, root+"/"))
			if x.Gone {
				s += " gone"
			}
			out = append(out, s)
			return nil
		}))
		slices.Sort(out)
		return out
	}
	k.equal("parents of dl3", kin(Ancestors, "dl3", 1), []string{"1 dl2"})
	k.equal("ancestors of dl3", kin(Ancestors, "dl3", 0), []string{"1 dl2", "2 cal", "2 dl1", "3 dl0"})
	k.equal("to a depth of 2", kin(Ancestors, "dl3", 2), []string{"1 dl2", "2 cal", "2 dl1"})
	k.equal("descendants of dl0", kin(Descendants, "dl0", 0), []string{"1 dl1", "2 dl2", "3 dl3"})
	k.equal("of cal", kin(Descendants, "cal", 0), []string{"1 dl1", "1 dl2", "2 dl3"})

	k.wants(k.fc.AddAncestors(ctx, k.did("dl0"), k.did("dl3")), backends.ErrLoop)
	k.wants(k.fc.AddAncestors(ctx, k.did("dl0"), k.did("dl0")), backends.ErrLoop)
	k.wants(k.fc.AddAncestors(ctx, k.did("cal"), k.did("dl0"), k.did("dl1")), backends.ErrLoop)
	k.equal("nothing came of it", len(kin(Ancestors, "cal", 0)), 0)
	k.wants(k.fc.AddAncestors(ctx, k.did("dl0"), k.did("nothing")), backends.ErrNotExist)
	k.wants(k.fc.AddAncestors(ctx, k.did("dl0"), k.did("prod")), backends.ErrIsDir)

	// They follow renames and new contents, and what is gone is remembered.
	k.must(k.cat.Rename(ctx, k.did("dl1"), k.did("prod/dl1")))
	k.file("dl2", 2, nil)
	k.must(k.cat.Remove(ctx, k.did("cal")))
	k.equal("ancestors of dl3", kin(Ancestors, "dl3", 0), []string{"1 dl2", "2 cal gone", "2 prod/dl1", "3 dl0"})

	k.must(k.fc.RemoveAncestors(ctx, k.did("dl2"), k.did("cal"), k.did("prod/dl1")))
	k.must(k.fc.RemoveAncestors(ctx, k.did("dl2"), k.did("dl0")))
	k.equal("ancestors of dl3", kin(Ancestors, "dl3", 0), []string{"1 dl2"})
	k.equal("descendants of dl0", kin(Descendants, "dl0", 0), []string{"1 prod/dl1"})
}

func TestLookUps(t *testing.T) {
	k := production(t)
	ctx := t.Context()
	found := map[string]string{}
	k.must(k.fc.ByGUID(ctx, []string{"electron-1", "gamma-diffuse-2", "none"}, func(g string, d backends.DID) error {
		found[g] = d.Name
		return nil
	}))
	k.equal("GUIDs", found, map[string]string{"electron-1": root + "/prod/electron/20/Data/run1", "gamma-diffuse-2": root + "/prod/gamma-diffuse/20/Data/run2"})

	k.file("run0", 5, nil) // its PFN is an end of others
	pfn := "cta/prod/electron/20/Data/run0"
	clear(found)
	k.must(k.fc.ByPFN(ctx, []string{"davs://door.example.org:2880/pnfs/" + pfn, "CC-DISK:" + pfn, "OTHER:" + pfn, "/" + pfn, "root://x//a/cta/run0?svc=1", "run0"}, func(p, rse string, d backends.DID) error {
		found[p] = rse + " " + strings.TrimPrefix(d.Name, root)
		return nil
	}))
	k.equal("PFNs", found, map[string]string{
		"davs://door.example.org:2880/pnfs/" + pfn: "CC-DISK /prod/electron/20/Data/run0", "CC-DISK:" + pfn: "CC-DISK /prod/electron/20/Data/run0",
		"/" + pfn: "CC-DISK /prod/electron/20/Data/run0", "root://x//a/cta/run0?svc=1": "CC-DISK /run0",
	})
	n := 0
	for _, err := range k.fc.Dump(ctx, "CC-DISK") {
		k.must(err)
		n++
	}
	k.equal("dump", n, 7)
	c, err := k.fc.Counters(ctx, true)
	k.must(err)
	k.equal("counters", c, Counters{Files: 7, Bytes: 101, Directories: 8, Replicas: 7, BySE: map[string]Tally{"CC-DISK": {Files: 7, Bytes: 101}}, Fields: 8})
	c, err = k.fc.Counters(ctx, false)
	k.must(err)
	k.equal("quick ones", []int64{c.Files, c.Directories}, "[7 0]")
}

// FuzzSide reads side records that anybody may have written.
func FuzzSide(f *testing.F) {
	f.Add("0000000000000001", "s\x00/s/f\x007\x00sha256:x:7")
	f.Add("00000000000000010000000000000002", "s\x00/s/f")
	f.Fuzz(func(t *testing.T, key, value string) {
		r := backends.SideRecord{Key: key, Value: []byte(value)}
		if l, err := parseListed("", r); err == nil {
			again, err := parseListed("", l.record(""))
			if err != nil || again != l {
				t.Fatalf("%q, %q is read as %+v, and that as %+v, %v", key, value, l, again, err)
			}
		} else if !errors.Is(err, backends.ErrDamaged) {
			t.Fatal(err)
		}
		if _, err := parseKin(r); err != nil && !errors.Is(err, backends.ErrDamaged) {
			t.Fatal(err)
		}
		for _, e := range endings(value) {
			if len(e) > len(value) {
				t.Fatalf("%q ends with %q", value, e)
			}
		}
	})
}

func TestMetaSets(t *testing.T) {
	k := production(t)
	ctx := t.Context()
	k.must(k.fc.AddMetaSet(ctx, "prod5b-20", backends.Meta{"MCCampaign": "PROD5b", "thetaP": "20"}))
	var te *query.TypeError
	if err := k.fc.AddMetaSet(ctx, "x", backends.Meta{"thetaP": "steep"}); !errors.As(err, &te) {
		t.Errorf("a wrong value: %v", err)
	}
	k.wants(k.fc.AddMetaSet(ctx, "", nil), backends.ErrName)
	s, err := k.fc.MetaSet(ctx, "prod5b-20")
	k.must(err)
	k.equal("set", s.Meta, `{"MCCampaign":"PROD5b","thetaP":20}`)
	k.must(k.fc.AddMetaSet(ctx, "prod5b-20", backends.Meta{"thetaP": 40}))
	n := 0
	for s, err := range k.fc.MetaSets(ctx) {
		k.must(err)
		k.equal("the only set", s.Meta, `{"thetaP":40}`)
		n++
	}
	k.equal("sets", n, 1)
	k.must(k.fc.RemoveMetaSet(ctx, "prod5b-20"))
	k.wants(k.fc.RemoveMetaSet(ctx, "prod5b-20"), backends.ErrNotExist)
}

// FuzzValues: what a field takes has its form, and is taken again as the same.
func FuzzValues(f *testing.F) {
	for _, v := range []string{"1", "-0", "1e3", "01", "2026-11-23", "2026-11-23T12:00:00+01:00", "x", "", "9223372036854775808", "\xff"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		for _, typ := range []query.Type{query.Int, query.Float, query.String, query.Date} {
			s := Schema{"k": {Name: "k", Type: typ}}
			m, err := s.Values(backends.Meta{"k": v})
			if err != nil {
				var te *query.TypeError
				if !errors.As(err, &te) {
					t.Fatalf("%q as %s: %v", v, typ, err)
				}
				continue
			}
			again, err := s.Values(m)
			if err != nil || fmt.Sprint(again) != fmt.Sprint(m) {
				t.Fatalf("%q as %s is %v, and that %v, %v", v, typ, m, again, err)
			}
			e, err := query.Typed(query.Term{Key: "k", Op: query.Equal, Values: []string{v}}, func(string) query.Type { return typ })
			if err != nil || !e.Match(func(string) (any, bool) { return m["k"], true }) {
				t.Fatalf("%q as %s is %v, and is not found by %v, %v", v, typ, m, e, err)
			}
		}
	})
}
