// Package journal keeps the files that were written here and are not yet safe elsewhere.
//
// Each of them is an Entry: a data file and, beside it, one small self-describing record
// of its state. No database is needed to find them again: losing everything but the
// journal's folder loses no file. What Entry.Sync, Entry.Seal, Entry.Update and
// Journal.PutIntent acknowledge survives kill -9 and a power cut, byte for byte; which
// system calls make each of these promises is written down in docs/journal-format.md.
//
//	j, err := journal.Open(journal.Options{
//		Dir:     "/var/lib/tarn/ctao/journal",
//		NewHash: func(algs ...string) journal.Hasher { return checksum.New(algs...) },
//		Algs:    []string{"adler32", "sha256"},
//	})
//	e, err := j.Create(journal.Record{Path: []byte("/ctao/dl0/run1.fits"), Mode: 0o644})
//	_, err = e.WriteAt(p, 0)
//	rec, err := e.Seal() // now it is safe to answer close(2)
//	err = e.Verify()     // before every upload
//	err = e.Update(func(r *journal.Record) { r.State = journal.Uploaded })
//
// # States
//
// WRITING is where an entry begins; Seal makes it SEALED, with size and checksums. What
// follows (UPLOADED, VERIFIED, REGISTERED, ATTACHED, RULED, SAFE) is set by the uploader
// through Update. The first change of the content after a Seal takes the entry back to
// WRITING, whatever state it had reached, and its copies with it: they are copies of
// another content. Update refuses to move an entry out of WRITING; only Seal does, and
// gives a new Seq, by which an uploader sees that the content it works on is another.
//
// # After a crash
//
// Open finds every entry again. One that was being written and never synced is ABANDONED:
// kept, listed, never uploaded by itself (Seal makes it an ordinary one). One that was
// synced, or sealed and then changed in place, is WRITING with Recovered set: the next
// Seal or Verify seals what is there. One that was sealed and only appended to since is
// its last sealed self again. A sealed file whose content is not what was sealed is
// Damaged: it is kept and Verify refuses it, so that it is never uploaded.
package journal
