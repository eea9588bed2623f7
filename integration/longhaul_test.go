package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/backends/ingest"
	"tarn/backends/servertest"
)

// haul is a lake whose files come from a folder at LAPALMA and go to servers that stand for PIC and CNAF: at each a
// GridFTP server and an XRootD server, with credentials and a folder of their own, and at PIC a tape library.
//
// PIC-DISK is deterministic (its paths follow from the names), all others are not.
type haul struct {
	*site
	pki     *servertest.PKI
	proxy   string                        // of who runs tarn
	servers map[string]*servertest.Server // by the name of their RSE
}

// haulOptions say what a haul is like beside its defaults.
type haulOptions struct {
	xrootd bool
	dirs   map[string]string // folders that servers serve, by RSE
	local  string            // more of the lake file
}

// newHaul starts the servers and makes the lake; it is not mounted.
func newHaul(t *testing.T, o haulOptions) *haul {
	t.Helper()
	h := &haul{site: newSite(t, ""), pki: servertest.NewPKI(t), servers: map[string]*servertest.Server{}}
	h.proxy = filepath.Join(t.TempDir(), "proxy")
	h.pki.User.Proxy(t, 12*time.Hour).WriteProxy(t, h.proxy)
	t.Setenv("X509_CERT_DIR", h.pki.Certificates)
	t.Setenv("X509_USER_PROXY", h.proxy)
	t.Setenv("BEARER_TOKEN", "")
	var rses strings.Builder
	for i, place := range []string{"PIC", "CNAF"} {
		pki := *h.pki // of a place: the same authorities, a host certificate of its own
		pki.Host = h.pki.CA.Host(t, "localhost", "127.0.0.1")
		naming := []string{", naming: hash", ""}[i]
		disk := place + "-DISK"
		ftp := servertest.GridFTP(t, servertest.GridFTPOptions{PKI: &pki, Dir: o.dirs[disk]})
		h.servers[disk] = ftp
		fmt.Fprintf(&rses, "  - {name: %s, attributes: {site: %s}, distance: %d%s, protocols: [{url: %q}]}\n", disk, place, i+1, naming, ftp.FTP+ftp.Dir)
		if o.xrootd {
			xrd := servertest.XRootD(t, servertest.XRootDOptions{PKI: &pki, Login: []string{"gsi"}, Authorize: true, ThirdParty: true})
			h.servers[place+"-XRD"] = xrd
			fmt.Fprintf(&rses, "  - {name: %s-XRD, attributes: {site: %s}, distance: %d, protocols: [{url: %q}]}\n", place, place, i+1, xrd.Roots+"//data")
		}
	}
	lake := fmt.Sprintf(`name: longhaul
rses:
%s  - {name: PIC-TAPE, kind: tape, path: rse/PIC-TAPE, attributes: {site: PIC}, distance: 3, tape: {speed: 100000x, robot: 1s, cartridge_size: 2GB, cartridges: 100, buffer: 2GB}}
scopes: [{name: ctao}]
cache: {limit: 256MiB, free_floor: 0, head: 0, tail: 0}
catalogue: {grace: 1ms, free_floor: 64MiB}
%s
`, rses.String(), o.local)
	h.dir = filepath.Join(t.TempDir(), "lake")
	must(t, os.Mkdir(h.dir, 0o700))
	must(t, os.WriteFile(filepath.Join(h.dir, "lake.yaml"), []byte(lake), 0o600))
	h.cache = filepath.Join(h.dir, "cache")
	h.ok("init", h.dir)
	return h
}

// watch makes a folder and an ingest of it.
func (h *haul) watch(name, target string, rules ...string) (dir string) {
	h.t.Helper()
	dir = filepath.Join(h.t.TempDir(), name)
	must(h.t, os.Mkdir(dir, 0o755))
	h.watchDir(name, dir, target, rules...)
	return dir
}

