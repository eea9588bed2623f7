package journal

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Small files from creation to the answer of close, by the journal and by bare code that does
// open, write, fsync and close, in turns of some hundred files so that both meet the same
// disk. TMPDIR says on which.
func BenchmarkSmallFiles(b *testing.B) {
	const turn = 250
	for _, par := range []int{1, 4, 16} {
		for _, lazy := range []bool{false, true} {
			name := fmt.Sprintf("closers=%d", par)
			if lazy {
				name += "/fast"
			}
			b.Run(name, func(b *testing.B) {
				j := benchJournal(b)
				if err := j.wal.make(); err != nil {
					b.Fatal(err)
				}
				bare := b.TempDir()
				p := make([]byte, 4096)
				rand.Read(p)
				var took [2]time.Duration
				files := 0
				for b.Loop() {
					for k, one := range []func(int) error{
						func(n int) error { return bareFile(filepath.Join(bare, fmt.Sprint(n)), p) },
						func(int) error { return journalFile(j, p, lazy) },
					} {
						start := time.Now()
						var wg sync.WaitGroup
						for w := range par {
							wg.Go(func() {
								for i := w; i < turn; i += par {
									if err := one(files + i); err != nil {
										b.Error(err)
										return
									}
								}
							})
						}
						wg.Wait()
						took[k] += time.Since(start)
					}
					files += turn
				}
				b.ReportMetric(float64(files)/took[0].Seconds(), "bare/s")
				b.ReportMetric(float64(files)/took[1].Seconds(), "journal/s")
				b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "ratio")
			})
		}
	}
}

func bareFile(name string, p []byte) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(p); err != nil {
		return err
	}
	return f.Sync()
}

func journalFile(j *Journal, p []byte, lazy bool) error {
	e, err := j.Create(Record{Path: []byte("/ctao/dl0/run1.fits"), Mode: 0o644})
	if err != nil {
		return err
	}
	if _, err := e.WriteAt(p, 0); err != nil {
		return err
	}
	_, err = e.sealAs(lazy)
	return err
}
