package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// ext4Disk is a file system of its own in a file.
type ext4Disk struct {
	image, dir string
	up         bool
}

// loopDisk makes an ext4 of that size (as truncate(1) takes it) and mounts it.
func loopDisk(t testing.TB, size string) *ext4Disk {
	t.Helper()
	needRoot(t)
	needTools(t, "mkfs.ext4", "mount", "umount", "truncate")
	tmp := t.TempDir()
	d := &ext4Disk{image: filepath.Join(tmp, "image"), dir: dirOf(t, tmp, "disk")}
	for _, args := range [][]string{{"truncate", "-s", size, d.image}, {"mkfs.ext4", "-q", "-F", d.image}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			missing(t, "%v: %v: %s", args, err, out)
		}
	}
	if out, err := d.mount(); err != nil {
		missing(t, "no loop mounts here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := d.umount(); err != nil {
			exec.Command("umount", "-l", d.dir).Run() // the failure before is reported
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return d
}

func (d *ext4Disk) mount() ([]byte, error) {
	out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput()
	d.up = err == nil
	return out, err
}

func (d *ext4Disk) umount() (out []byte, err error) {
	for range 50 { // who had it open may be on his way out
		if !d.up {
			return nil, nil
		}
		out, err = exec.Command("umount", d.dir).CombinedOutput()
		d.up = err != nil
		time.Sleep(20 * time.Millisecond)
	}
	return out, err
}

// shutdown makes an ext4 fail from now on, as a disk that is pulled out: what was not
// synced is lost, the log of the file system with it.
func shutdown(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	const ext4Shutdown, noLogFlush = 0x8004587d, 2
	flag := uint32(noLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&flag))); errno != 0 {
		missing(t, "shut an ext4 down: %v", errno)
	}
}

// onDisk is a lake.local.yaml whose cache, journal and catalogue are all below dir.
func onDisk(dir string) string {
	return fmt.Sprintf(`
cache: {path: %[1]s/cache, free_floor: 16M}
journal: {path: %[1]s/journal, delay: 50ms}
catalogue: {path: %[1]s/catalogue, free_floor: 16M, grace: 1ms}
`, dir)
}

// TestPowerCut: the disk below cache, journal and catalogue forgets what was not synced, at
// random moments under writers. What close and fsync promised is there after the file
// system's recovery, and nothing half-written. W2, W3, W4. TARN_CUTS tells how many.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	disk := loopDisk(t, "1G")
	s := newSite(t, onDisk(disk.dir))
	s.cache = filepath.Join(disk.dir, "cache")
	s.ok("init", s.dir) // the demo's catalogue is elsewhere
	s.expect(".")       // a disk that is gone is a reason to complain
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s.mount()
	var workers []*worker
	var dirs []string
	for i := range 4 {
		w := newWorker(s.path("ctao", fmt.Sprintf("w%d", i)), seed<<20+uint64(i)<<16)
		must(t, os.MkdirAll(w.dir, 0o755))
		workers, dirs = append(workers, w), append(dirs, w.dir)
	}
	n, ops := number("TARN_CUTS", 3), 0
	// With the power nobody would be left to hear what returns once it is off. (ext4 itself
	// lets an fsync that is under way succeed then.)
	var cut atomic.Bool
	over := func() error {
		if cut.Load() {
			return errors.New("the power is off")
		}
		return nil
	}
	for _, w := range workers {
		w.over = over
	}
	for round := range n {
		cut.Store(false)
		var wg sync.WaitGroup
		for _, w := range workers {
			wg.Go(func() {
				for {
					if err := w.step(); err != nil {
						if !cut.Load() {
							t.Errorf("round %d: before the power cut: %v", round, err)
						}
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(50+rnd.IntN(1000)) * time.Millisecond)
		cut.Store(true)
		when := time.Now().Format("05.000")
		shutdown(t, disk.dir)
		time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
		s.kill()
		wg.Wait()
		if out, err := disk.umount(); err != nil {
			t.Fatalf("umount: %v: %s", err, out)
		}
		if out, err := disk.mount(); err != nil {
			t.Fatalf("mount again: %v: %s", err, out)
		}
		s.mount()
		for _, w := range workers {
			w.check(t)
		}
		if t.Failed() {
			t.Fatalf("round %d; the cut came at %s", round, when)
		}
	}
	for _, w := range workers {
		ops += w.ops
	}
	t.Logf("%d power cuts, %d operations", n, ops)
	s.allSafe(dirs...)
	s.umount() // before its disk
}
