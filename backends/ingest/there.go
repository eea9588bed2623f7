package ingest

import (
	"context"
	"errors"
	"io"
	"slices"

	"tarn/backends"
	"tarn/backends/checksum"
)

// there tells whether the lake has this very content under the name already, in a good copy. Then nothing is sent.
func (k *link) there(ctx context.Context, r *Record, f io.ReaderAt) (bool, error) {
	if k.server != nil {
		return k.thereServed(ctx, r, f)
	}
	in, err := k.lake.Catalogue().Stat(ctx, r.DID)
	switch {
	case errors.Is(err, backends.ErrNotExist), errors.Is(err, backends.ErrNotDir):
		return false, nil
	case err != nil:
		return false, err
	case in.Type != backends.File || in.Size != r.Size || in.IsSymlink() || in.Checksums.IsZero():
		return false, nil
	}
	on, err := k.lake.Catalogue().Replicas(ctx, r.DID)
	if err != nil {
		return false, err
	}
	good := false
	for _, x := range on {
		good = good || x.State == backends.Available && !x.Verified.IsZero()
	}
	if !good {
		return false, nil
	}
	sums, err := k.digest(ctx, r, f, in.Checksums)
	if err != nil {
		return false, err
	}
	if in.Checksums.Match(sums) != nil || in.Checksums.SHA256 == "" && in.Checksums.MD5 == "" {
		return false, nil
	}
	r.Generation = in.Generation
	k.isThere(r, on, sums)
	return true, nil
}

// isThere notes that nothing of the record has to be sent.
func (k *link) isThere(r *Record, on []backends.Replica, sums backends.Checksums) {
	if mine := (Spot{r.RSE, r.PFN}); r.PFN != "" && !hasSpot(on, mine) { // what was begun there is not needed
		r.Left = append(r.Left[:len(r.Left):len(r.Left)], mine)
	}
	k.leaveGate(r.RSE)
	k.lake.LetGo(r.held)
	r.RSE, r.PFN = "", ""
	r.Checksums = sums
	r.TransferredAt, r.VerifiedAt = k.o.Now(), k.o.Now()
	k.log.Info("the lake has the file already", "path", r.Path, "did", r.DID)
}

// digest reads the source for the digests of new files, and those that are known of what it is compared with.
func (k *link) digest(ctx context.Context, r *Record, f io.ReaderAt, known backends.Checksums) (backends.Checksums, error) {
	algs := checksum.Known(known)
	for _, a := range k.lake.Algs() {
		if !slices.Contains(algs, a) {
			algs = append(algs, a)
		}
	}
	h := checksum.New(algs...)
	buf := make([]byte, min(r.Size+1, 1<<20))
	for off := int64(0); off < r.Size; {
		if err := ctx.Err(); err != nil {
			return backends.Checksums{}, err
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), r.Size-off)], off)
		h.Write(buf[:n])
		if off += int64(n); err == io.EOF && off == r.Size {
			break
		}
		if err == io.EOF {
			return backends.Checksums{}, errChanged
		}
		if err != nil {
			return backends.Checksums{}, err
		}
	}
	return h.Sum(), nil
}

func hasSpot(rs []backends.Replica, s Spot) bool {
	return slices.ContainsFunc(rs, func(x backends.Replica) bool { return x.RSE == s.RSE && x.PFN == s.PFN })
}
