package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"tarn/backends"
)

// restoreGap is by how much the numbers of a restored catalogue go on above those of the
// backup: inodes and handles that the catalogue gave away after it are not given again.
const restoreGap = 1 << 24

// Restored tells what Restore did.
type Restored struct {
	BackupInfo
	Aside string `json:"aside,omitempty"` // the folder that holds the catalogue that was there before
}

// Restore puts the records of a backup in the place of the catalogue in o.Dir. The backup is
// read to its end before anything is touched. A catalogue that knows files, or cannot be
// read, is ErrExist without force; with it, it is moved to a folder beside, never deleted.
// After a crash the old catalogue is there, or the new one, or none and Restore can be
// called again. ErrBusy while another process has the catalogue.
func Restore(ctx context.Context, o Options, backup io.ReadSeeker, force bool) (done Restored, err error) {
	o = o.withDefaults()
	if done.BackupInfo, err = ReadBackup(backup, nil); err != nil {
		return done, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore catalogue %q: %w", o.Dir, err)
		}
	}()
	size, err := backup.Seek(0, io.SeekEnd)
	if err != nil {
		return done, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return done, classify(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(o.Dir, &fs); err != nil {
		return done, classify(err)
	}
	// The tables and the logs before them; the database ends the process where it meets a full disk.
	if need := 3*size + o.FreeFloor; int64(fs.Bavail)*fs.Bsize < need {
		return done, fmt.Errorf("it needs %d bytes free: %w", need, backends.ErrNoSpace)
	}
	if !force {
		if err := mustBeEmpty(ctx, o); err != nil {
			return done, err
		}
	}
	l, err := takeLock(o.Dir, o.Now())
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, l.release()) }()
	fresh := filepath.Join(o.Dir, "restoring")
	if err := os.RemoveAll(fresh); err != nil { // of a restore that was killed
		return done, classify(err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return done, classify(err)
	}
	if err := refill(ctx, o, fresh, backup, done.BackupInfo); err != nil {
		return done, errors.Join(err, os.RemoveAll(fresh))
	}
	if o.Replacing != nil {
		if err := o.Replacing(); err != nil {
			return done, errors.Join(err, os.RemoveAll(fresh))
		}
	}
	if done.Aside, err = moveAside(o.Dir, o.Now()); err != nil {
		return done, err
	}
	for _, name := range []string{"durable", "db"} { // a catalogue without durable is one that was promised nothing
		if err := os.Rename(filepath.Join(fresh, name), filepath.Join(o.Dir, name)); err != nil {
			return done, classify(err)
		}
	}
	if err := syncPath(o.Dir); err != nil {
		return done, classify(err)
	}
	return done, classifyNil(os.Remove(fresh))
}

func classifyNil(err error) error {
	if err == nil {
		return nil
	}
	return classify(err)
}

// mustBeEmpty gives ErrExist for a catalogue that knows files.
func mustBeEmpty(ctx context.Context, o Options) error {
	fresh, err := isFresh(filepath.Join(o.Dir, "db"))
	if err == nil && fresh {
		return nil
	}
	const hint = "with force it is moved aside"
	o.MustExist = true
	c, err := Open(o)
	if errors.Is(err, backends.ErrBusy) {
		return err
	}
	if err != nil {
		return fmt.Errorf("a catalogue is there that cannot be read; %s: %w (%w)", hint, backends.ErrExist, err)
	}
	files, _ := c.Usage()
	if err := c.Close(); err != nil {
		return err
	}
	if files > 0 {
		return fmt.Errorf("the catalogue there knows %d files; %s: %w", files, hint, backends.ErrExist)
	}
	return ctx.Err()
}

// refill makes the database and the file durable in dir, on stable storage.
func refill(ctx context.Context, o Options, dir string, backup io.ReadSeeker, info BackupInfo) error {
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return err
	}
	dbDir := filepath.Join(dir, "db")
	if err := os.Mkdir(dbDir, 0o700); err != nil {
		return classify(err)
	}
	db, err := openBadger(o.badger(dbDir))
	if err != nil {
		return err
	}
	var n counters
	err = load(ctx, db, backup, info, &n)
	if cerr := closeBadger(db); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	d, err := openDurable(dir)
	if err != nil {
		return classify(err)
	}
	d.note(n.sequence)
	err = d.file.Sync()
	if err := errors.Join(err, d.close()); err != nil {
		return classify(err)
	}
	files, err := os.ReadDir(dbDir)
	if err != nil {
		return classify(err)
	}
	for _, f := range files {
		if err := syncPath(filepath.Join(dbDir, f.Name())); err != nil {
			return classify(err)
		}
	}
	for _, p := range []string{dbDir, dir} {
		if err := syncPath(p); err != nil {
			return classify(err)
		}
	}
	return nil
}

func closeBadger(db *badger.DB) (err error) {
	defer recovered(&err)
	return db.Close()
}

// load writes the records into an empty database and counts them there.
func load(ctx context.Context, db *badger.DB, backup io.Reader, info BackupInfo, n *counters) (err error) {
	defer recovered(&err)
	batch := db.NewWriteBatch()
	defer batch.Cancel()
	again, err := ReadBackup(backup, func(k, v []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, v = append([]byte{}, k...), append([]byte{}, v...)
		if string(k) == string(countersKey()) {
			if err := n.decode(v); err != nil {
				return err
			}
			n.sequence += restoreGap
			n.nextInode += restoreGap
			v = n.encode()
		}
		return batch.Set(k, v)
	})
	if err != nil {
		return err
	}
	if again != info {
		return fmt.Errorf("the backup changed while it was read: %w", backends.ErrCorrupt)
	}
	if err := batch.Flush(); err != nil {
		return err
	}
	txn := db.NewTransaction(false)
	defer txn.Discard()
	o := badger.DefaultIteratorOptions
	o.PrefetchValues = false
	it := txn.NewIterator(o)
	defer it.Close()
	got := int64(0)
	for it.Rewind(); it.Valid(); it.Next() {
		got++
	}
	if got != info.Records || n.nextInode == 0 {
		return fmt.Errorf("%d of %d records arrived: %w", got, info.Records, backends.ErrCorrupt)
	}
	return nil
}

// moveAside moves the catalogue in dir into a folder of its own there; "" when there is none.
func moveAside(dir string, now time.Time) (string, error) {
	aside := ""
	for _, name := range []string{"db", "durable"} {
		from := filepath.Join(dir, name)
		if _, err := os.Lstat(from); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if aside == "" {
			var err error
			if aside, err = os.MkdirTemp(dir, "before-"+now.UTC().Format("20060102T150405Z-")); err != nil {
				return "", classify(err)
			}
		}
		if err := os.Rename(from, filepath.Join(aside, name)); err != nil {
			return aside, classify(err)
		}
	}
	if aside == "" {
		return "", nil
	}
	return aside, classifyNil(errors.Join(syncPath(aside), syncPath(dir)))
}

func syncPath(p string) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
