package control

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// backup answers with the catalogue's backup. What goes wrong after the first byte stands in
// the trailer.
func (s *Service) backup(w http.ResponseWriter, r *http.Request) {
	if s.Backup == nil {
		w.Header().Set("Content-Type", ndjson)
		w.WriteHeader(http.StatusConflict)
		out := &stream{w: bufio.NewWriter(w), rc: http.NewResponseController(w), now: time.Now}
		_ = out.line(envelope{Error: Describe(Fail(ErrFatal, "", "this catalogue has no backup"))}) // the client has gone if this fails
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", trailer)
	end := envelope{Done: json.RawMessage("{}")}
	if err := s.Backup(r.Context(), &hurried{w: w, rc: http.NewResponseController(w), patience: backupPatience}); err != nil {
		end = envelope{Error: Describe(err)}
	}
	b, err := json.Marshal(end)
	if err != nil {
		return // the client takes an answer without a trailer as cut short
	}
	w.Header().Set(trailer, string(b))
}

// backupPatience is how long a backup waits for a client to take the next of it: while it is
// written the catalogue can neither be closed nor opened again.
const backupPatience = time.Minute

// hurried writes to a client, and fails when it takes nothing for as long as patience.
type hurried struct {
	w        io.Writer
	rc       *http.ResponseController
	patience time.Duration
}

func (h *hurried) Write(p []byte) (n int, err error) {
	// In pieces, so that a slow client that does take them is not cut off.
	for len(p) > 0 {
		if err := h.rc.SetWriteDeadline(time.Now().Add(h.patience)); err != nil {
			return n, err
		}
		k, err := h.w.Write(p[:min(len(p), 32<<10)])
		n += k
		if err != nil {
			return n, err
		}
		p = p[k:]
	}
	return n, nil
}

// Backup streams a backup of the catalogue; a reader that ends cleanly has given all of it.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	return c.bytes(ctx, "catalogue/backup", http.NoBody)
}
