package gridftp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"tarn/backends"
)

// maxEntries bounds a listing, which is sorted in memory.
const maxEntries = 5_000_000

// List reads the whole folder, to sort it. What no path of ours can name is left out, as are devices and the like.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		var found []facts
		err := s.do(ctx, "list", dir, func(ss *session, _ bool) error {
			f, err := s.look(ctx, ss, dir)
			if err != nil {
				return absent(err)
			}
			if !f.isDir() {
				return backends.ErrNotDir
			}
			found, err = s.entries(ctx, ss, s.remote(dir))
			return err
		})
		if err != nil {
			yield(backends.Attr{}, err)
			return
		}
		prefix := ""
		if !isPrefix(dir) {
			prefix = dir + "/"
		}
		slices.SortFunc(found, func(a, b facts) int { return strings.Compare(a.name, b.name) })
		for i, f := range found {
			p := prefix + f.name
			if i > 0 && found[i-1].name == f.name || strings.ContainsRune(f.name, '/') || checkPath(p) != nil {
				continue
			}
			if i%256 == 0 && ctx.Err() != nil {
				yield(backends.Attr{}, s.opError("list", dir, ctx.Err()))
				return
			}
			if !yield(attr(p, f), nil) {
				return
			}
		}
	}
}

// entries is MLSD: files and folders, in the server's order.
func (s *Storage) entries(ctx context.Context, ss *session, remote string) ([]facts, error) {
	if err := ss.setMode(ctx, s.o.Timeout, false); err != nil {
		return nil, err
	}
	in, err := s.receive(ctx, ss, "MLSD "+remote)
	if err != nil {
		return nil, err
	}
	stop := in.data.watch(ctx)
	found, err := readEntries(in.data)
	stop()
	in.data.Close()
	switch {
	case ctx.Err() != nil:
		ss.abort()
		return nil, ctx.Err()
	case err != nil:
		ss.bad = true
		return nil, network("data channel", err)
	}
	if err := ss.finish(ctx, s.o.Timeout); err != nil {
		return nil, cut(err)
	}
	return found, nil
}

// readEntries reads lines that end with CR LF; a line feed alone belongs to a name.
func readEntries(r io.Reader) ([]facts, error) {
	var found []facts
	b := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("%w: a line of more than %d bytes in a listing", errProtocol, maxLine)
		}
		whole := len(line) >= 2 && line[len(line)-2] == '\r' && err == nil
		if whole || err == io.EOF && len(line) > 0 {
			f, perr := parseFacts(strings.TrimSuffix(string(line), "\r\n"))
			line = line[:0]
			if perr != nil {
				return nil, perr
			}
			if f.kind == "file" || f.kind == "dir" {
				found = append(found, f)
			}
			if len(found) > maxEntries {
				return nil, fmt.Errorf("%w: a listing of more than %d entries", errProtocol, maxEntries)
			}
		}
		if err == io.EOF {
			return found, nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return nil, err
		}
	}
}
