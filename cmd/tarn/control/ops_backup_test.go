package control

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestBackupOfStalledClient: who asks for a backup and does not read it does not hold the
// catalogue for ever, and who reads slowly gets all of it.
func TestBackupOfStalledClient(t *testing.T) {
	const patience = 2 * time.Second
	ended := make(chan error, 1)
	const size = 32 << 20 // more than sockets hold
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &hurried{w: w, rc: http.NewResponseController(w), patience: patience}
		_, err := h.Write(make([]byte, size))
		ended <- err
	}))
	defer srv.Close()
	get := func() io.ReadCloser {
		req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	body := get()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("all of it was written, and nobody read")
		}
	case <-time.After(20 * time.Second):
		t.Error("the writer still waits for a client that reads nothing")
	}
	body.Close()
	body = get()
	defer body.Close()
	for n := int64(0); n < size; {
		k, err := io.CopyN(io.Discard, body, 4<<20)
		if n += k; err != nil {
			t.Fatalf("%v after %d bytes", err, n)
		}
		time.Sleep(patience / 20)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestBackupHurries: the operation itself does not wait for ever.
func TestBackupHurries(t *testing.T) {
	var w io.Writer
	s := &Service{Backup: func(_ context.Context, out io.Writer) error { w = out; return nil }}
	s.backup(httptest.NewRecorder(), httptest.NewRequest("POST", "/v1/catalogue/backup", nil))
	if h, ok := w.(*hurried); !ok || h.patience != backupPatience {
		t.Errorf("it writes to a %T", w)
	}
}
