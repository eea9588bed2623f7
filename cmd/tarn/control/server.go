package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	ndjson  = "application/x-ndjson"
	trailer = "Tarn-End" // of the content answer: an envelope with done or error
)

// Server serves one lake on one listener.
type Server struct {
	http *http.Server
	done chan error

	mu     sync.Mutex // guards the rest
	ending bool
	active sync.WaitGroup // answers under way
}

// track runs h, unless the server is ending, and lets Close wait for it.
func (s *Server) track(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if s.ending {
			s.mu.Unlock()
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		s.active.Add(1)
		s.mu.Unlock()
		defer s.active.Done()
		h.ServeHTTP(w, r)
	})
}

// Serve answers on ln until Close.
func Serve(svc *Service, ln net.Listener) *Server {
	log := svc.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{done: make(chan error, 1)}
	s.http = &http.Server{
		Handler:           s.track(svc.Handler()),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	go func() { s.done <- s.http.Serve(ln) }()
	return s
}

// Close lets running answers end until ctx does, then cuts them short, and waits: what
// the service stands on can be closed after it.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close() // ends the contexts of the answers
	}
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.active.Wait()
	if e := <-s.done; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// InProcess serves svc to the Client it returns and to nobody else. Close of the
// Client ends the serving; closing what svc stands on is the caller's.
func InProcess(svc *Service) *Client {
	ln := newPipeListener()
	srv := Serve(svc, ln)
	c := newClient(ln.dial)
	c.OnClose(func() error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // whoever closes its client waits for no answer
		return srv.Close(ctx)
	})
	return c
}

// ContentRequest asks for bytes of a file; Length -1 means to the end.
type ContentRequest struct {
	Path   Text  `json:"path"`
	Offset int64 `json:"offset,omitempty"`
	Length int64 `json:"length"`
}

// content answers with the bytes of a file. What goes wrong before the first byte is
// an answer of one line; what goes wrong later stands in the trailer.
func (s *Service) content(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, err error) {
		w.Header().Set("Content-Type", ndjson)
		w.WriteHeader(status)
		out := &stream{w: bufio.NewWriter(w), rc: http.NewResponseController(w), now: time.Now}
		_ = out.line(envelope{Error: Describe(err)}) // the client has gone if this fails
	}
	var req ContentRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		fail(http.StatusBadRequest, Fail(ErrUsage, "", "decode request: %v", err))
		return
	}
	src, err := s.open(r.Context(), string(req.Path))
	if err != nil {
		fail(http.StatusConflict, err)
		return
	}
	defer src.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", trailer)
	end := envelope{Done: json.RawMessage("{}")}
	buf := make([]byte, 1<<20)
	off, left := req.Offset, req.Length
	for left != 0 {
		p := buf
		if left > 0 && left < int64(len(p)) {
			p = p[:left]
		}
		n, err := src.ReadAt(r.Context(), p, off)
		if n > 0 {
			if _, werr := w.Write(p[:n]); werr != nil {
				return
			}
			off += int64(n)
			if left > 0 {
				left -= int64(n)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			end = envelope{Error: Describe(fmt.Errorf("read %s: %w", req.Path.Quote(), err))}
			break
		}
	}
	b, err := json.Marshal(end)
	if err != nil {
		return // the client takes an answer without a trailer as cut short
	}
	w.Header().Set(trailer, string(b))
}
