package rest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"tarn/backends"
)

// maxBody is how much of an answer that is no stream is read, and maxLine how long a line of one that is may be.
const (
	maxBody = 64 << 20
	maxLine = 4 << 20
)

// ErrStop from a function that gets rows ends a stream early, and its connection; the call is a success then.
var ErrStop = errors.New("enough")

// Whole is a stream of which it is known that it has at least so many rows: Rucio ends one that fails half way as if it were whole
// (v1/common.py, try_stream). With fewer it is ErrUnavailable and temporary. Negative: not known.
func Whole[T any](rows int64, stream func(f func(T) error) error) func(f func(T) error) error {
	return func(f func(T) error) error {
		n, stopped := int64(0), false
		err := stream(func(row T) error {
			n++
			err := f(row)
			stopped = errors.Is(err, ErrStop)
			return err
		})
		if err == nil && !stopped && n < rows {
			return fmt.Errorf("the answer broke off after %d rows of %d: %w", n, rows, errDown)
		}
		return err
	}
}

// ask makes a call and decodes its JSON answer into out, which may be nil.
func (c *Client) ask(ctx context.Context, k call, out any) error {
	return c.open(ctx, k, func(r *http.Response) error {
		b, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			return c.broken(ctx, k, err)
		}
		if len(b) > maxBody {
			return c.fault(k, fmt.Errorf("an answer of more than %d bytes: %w", maxBody, backends.ErrUnavailable))
		}
		if out == nil || len(bytes.TrimSpace(b)) == 0 {
			return nil
		}
		if err := decode(b, out); err != nil {
			return c.fault(k, fmt.Errorf("the answer does not parse: %w: %w", err, backends.ErrUnavailable))
		}
		return nil
	})
}

// stream makes a call and gives each line of its answer to f as it comes; ErrStop from f is the end.
func (c *Client) stream(ctx context.Context, k call, f func(line []byte) error) error {
	given := false
	k.given = &given
	return c.open(ctx, k, func(r *http.Response) error {
		in := bufio.NewScanner(r.Body)
		in.Buffer(make([]byte, 64<<10), maxLine)
		for in.Scan() {
			line := bytes.TrimSpace(in.Bytes())
			if len(line) == 0 {
				continue
			}
			given = true
			if err := f(line); errors.Is(err, ErrStop) {
				return nil
			} else if err != nil {
				return err
			}
		}
		switch err := in.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return c.fault(k, fmt.Errorf("a line of more than %d bytes: %w", maxLine, backends.ErrUnavailable))
		case err != nil:
			return c.broken(ctx, k, err)
		}
		return nil
	})
}

// rows streams decoded lines. A last line that was cut is a failure of the moment.
func rows[T any](ctx context.Context, c *Client, k call, f func(T) error) error {
	return c.stream(ctx, k, func(line []byte) error {
		var row T
		if err := decode(line, &row); err != nil {
			return c.fault(k, fmt.Errorf("a line of the answer does not parse: %w: %w", err, cut(err)))
		}
		return f(row)
	})
}

// list gives all lines of a stream, decoded.
func list[T any](ctx context.Context, c *Client, k call) (out []T, err error) {
	err = rows(ctx, c, k, func(r T) error {
		out = append(out, r)
		return nil
	})
	return out, err
}

// cut is errDown for a line that has no end, else ErrUnavailable.
func cut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errDown
	}
	return backends.ErrUnavailable
}
