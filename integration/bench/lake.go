package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
)

// lake is a lake of the demo's shape and, after mount, its mount.
type lake struct {
	b        *bench
	dir, mnt string
	pid      int // of the daemon
}

// newLake makes a lake; conf overrides the demo's lake file.
func (b *bench) newLake(name, conf string) (*lake, error) {
	l := &lake{b: b, dir: filepath.Join(b.dir, name), mnt: filepath.Join(b.dir, name+"-mnt")}
	if err := os.Mkdir(l.mnt, 0o755); err != nil {
		return nil, err
	}
	if _, err := l.tarn("init", "--demo", l.dir); err != nil {
		return nil, err
	}
	// Uploads wait until all is over, and are given up then.
	return l, os.WriteFile(filepath.Join(l.dir, "lake.local.yaml"), []byte(conf), 0o600)
}

// conf is what every lake here has: room, no uploads while something is measured, and
// no guard against who opens many small files.
func (b *bench) conf(mount, close, cache string) string {
	return fmt.Sprintf("cache: {limit: %d, free_floor: 64MiB%s}\njournal: {delay: 12h, close: %s}\nrecalls: {policy: {burst: {files: 0}}}\n%s\n",
		12*b.o.size+16<<30, cache, close, mount)
}

func (l *lake) tarn(args ...string) ([]byte, error) {
	cmd := exec.CommandContext(l.b.ctx, l.b.o.tarn, args...)
	cmd.Env = append(os.Environ(), "TARN_LAKE="+l.dir)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("tarn %s: %w\n%s%s", strings.Join(args, " "), err, out, errs.Bytes())
	}
	return out, nil
}

// ctao is the scope's folder in the mount.
func (l *lake) ctao() string { return filepath.Join(l.mnt, "ctao") }

// disk is a folder of a disk storage.
func (l *lake) disk(name string) string { return filepath.Join(l.dir, "rse/PIC-DISK", name) }

// register makes known what lies in a folder of the disk storage.
func (l *lake) register(name string) error {
	_, err := l.tarn("import", "-q", l.disk(name), "/ctao/"+name, "--rse", "PIC-DISK", "--register-only")
	return err
}

// fill adds entries to the catalogue without the program; the lake must not be mounted.
func (l *lake) fill(entries iter.Seq2[backends.Entry, error]) error {
	if _, err := l.tarn("ls", "/"); err != nil { // makes the catalogue and its scopes
		return err
	}
	c, err := embedded.Open(embedded.Options{Dir: filepath.Join(l.dir, "catalogue")})
	if err != nil {
		return err
	}
	_, err = c.Import(l.b.ctx, entries)
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}

func (l *lake) mount() error {
	if _, err := l.tarn("mount", l.dir, l.mnt); err != nil {
		return err
	}
	out, err := l.tarn("status", "--json")
	if err == nil {
		l.pid, err = daemonOf(out, l.mnt)
	}
	if err != nil {
		l.umount()
	}
	return err
}

// daemonOf finds a mount's daemon in what tarn status --json says: a line for each mount of
// this machine.
func daemonOf(status []byte, mnt string) (int, error) {
	for d := json.NewDecoder(bytes.NewReader(status)); ; {
		var s struct {
			Mountpoint string
			Status     struct {
				Daemon struct{ Pid int }
			}
		}
		if err := d.Decode(&s); err == io.EOF {
			return 0, fmt.Errorf("tarn status --json names no daemon of %s", mnt)
		} else if err != nil {
			return 0, err
		}
		if s.Mountpoint == mnt && s.Status.Daemon.Pid != 0 {
			return s.Status.Daemon.Pid, nil
		}
	}
}

// umount takes the mount away, whatever is unsent, also after an interruption.
func (l *lake) umount() error {
	out, err := exec.Command(l.b.o.tarn, "umount", "--now", "--force", l.mnt).CombinedOutput()
	if err != nil {
		return fmt.Errorf("umount %s: %w\n%s", l.mnt, err, out)
	}
	return nil
}

// memory gives a line of the daemon's /proc/PID/status, in MiB.
func (l *lake) memory(field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return n / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/%d/status", field, l.pid)
}

// resetPeak sets VmHWM to what is used now.
func (l *lake) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", l.pid), []byte("5"), 0)
}

// takes tells whether this version knows a setting.
func (l *lake) takes(setting string) bool {
	_, err := l.tarn("--set", setting, "config", "check")
	return err == nil
}

// entries are files from..to-1, perDir a folder, below /ctao/top.
func entries(top string, from, to, perDir int, name func(i int) (dir, file string)) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		did := func(p string) backends.DID { return backends.DID{Scope: "ctao", Name: "/ctao/" + p} }
		folder := func(p string) bool {
			return yield(backends.Entry{Info: backends.Info{DID: did(p), Type: backends.Dataset, Mode: 0o755}}, nil)
		}
		if !folder(top) {
			return
		}
		for i := from; i < to; i++ {
			d, f := name(i)
			if d != "" {
				d = "/" + d
			}
			if d != "" && i%perDir == 0 && !folder(top+d) {
				return
			}
			p := top + d + "/" + f
			if !yield(backends.Entry{
				Info:     backends.Info{DID: did(p), Type: backends.File, Size: 16, Mode: 0o644, Checksums: backends.Checksums{SHA256: fmt.Sprintf("%064x", i), Adler32: "1a2b3c4d"}},
				Replicas: []backends.Replica{{RSE: "PIC-DISK", PFN: p, State: backends.Available}},
			}, nil) {
				return
			}
		}
	}
}

// inTree is where file i of the tree is: a thousand a folder.
func inTree(i int) (dir, file string) {
	return fmt.Sprintf("d%04d", i/1000), fmt.Sprintf("run%06d.fits", i)
}
