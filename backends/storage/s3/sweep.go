package s3

import (
	"context"
	"errors"
	"time"

	"github.com/minio/minio-go/v7"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

// abort removes the parts of a multipart upload. One that is still being stored may come after the first attempt, or make
// it fail, so the server is asked again (API Reference, AbortMultipartUpload).
func (s *Storage) abort(ctx context.Context, key, id string) error {
	for n := time.Duration(1); ; n *= 2 {
		err := s.ask(ctx, func(ctx context.Context) error {
			return s.core.AbortMultipartUpload(ctx, s.bucket, key, id)
		})
		if err == nil {
			var parts minio.ListObjectPartsResult
			if parts, err = s.partsOf(ctx, key, id, 0); err == nil && len(parts.ObjectParts) > 0 {
				err = down("parts of an aborted upload stay on the server")
			}
		}
		switch {
		case errors.Is(err, backends.ErrNotExist):
			return nil
		case !backends.IsTemporary(err) || n > 16:
			return err
		}
		select {
		case <-time.After(n * firstWait):
		case <-ctx.Done():
			return err
		}
	}
}

func (s *Storage) partsOf(ctx context.Context, key, id string, after int) (parts minio.ListObjectPartsResult, err error) {
	err = s.ask(ctx, func(ctx context.Context) error {
		parts, err = s.core.ListObjectParts(ctx, s.bucket, key, id, after, pageSize)
		return err
	})
	return parts, err
}

// track notes the multipart uploads that are under way here.
func (s *Storage) track(id string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.live[id] = struct{}{}
	} else {
		delete(s.live, id)
	}
}

func (s *Storage) tracked(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.live[id]
	return ok
}

// stale is the age from which an unfinished upload is taken for left over by a crash: others may be
// writing to the same prefix.
const stale = 24 * time.Hour

// sweepSometimes removes, once a day and beside other work, what crashes have left.
func (s *Storage) sweepSometimes() {
	s.mu.Lock()
	now := s.o.Now()
	due := !s.closed && (s.cleaned.IsZero() || now.Sub(s.cleaned) > stale)
	if due {
		s.cleaned = now
	}
	s.mu.Unlock()
	if due {
		s.tasks.Go(func() {
			if n, err := s.Clean(s.ctx); err != nil && s.ctx.Err() == nil {
				s.o.Log.Warn("left-over uploads cannot be removed", "at", s.at(""), "err", err)
			} else if n > 0 {
				s.o.Log.Info("left-over uploads removed", "at", s.at(""), "uploads", n)
			}
		})
	}
}

// Clean removes multipart uploads of keys below the prefix that were begun more than a day ago and have got no part
// since, and tells how many there were.
func (s *Storage) Clean(ctx context.Context) (n int, err error) {
	if s.o.ReadOnly {
		return 0, nil
	}
	key, id := "", ""
	for {
		var page minio.ListMultipartUploadsResult
		err := s.ask(ctx, func(ctx context.Context) (err error) {
			page, err = s.core.ListMultipartUploads(ctx, s.bucket, s.prefix, key, id, "", pageSize)
			return err
		})
		if err != nil {
			return n, err
		}
		for _, up := range page.Uploads {
			old, err := s.abandoned(ctx, up)
			if err != nil {
				return n, err
			}
			if !old {
				continue
			}
			if err := s.abort(ctx, up.Key, up.UploadID); err != nil {
				return n, err
			}
			n++
		}
		if !page.IsTruncated {
			return n, nil
		}
		if page.NextKeyMarker < key || page.NextKeyMarker == key && page.NextUploadIDMarker == id {
			return n, wrong("the server's list of uploads goes round")
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// abandoned tells whether an upload is ours by its key, and nobody has sent a part of it for a day.
func (s *Storage) abandoned(ctx context.Context, up minio.ObjectMultipartInfo) (bool, error) {
	ours := len(up.Key) > len(s.prefix) && up.Key[:len(s.prefix)] == s.prefix && wire.CheckPath(up.Key[len(s.prefix):], "S3") == nil
	since := func(t time.Time) time.Duration { return s.o.Now().Sub(t) }
	if !ours || up.Initiated.IsZero() || since(up.Initiated) <= stale || s.tracked(up.UploadID) {
		return false, nil
	}
	for after := 0; ; {
		parts, err := s.partsOf(ctx, up.Key, up.UploadID, after)
		if errors.Is(err, backends.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		for _, p := range parts.ObjectParts {
			if since(p.LastModified) <= stale {
				return false, nil
			}
		}
		if !parts.IsTruncated || parts.NextPartNumberMarker <= after {
			return true, nil
		}
		after = parts.NextPartNumberMarker
	}
}
