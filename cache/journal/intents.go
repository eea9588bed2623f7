package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// An intent is a small durable note under a name, for operations over two stores: written
// before the first step, dropped after the last, and read after a restart to finish or
// undo what a crash interrupted. Each is a file of its own, replaced as a whole.

const (
	intentMagic = "\x89TRNINT\n"
	intentLimit = 1 << 20
	intentHead  = 16 // magic, length, CRC32C
)

func (j *Journal) intentDir() string { return filepath.Join(j.dir, "intents") }

// PutIntent writes the note; it is durable when it returns nil. A crash leaves the old
// note or the new one. Names are any bytes but limited to about 240 of them escaped.
func (j *Journal) PutIntent(name string, v []byte) (err error) {
	defer func() { err = wrapIntent("put", name, err) }()
	if err := j.files.enter(); err != nil {
		return err
	}
	defer j.files.leave()
	file, err := j.intentFile(name)
	if err != nil {
		return err
	}
	if len(v) > intentLimit {
		return fmt.Errorf("%d bytes: %w", len(v), ErrTooBig)
	}
	b := make([]byte, intentHead+len(v))
	copy(b, intentMagic)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(v)))
	copy(b[intentHead:], v)
	binary.LittleEndian.PutUint32(b[12:], intentSum(b))

	// Its own temporary name, so that two writers of one intent do not share it.
	temp := filepath.Join(j.intentDir(), "~"+j.newID())
	f, err := j.files.openRecord(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	j.files.closeRecord(f)
	if err == nil {
		err = j.fs.Rename(temp, file)
	}
	if err != nil {
		j.discard(temp)
		return err
	}
	_, err = j.noteSync.sync()
	return err
}

// Intents reads all notes. One that is damaged is moved to the orphans and logged.
func (j *Journal) Intents() (map[string][]byte, error) {
	if err := j.files.enter(); err != nil {
		return nil, fmt.Errorf("read intents: %w", err)
	}
	defer j.files.leave()
	list, err := j.fs.ReadDir(j.intentDir())
	if err != nil {
		return nil, fmt.Errorf("read intents: %w", err)
	}
	out := map[string][]byte{}
	for _, in := range list {
		name, err := unescape(in.Name)
		if err != nil { // a temporary one, or not ours
			continue
		}
		path := filepath.Join(j.intentDir(), in.Name)
		b, err := readFile(j.fs, path, intentHead+intentLimit)
		if errors.Is(err, fs.ErrNotExist) { // dropped meanwhile
			continue
		}
		if err != nil {
			return nil, wrapIntent("read", name, err)
		}
		v, err := parseIntent(b)
		if err != nil {
			to := filepath.Join(j.orphanDir(), j.newID()+".intent")
			j.log.Error("journal: damaged intent kept among the orphans", "intent", name, "file", to)
			j.note(strings.TrimSuffix(to, ".intent")+".txt", fmt.Sprintf("intent %q: %v", name, err))
			if err := j.fs.Rename(path, to); err != nil {
				return nil, wrapIntent("move", name, err)
			}
			continue
		}
		out[name] = v
	}
	return out, nil
}

// DropIntent removes the note, durably. One that is not there is no error.
func (j *Journal) DropIntent(name string) (err error) {
	defer func() { err = wrapIntent("drop", name, err) }()
	if err := j.files.enter(); err != nil {
		return err
	}
	defer j.files.leave()
	file, err := j.intentFile(name)
	if err != nil {
		return err
	}
	if err := j.fs.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err = j.noteSync.sync()
	return err
}

// sweepIntents removes notes that were never finished.
func (j *Journal) sweepIntents() error {
	list, err := j.fs.ReadDir(j.intentDir())
	for _, in := range list {
		if strings.HasPrefix(in.Name, "~") {
			j.discard(filepath.Join(j.intentDir(), in.Name))
		}
	}
	return err
}

func wrapIntent(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s intent %q: %w", op, name, err)
}

func intentSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[intentHead:])
}

func parseIntent(b []byte) ([]byte, error) {
	if len(b) < intentHead || string(b[:8]) != intentMagic ||
		int64(binary.LittleEndian.Uint32(b[8:])) != int64(len(b)-intentHead) ||
		binary.LittleEndian.Uint32(b[12:]) != intentSum(b) {
		return nil, fmt.Errorf("intent of %d bytes: %w", len(b), ErrDamaged)
	}
	return b[intentHead:], nil
}

func (j *Journal) intentFile(name string) (string, error) {
	s := escape(name)
	if s == "" || len(s) > 250 {
		return "", ErrName
	}
	return filepath.Join(j.intentDir(), s), nil
}

const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

// escape makes a file name of any bytes; no two give the same, none is "." or "..", and
// none begins with the "~" of temporary files.
func escape(name string) string {
	var s strings.Builder
	for i, c := range []byte(name) {
		if strings.IndexByte(plain, c) < 0 || (c == '.' && i == 0) {
			fmt.Fprintf(&s, "%%%02x", c)
		} else {
			s.WriteByte(c)
		}
	}
	return s.String()
}

func unescape(s string) (string, error) {
	var name []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			name = append(name, s[i])
			continue
		}
		var c byte
		if i+3 > len(s) {
			return "", ErrName
		}
		if _, err := fmt.Sscanf(s[i+1:i+3], "%02x", &c); err != nil {
			return "", ErrName
		}
		name = append(name, c)
		i += 2
	}
	if escape(string(name)) != s {
		return "", ErrName
	}
	return string(name), nil
}