func (h *haul) watchDir(name, dir, target string, rules ...string) {
	h.t.Helper()
	args := []string{"ingest", "add", name, "--watch", dir, "--to", target, "--delete-source", "after-rules"}
	for _, r := range rules {
		args = append(args, "--rule", r)
	}
	h.ok(args...)
}

// ingest is how an ingest is doing.
func (h *haul) ingest(name string) (st ingest.Status) {
	h.t.Helper()
	st, err := h.tryIngest(name)
	must(h.t, err)
	return st
}

func (h *haul) tryIngest(name string) (st ingest.Status, err error) {
	r := h.try("ingest", "show", name, "--json")
	if r.code != 0 {
		return st, fmt.Errorf("ingest show: exit %d: %s", r.code, r.err)
	}
	return st, json.NewDecoder(strings.NewReader(r.out)).Decode(&st)
}

// records are what the ledger of an ingest has of each file.
func (h *haul) records(name string) (out []ingest.Record, err error) {
	r := h.try("ingest", "show", name, "--files", "--json")
	if r.code != 0 {
		return nil, fmt.Errorf("ingest show --files: exit %d: %s", r.code, r.err)
	}
	for dec := json.NewDecoder(strings.NewReader(r.out)); ; {
		var rec ingest.Record
		if err := dec.Decode(&rec); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
}

// progress waits until ok holds of an ingest, as long as it goes on: an ingest of which nothing changes for so long fails
// the wait.
func (h *haul) progress(name string, still time.Duration, ok func(ingest.Status) bool) (st ingest.Status, err error) {
	h.t.Helper()
	var last string
	since := time.Now()
	for wait := 50 * time.Millisecond; ; wait = min(wait*5/4, time.Second) {
		if st, err = h.tryIngest(name); err != nil {
			return st, err
		}
		if ok(st) {
			return st, nil
		}
		now := fmt.Sprint(st.Found, st.Sealed, st.Transferred, st.Verified, st.Registered, st.Safe, st.Deleted, st.Rate)
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > still {
			return st, fmt.Errorf("nothing has changed for %v: %s", still, word(st))
		}
		time.Sleep(wait)
	}
}

// gone waits until n files of an ingest are deleted at the source.
func (h *haul) gone(name string, n int, still time.Duration) error {
	h.t.Helper()
	_, err := h.progress(name, still, func(st ingest.Status) bool { return st.Deleted.Files >= int64(n) })
	return err
}

// word is an ingest in a line.
func word(st ingest.Status) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s: %d found, %d sealed, %d transferred, %d verified, %d registered, %d safe, %d deleted", st.State, st.Error,
		st.Found.Files, st.Sealed.Files, st.Transferred.Files, st.Verified.Files, st.Registered.Files, st.Safe.Files, st.Deleted.Files)
	if st.Oldest != nil {
		fmt.Fprintf(&b, "; the oldest that waits is %s, %s, %d attempts: %s", st.Oldest.Path, st.Oldest.Stage, st.Oldest.Attempts, st.Oldest.Reason)
	}
	return b.String()
}

// changeHosts gives the GridFTP servers certificates of another authority, which nobody trusts yet, and restarts them.
func (h *haul) changeHosts() *servertest.Authority {
	h.t.Helper()
	other := servertest.NewAuthority(h.t, "Next CA")
	for _, rse := range []string{"PIC-DISK", "CNAF-DISK"} {
		srv := h.servers[rse]
		srv.Kill()
		srv.Certify(other.Host(h.t, "localhost", "127.0.0.1"))
		srv.Start()
	}
	return other
}

// trust lets an authority come to the folder of trusted ones, and gives who runs tarn a proxy of it.
func (h *haul) trust(a *servertest.Authority) {
	h.t.Helper()
	a.Trust(h.t, h.pki.Certificates)
	a.User(h.t, "Test User").Proxy(h.t, 12*time.Hour).WriteProxy(h.t, h.proxy)
}

// remountSize changes the size of a tmpfs.
func remountSize(dir, size string) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size="+size)
}
