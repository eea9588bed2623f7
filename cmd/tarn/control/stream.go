package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// stream writes the lines of one answer. Its methods may be called in parallel.
type stream struct {
	mu   sync.Mutex // guards the rest
	w    *bufio.Writer
	rc   *http.ResponseController
	last time.Time // when lines were last pushed to the client
	now  func() time.Time
	err  error
}

// pushEvery is how long lines may wait for others: a terminal sees the first results
// at once, and 10^6 lines are not 10^6 writes.
const pushEvery = 100 * time.Millisecond

func (s *stream) line(e envelope) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.w.Write(b)
	s.w.WriteByte('\n')
	if now := s.now(); now.Sub(s.last) >= pushEvery || e.Item == nil {
		s.last = now
		s.err = s.flush()
	}
	return s.err
}

func (s *stream) flush() error {
	if err := s.w.Flush(); err != nil {
		return err
	}
	return s.rc.Flush()
}

// item sends one result. An error means that the client has gone.
func (s *stream) item(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return s.line(envelope{Item: b})
}

// progress tells how far the operation is; how often is the caller's business.
func (s *stream) progress(p Progress) {
	// A client that has gone ends the request's context; the operation sees that.
	_ = s.line(envelope{Progress: &p})
}

// maxRequest bounds a request: long lists of paths are sent in several.
const maxRequest = 64 << 20

// operation is one thing that can be asked: it decodes the request, streams its
// results and gives a summary.
func operation[Req any](f func(ctx context.Context, req Req, out *stream) (done any, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		operationOn(w, func(out *stream) (any, error) {
			var req Req
			dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&req); err != nil && err != io.EOF {
				return nil, Fail(ErrUsage, "is the daemon of another version than the command?", "decode request: %v", err)
			}
			return f(r.Context(), req, out)
		})
	}
}

// operationOn runs f with a stream on w and ends the answer.
func operationOn(w http.ResponseWriter, f func(out *stream) (done any, err error)) {
	w.Header().Set("Content-Type", ndjson)
	out := &stream{w: bufio.NewWriterSize(w, 64<<10), rc: http.NewResponseController(w), now: time.Now}
	done, err := f(out)
	if done == nil {
		done = struct{}{}
	}
	end := envelope{}
	if err == nil {
		end.Done, err = json.Marshal(done)
	}
	if err != nil {
		end = envelope{Error: Describe(err)}
	}
	_ = out.line(end) // fails when the client has gone, and then nobody listens
}

// readStream is the client's side of stream.
func readStream(r io.Reader, item func(json.RawMessage) error, progress func(Progress)) (done json.RawMessage, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrCutShort
			} else {
				err = fmt.Errorf("%w: %w", ErrCutShort, err)
			}
			return nil, err
		}
		var e envelope
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("decode answer: %w", err)
		}
		switch {
		case e.Error != nil:
			return nil, e.Error
		case e.Done != nil:
			return e.Done, nil
		case e.Item != nil && item != nil:
			if err := item(e.Item); err != nil {
				return nil, err
			}
		case e.Progress != nil && progress != nil:
			progress(*e.Progress)
		}
	}
}
