package embedded

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sort"

	"github.com/dgraph-io/badger/v4/y"

	"tarn/backends"
)

// dropEmptyLogs removes logs of no length. A kill leaves them, between making a file
// and giving it its length, or between cutting one that is done with and removing it;
// the database would refuse to open over them.
func dropEmptyLogs(db string) error {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		logs, err := filepath.Glob(filepath.Join(db, pattern))
		if err != nil {
			return err
		}
		for _, l := range logs {
			st, err := os.Stat(l)
			if err == nil && st.Size() == 0 {
				err = os.Remove(l)
			}
			if err != nil {
				return classify(err)
			}
		}
	}
	return nil
}

// verifyLogs checks the logs of memtables that are not in tables yet. The last one may
// end anywhere, as a power cut leaves it: that nothing acknowledged is missing from
// it is seen by the number of transactions. The ones before it were complete before
// the last was begun, but the database would cut them at the first entry that does not
// verify as well, and go on.
func verifyLogs(db string) error {
	var first error
	err := logDamage(db, func(d error) bool { first = d; return false })
	if first != nil {
		return first
	}
	return err
}

// logDamage gives each difference to found, which says whether to go on.
func logDamage(db string, found func(error) (more bool)) error {
	logs, err := filepath.Glob(filepath.Join(db, "*.mem"))
	if err != nil {
		return err
	}
	sort.Slice(logs, func(i, j int) bool {
		return len(logs[i]) < len(logs[j]) || len(logs[i]) == len(logs[j]) && logs[i] < logs[j]
	})
	for i := 0; i+1 < len(logs); i++ {
		b, err := os.ReadFile(logs[i])
		if err != nil {
			return classify(err)
		}
		if !logIsWhole(b) && !found(fmt.Errorf("%s: an entry does not verify: %w", filepath.Base(logs[i]), backends.ErrDamaged)) {
			return nil
		}
	}
	return nil
}

// logIsWhole tells whether a log is a header and entries that verify, and nothing but
// zeros after them.
func logIsWhole(b []byte) bool {
	const header = 20 // id of the key and start of the counter, of encryption that we do not use
	if len(b) < header {
		return false
	}
	b = b[header:]
	for {
		n := logEntry(b)
		if n == 0 {
			break
		}
		b = b[n:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// logEntry gives the length of the entry that b begins with, or 0: two bytes of flags,
// lengths of key and value and time of expiry as varints, key, value, CRC-32C.
func logEntry(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	at := 2
	var part [3]uint64
	for i := range part {
		n, w := binary.Uvarint(b[at:])
		if w <= 0 {
			return 0
		}
		part[i] = n
		at += w
	}
	size := uint64(len(b))
	if part[0] == 0 || part[0] > size || part[1] > size || uint64(at)+part[0]+part[1]+4 > size {
		return 0
	}
	end := at + int(part[0]+part[1])
	if crc32.Checksum(b[:end], y.CastagnoliCrcTable) != binary.BigEndian.Uint32(b[end:]) {
		return 0
	}
	return end + 4
}
