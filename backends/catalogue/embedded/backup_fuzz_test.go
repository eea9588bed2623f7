package embedded

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"tarn/backends"
)

const emptyBackup = backupMagic + `{"version":1,"format":1,"lake":"home","made":"2026-11-26T00:00:00Z"}` + "\n"

// FuzzReadBackup: whatever bytes come, the answer is a backup, or ErrCorrupt or ErrVersion.
// The same bytes are tried with the checksum that belongs to them, or nothing but that
// would ever be tried.
func FuzzReadBackup(f *testing.F) {
	for _, s := range []string{
		"", backupMagic, backupMagic + "{}\n", emptyBackup, emptyBackup + "\x00\x00", emptyBackup + "\x01\x01kv\x00\x01",
		emptyBackup + "\x01\x01kv\x01\x01jv\x00\x02",                // out of order
		emptyBackup + strings.Repeat("\xff", 11),                    // a length of more than 64 bits
		emptyBackup + "\xff\xff\xff\x0f\x00",                        // longer than what follows
		backupMagic + strings.Repeat("x", 300<<10),                  // a head without an end
		backupMagic + `{"version":2,"format":1}` + "\n\x00\x00",     // newer
		backupMagic + `{"version":1,"files":-1,"records":7}` + "\n", // and no format
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		for _, in := range [][]byte{b, append(bytes.Clone(b), sum[:]...)} {
			n := int64(0)
			info, err := ReadBackup(bytes.NewReader(in), func(k, v []byte) error { n++; return nil })
			switch {
			case err == nil && (info.Records != n || info.Version != backupVersion):
				t.Errorf("%d records, %+v", n, info)
			case err != nil && !errors.Is(err, backends.ErrCorrupt) && !errors.Is(err, backends.ErrVersion):
				t.Error(err)
			}
		}
	})
}
