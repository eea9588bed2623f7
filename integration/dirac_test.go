package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// wantJSON runs a command with --json and compares what it prints, as JSON; a list may have any order.
func (s *site) wantJSON(want string, args ...string) {
	s.t.Helper()
	var got, w any
	out := s.ok(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		s.t.Fatalf("tarn %q --json: %v\n%s", args, err, out)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		s.t.Fatal(err)
	}
	for _, x := range []any{got, w} {
		if list, ok := x.([]any); ok {
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	if !reflect.DeepEqual(got, w) {
		s.t.Errorf("tarn %q --json gives\n  %swant\n  %s", args, out, want)
	}
}

// TestDIRAC is a production of CTA's as DIRAC's users run it, in a mount: its tree, metadata of directories, queries of CTADIRAC's
// scripts, a dataset that is frozen, ancestors. Afterwards the same commands say the same without a daemon (F1 to F6).
func TestDIRAC(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	const prod = "/ctao/prod5b/LaPalma"
	s.ok("catalogue", "mkdir", prod+"/gamma-diffuse/sim_telarray/2080/Data/000xxx", prod+"/electron/sim_telarray/2081/Data/000xxx", "/ctao/prod5b/dl2")
	for _, f := range [][]string{
		{"-d", "MCCampaign", "string"}, {"-d", "site", "string"}, {"-d", "particle", "string"}, {"-d", "thetaP", "float"}, {"-d", "phiP", "float"},
		{"-d", "data_level", "int"}, {"-d", "configuration_id", "int"}, {"-f", "runNumber", "int"}, {"-f", "nsb", "int"},
	} {
		s.ok(append([]string{"catalogue", "field", "add"}, f...)...)
	}
	s.ok("catalogue", "meta", "set", "/ctao/prod5b", "MCCampaign=PROD5b")
	s.ok("catalogue", "meta", "set", prod, "site=LaPalma", "data_level=-1")
	s.ok("catalogue", "meta", "set", prod+"/gamma-diffuse", "particle=gamma-diffuse", "thetaP=20.0", "phiP=180", "configuration_id=15")
	s.ok("catalogue", "meta", "set", prod+"/electron", "particle=electron", "thetaP=20.0", "phiP=0", "configuration_id=12")
	gamma, electron := prod+"/gamma-diffuse/sim_telarray/2080/Data/000xxx", prod+"/electron/sim_telarray/2081/Data/000xxx"
	for i := range 3 {
		put(t, s.path(gamma, fmt.Sprintf("run%d.simtel.zst", i)), strings.Repeat("g", 100+i))
		put(t, s.path(electron, fmt.Sprintf("run%d.simtel.zst", i)), strings.Repeat("e", 200+i))
	}
	put(t, s.path("ctao/prod5b/dl2/run0.h5"), "dl2")
	s.drain()
	bulk := map[string]map[string]any{}
	for i := range 3 {
		bulk[fmt.Sprintf("%s/run%d.simtel.zst", gamma, i)] = map[string]any{"runNumber": i, "nsb": 1, "guid": fmt.Sprintf("g-%d", i)}
		bulk[fmt.Sprintf("%s/run%d.simtel.zst", electron, i)] = map[string]any{"runNumber": fmt.Sprint(i)}
	}
	b, err := json.Marshal(bulk)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "meta.json")
	put(t, file, string(b))
	s.ok("catalogue", "meta", "set", "--from", file)

	// An id of 19 digits comes back as it is.
	s.ok("catalogue", "field", "add", "-f", "sb_id", "int")
	put(t, file, `{"/ctao/prod5b/dl2/run0.h5": {"sb_id": 1234567890123456789, "undeclared": 1234567890123456789}}`)
	s.ok("catalogue", "meta", "set", "--from", file)
	for _, args := range [][]string{{"find", "-m", "sb_id=1234567890123456789"}, {"values", "sb_id>1234567890123456788"}, {"meta", "get", "/ctao/prod5b/dl2/run0.h5"}} {
		if got := s.ok(append([]string{"catalogue", "--json"}, args...)...); !strings.Contains(got, "1234567890123456789") {
			t.Errorf("%q gives %s", args, got)
		}
	}
	s.ok("catalogue", "field", "rm", "sb_id")

	// Declared types hold for extended attributes, too; they are checked, and stored in their form (F1). The conflict is EEXIST (F2).
	run1 := s.path(gamma, "run1.simtel.zst")
	wantErr(t, "an attribute of the wrong type", unix.Setxattr(run1, "user.runNumber", []byte("one"), 0), syscall.EINVAL)
	wantErr(t, "a metadata conflict", unix.Setxattr(s.path(gamma), "user.particle", []byte("proton"), 0), syscall.EEXIST)
	if err := unix.Setxattr(run1, "user.runNumber", []byte("1"), 0); err != nil {
		t.Error(err)
	}

	all := func(dir string) string {
		return fmt.Sprintf(`["%[1]s/run0.simtel.zst", "%[1]s/run1.simtel.zst", "%[1]s/run2.simtel.zst"]`, dir)
	}
	look := func() {
		t.Helper()
		// cta-prod-get-file-by-query, and the dictionaries of CTAO's tests of DIRAC on Rucio (F3).
		s.wantJSON(all(gamma), "catalogue", "find", "MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0")
		s.wantJSON(all(gamma), "catalogue", "find", `{"particle": {"in": ["gamma-diffuse", "proton"]}, "configuration_id": {">=": 13}}`)
		s.wantJSON(all(electron), "catalogue", "find", "/ctao", "phiP=0", "nsb=Missing", "runNumber=Any", "data_level<0")
		s.wantJSON(`["`+prod+`/gamma-diffuse"]`, "catalogue", "find", "-d", "Name=gamma-*")
		s.wantJSON(`{"`+gamma+`/run2.simtel.zst": {"MCCampaign": "PROD5b", "site": "LaPalma", "data_level": -1, "particle": "gamma-diffuse", "thetaP": 20, "phiP": 180,
			"configuration_id": 15, "runNumber": 2, "nsb": 1, "guid": "g-2"}}`, "catalogue", "find", "-m", "GUID=g-2")
		s.wantJSON(`{"MCCampaign": ["PROD5b"], "site": ["LaPalma"], "particle": ["electron"], "thetaP": [20], "phiP": [0], "data_level": [-1], "configuration_id": [12], "runNumber": [0, 1, 2], "nsb": []}`,
			"catalogue", "values", "particle=electron")
		s.wantJSON(`{"Successful": {"`+gamma+`": {"MCCampaign": "PROD5b", "site": "LaPalma", "data_level": -1, "particle": "gamma-diffuse", "thetaP": 20, "phiP": 180, "configuration_id": 15}}, "Failed": {}}`,
			"catalogue", "meta", "get", gamma)
		s.wantJSON(`{"Successful": {"g-0": "`+gamma+`/run0.simtel.zst"}, "Failed": {}}`, "catalogue", "guid", "g-0")
		s.wantJSON(`{"Successful": {"`+prod+`": {"LogicalSize": 906, "LogicalFiles": 6, "LogicalDirectories": 10}}, "Failed": {}}`, "catalogue", "du", prod)
		s.wantJSON(`{"Successful": {"/ctao/prod5b/dl2": true, "/ctao/none": false}, "Failed": {}}`, "catalogue", "exists", "/ctao/prod5b/dl2", "/ctao/none")
	}
	look()
	if got := s.sh("ls .tarn/find/'particle=gamma-diffuse runNumber>0 type=file'"); got != "run1.simtel.zst\nrun2.simtel.zst\n" {
		t.Errorf("the folder of a query has %q", got)
	}
	if _, err := os.ReadDir(s.path(".tarn/find/thetaP=steep")); err == nil {
		t.Error("a query with a wrong type has a folder")
	}

	// A dataset, frozen, is what it was, whatever becomes of names and metadata (F4).
	const ds = "Prod5b_LaPalma_gamma-diffuse_20deg_R1"
	s.ok("catalogue", "dataset", "add", ds, "MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0 runNumber=Any")
	s.wantJSON(all(gamma), "catalogue", "dataset", "files", ds)
	s.ok("catalogue", "dataset", "freeze", ds)
	s.sh("rm ." + gamma + "/run1.simtel.zst; mv ." + prod + "/gamma-diffuse/sim_telarray ." + prod + "/gamma-diffuse/simtel")
	s.ok("catalogue", "meta", "set", "/ctao/prod5b/dl2/run0.h5", "runNumber=0")
	moved := strings.Replace(gamma, "sim_telarray", "simtel", 1)
	frozen := fmt.Sprintf(`["%s/run0.simtel.zst", "%s/run1.simtel.zst", "%s/run2.simtel.zst"]`, moved, gamma, moved)
	kin := fmt.Sprintf(`{"Successful": {"/ctao/prod5b/dl2/run0.h5": {"%s/run0.simtel.zst": 1, "%s/run0.simtel.zst": 1}}, "Failed": {}}`, moved, electron)
	s.ok("catalogue", "ancestors", "add", "/ctao/prod5b/dl2/run0.h5", moved+"/run0.simtel.zst", electron+"/run0.simtel.zst")
	if r := s.try("catalogue", "ancestors", "add", electron+"/run0.simtel.zst", "/ctao/prod5b/dl2/run0.h5"); r.code != 1 || !strings.Contains(r.err, "its own ancestor") {
		t.Errorf("a cycle of ancestors: %+v", r)
	}
	late := func() {
		t.Helper()
		s.wantJSON(frozen, "catalogue", "dataset", "files", ds)
		var what []string
		for _, r := range s.rows("catalogue", "dataset", "check", ds) {
			if sum, ok := r["summary"].(map[string]any); ok {
				if d := fmt.Sprint(sum["differences"]); d != "map[moved:2 removed:1]" {
					t.Errorf("the summary of the check is %v", sum)
				}
				continue
			}
			what = append(what, fmt.Sprint(r["what"], " ", filepath.Base(fmt.Sprint(r["lfn"]))))
		}
		if len(what) != 3 {
			t.Errorf("the check tells of %q", what)
		}
		s.wantJSON(kin, "catalogue", "ancestors", "get", "/ctao/prod5b/dl2/run0.h5")
		s.wantJSON(fmt.Sprintf(`{"Successful": {"%s/run0.simtel.zst": {"/ctao/prod5b/dl2/run0.h5": 1}}, "Failed": {}}`, electron), "catalogue", "descendants", electron+"/run0.simtel.zst")
	}
	late()
	s.umount()
	late()
	s.ok("catalogue", "dataset", "release", ds)
	s.wantJSON(fmt.Sprintf(`["%s/run0.simtel.zst", "%s/run2.simtel.zst"]`, moved, moved), "catalogue", "dataset", "files", ds)

	// A backup has all of it (F6).
	backup := filepath.Join(t.TempDir(), "b")
	s.ok("catalogue", "backup", backup)
	s.ok("catalogue", "dataset", "rm", ds)
	s.ok("catalogue", "field", "rm", "thetaP")
	s.ok("catalogue", "restore", "--force", backup)
	s.wantJSON(kin, "catalogue", "ancestors", "get", "/ctao/prod5b/dl2/run0.h5")
	if rows := s.rows("catalogue", "dataset", "ls"); len(rows) != 1 || !strings.Contains(fmt.Sprint(rows[0]["Successful"]), ds) {
		t.Errorf("datasets after the restore: %v", rows)
	}
	if r := s.try("find", "thetaP=steep"); r.code != 2 {
		t.Errorf("fields after the restore: %+v", r)
	}
}
