package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"tarn/backends/servertest"
)

// TestRucioTape reads a file that is on tape only: its recall is a rule with a lifetime on the tape's staging area, which Rucio's daemons serve.
func TestRucioTape(t *testing.T) {
	g := newRucio(t, servertest.RucioOptions{})
	near, _ := g.folderDisk()
	dir := t.TempDir()
	door := servertest.RucioProtocol{Scheme: "file", Host: "localhost", Prefix: dir + "/"}
	stage := g.r.AddRSE(servertest.RucioRSE{Name: strings.ToUpper(strings.ReplaceAll(g.r.Unique("stage"), "-", "")), Staging: true, Protocols: []servertest.RucioProtocol{door}})
	tape := g.r.AddRSE(servertest.RucioRSE{Name: strings.ToUpper(strings.ReplaceAll(g.r.Unique("tape"), "-", "")), Tape: true, Protocols: []servertest.RucioProtocol{door},
		Attributes: map[string]string{"staging_buffer": stage}})
	g.r.SetQuota(g.account, -1, stage, tape)
	data := g.upload(near, "cold.dat", 200000)
	g.rucio("did", "add", "--type", "dataset", g.scope+":cold")
	g.rucio("did", "content", "add", "--to-did", g.scope+":cold", g.scope+":cold.dat")
	g.rucio("rule", "add", g.scope+":cold", "--copies", "1", "--rses", tape, "--lifetime", "36000")
	g.settled("cold")
	g.shut(near, "read")
	g.lake("", "  pin_lifetime: 1h\n", "recalls: {hold: 50ms}\n")
	g.mount()
	file := g.path(g.scope, "cold/cold.dat")
	if got := g.sh("getfattr --absolute-names --only-values -n user.status " + file); got != "NEARLINE" {
		t.Errorf("locality of a file on tape: %q", got)
	}
	for _, r := range g.rows("rse", "ls") {
		if r["name"] == tape && (r["kind"] != "TAPE" || r["read_only"] != true) {
			t.Errorf("the tape is %v", r)
		}
	}
	read := make(chan error, 1)
	go func() {
		b, err := os.ReadFile(file)
		if err == nil && string(b) != string(data) {
			err = fmt.Errorf("%d bytes that are not the %d on tape", len(b), len(data))
		}
		read <- err
	}()
	var rules []rucioRule
	eventually(t, 30*time.Second, "the recall is a rule", func() bool {
		rules = g.rules("cold.dat")
		for _, r := range rules {
			if r.Expression == stage {
				return true
			}
		}
		return false
	})
	if rows := g.rows("recalls", "ls"); len(rows) != 1 || !strings.Contains(fmt.Sprint(rows[0]["path"]), "cold.dat") {
		t.Errorf("recalls: %v", rows)
	}
	for range 3 {
		g.r.Daemons("injector", "mover")
		select {
		case err := <-read:
			if err != nil {
				t.Error(err)
			}
			if got := g.replicas("cold.dat"); got[stage] != "AVAILABLE" || got[tape] != "AVAILABLE" {
				t.Errorf("replicas: %v", got)
			}
			g.umount()
			return
		case <-time.After(20 * time.Second):
		}
	}
	t.Fatalf("the file is not read; rules %+v, replicas %v", g.rules("cold.dat"), g.replicas("cold.dat"))
}
