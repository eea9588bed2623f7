package fs

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestSeldom(t *testing.T) {
	var b bytes.Buffer
	log := newSeldom(slog.New(slog.NewTextHandler(&b, nil)))
	for range 50 {
		log.Error("read", "path", "/a", "err", errors.New("lost"))
		log.Error("read", "path", "/b", "err", errors.New("lost"))
		log.Error("read", "path", "/a", "err", errors.New("away"))
	}
	if n := strings.Count(b.String(), "\n"); n != 3 {
		t.Errorf("%d lines, want 3:\n%s", n, &b)
	}
	h := log.Handler().(*seldom)
	for k := range h.said {
		h.said[k] = time.Now().Add(-2 * again)
	}
	log.Error("read", "path", "/a", "err", errors.New("lost"))
	if n := strings.Count(b.String(), "\n"); n != 4 {
		t.Errorf("%d lines, want 4: after a minute it is said again", n)
	}
	for i := range 5000 {
		log.Error("read", "path", fmt.Sprint(i))
	}
	if len(h.said) > 1000 {
		t.Errorf("it remembers %d", len(h.said))
	}
}
