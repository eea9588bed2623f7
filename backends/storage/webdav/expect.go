package webdav

import (
	"context"
	"errors"
	"io"
	"net/http/httptrace"
	"time"
)

// gate holds the bytes of a request with Expect: 100-continue back until the server wants them. net/http sends them also
// when the server has answered otherwise, refusing them or with a redirect, if its connection could be used again by that.
type gate struct {
	io.ReadCloser
	wanted   chan struct{} // closed: the server said 100
	answered chan struct{} // closed: RoundTrip is over
	open     bool          // of Read alone
}

// gatePause is for how long RoundTrip may take to tell of an answer that has come. Read is called without a 100 for an answer, and
// for a server that says nothing at all within ExpectContinueTimeout: that one gets the bytes.
const gatePause = 250 * time.Millisecond

var errAnswered = errors.New("the server has answered without the bytes")

// newGate gives the body of one round trip, and the context for it.
func newGate(ctx context.Context, body io.ReadCloser) (*gate, context.Context) {
	g := &gate{ReadCloser: body, wanted: make(chan struct{}), answered: make(chan struct{})}
	return g, httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got100Continue: func() {
		select {
		case <-g.wanted: // a server may say it twice
		default:
			close(g.wanted)
		}
	}})
}

func (g *gate) Read(p []byte) (int, error) {
	if !g.open {
		pause := time.NewTimer(gatePause)
		defer pause.Stop()
		select {
		case <-g.wanted:
		case <-g.answered:
			return 0, errAnswered
		case <-pause.C:
		}
		g.open = true
	}
	return g.ReadCloser.Read(p)
}
