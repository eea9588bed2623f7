// Package cache is the hot cache: local copies of remote contents, from which reads are
// served. It knows keys and bytes, nothing of names, sites or FUSE.
//
// A content is immutable and named by a Key; equal keys mean equal bytes. Its bytes come
// from a Source, in blocks, into a sparse file of the cache; a reader waits only for the
// blocks it needs while one task per content fills the rest behind it. What is promised:
//
//   - Small reads here and there of a large content ask the Source for these bytes alone.
//   - No wrong byte passes unnoticed. The whole is compared with the checksums of the
//     Content (with that of Options.Quick where it is known) before it counts as whole, the CRC32C of each block guards every later use,
//     also after a restart or a power cut, and until the whole is verified a reader that
//     goes through the file never gets its last block, hence never a clean end.
//   - Options.Limit is hard: space is reserved before a fetch. When there is no room,
//     reads go past the cache, with the same checks.
//   - What is open, pinned or being filled is never evicted.
//   - The fetch belongs to the cache, the wait belongs to the caller: any number of
//     readers share one fetch, each stops waiting when its own context ends, and the
//     fetch is cancelled when nobody waits for it any more.
//
// An example:
//
//	c, err := cache.Open(cache.Options{Dir: "/var/cache/tarn", Limit: 1 << 40, NewHash: newHash})
//	f, err := c.Open(cache.Content{Key: "sha256:9f86…:4", Size: 4, Sums: sums}, fetch)
//	n, err := f.ReadAt(ctx, p, 0) // calls fetch, unless the bytes are there already
//	err = f.Close()
//
// The files on disk are described in docs/cache-format.md.
package cache
