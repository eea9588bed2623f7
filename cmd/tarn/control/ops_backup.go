package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
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
	if err := s.Backup(r.Context(), w); err != nil {
		end = envelope{Error: Describe(err)}
	}
	b, err := json.Marshal(end)
	if err != nil {
		return // the client takes an answer without a trailer as cut short
	}
	w.Header().Set(trailer, string(b))
}

// Backup streams a backup of the catalogue; a reader that ends cleanly has given all of it.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://tarn/v1/catalogue/backup", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		if _, err := readStream(resp.Body, nil, nil); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("back up: status %s", resp.Status)
	}
	return &contentReader{resp: resp}, nil
}
