//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn/backends"
)

// List reads the whole folder, to sort it; ErrNotSupported where the server knows only which others have files (cmsd). What no path of ours can name is left out, as are devices and the like.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		var found []entry
		err := s.do(ctx, "list", dir, func() error {
			i, err := s.look(ctx, dir)
			if err != nil {
				return err
			}
			if i.flags&isDir == 0 {
				return backends.ErrNotDir
			}
			if err := s.listable(ctx, s.remote(dir)); err != nil {
				return err
			}
			found, err = s.entries(ctx, s.remote(dir))
			return err
		})
		if err != nil {
			yield(backends.Attr{}, err)
			return
		}
		prefix := ""
		if dir != "" {
			prefix = dir + "/"
		}
		slices.SortFunc(found, func(a, b entry) int { return strings.Compare(a.name, b.name) })
		for n, e := range found {
			p := prefix + e.name
			if n > 0 && found[n-1].name == e.name || strings.ContainsRune(e.name, '/') || checkPath(p) != nil {
				continue
			}
			if n%256 == 0 && ctx.Err() != nil {
				yield(backends.Attr{}, s.edge("list", dir, ctx.Err()))
				return
			}
			if e.unknown {
				err := s.do(ctx, "list", p, func() (err error) {
					e.info, err = s.look(ctx, p)
					return err
				})
				if errors.Is(err, backends.ErrNotExist) {
					continue // it went meanwhile
				}
				if err != nil {
					yield(backends.Attr{}, err)
					return
				}
			}
			if e.flags&(isOther|offline) == isOther {
				continue
			}
			if !yield(attr(p, e.info), nil) {
				return
			}
		}
	}
}

// entry is one of a listing; unknown when the server gave but the name.
type entry struct {
	name    string
	unknown bool
	info
}

// listable is nil where a listing is that of all servers behind the one of the URL. A manager that has no name space of its own
// (cmsd) lists an empty folder, and does not tell which of its servers are away.
func (s *Storage) listable(ctx context.Context, remote string) error {
	a, err := s.ask(ctx, s.o.Timeout, fsConfig, "role", "")
	var f *failure
	if errors.As(err, &f) && f.code == errResponse { // one that does not know its role is no cmsd's
		return nil
	}
	if err != nil || !strings.Contains(a.text, "manager") {
		return err
	}
	if a, err = s.ask(ctx, s.o.Timeout, fsLocate, "*"+remote, ""); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.end.addr)
	if err != nil {
		return err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return down("the host of %s does not resolve", s.end.addr)
	}
	for at := range strings.SplitSeq(strings.TrimRight(a.text, "\x00"), "\x00") {
		h, p, err := net.SplitHostPort(at)
		ip, _ := netip.ParseAddr(h)
		own := func(mine netip.Addr) bool { return mine.Unmap() == ip.Unmap() }
		if err != nil || p != port || h != host && !slices.ContainsFunc(ips, own) {
			return fmt.Errorf("it is a manager, and its folders are at %s and maybe others: %w", printable(at), backends.ErrNotSupported)
		}
	}
	return nil
}

// entries are those of a folder, in the server's order. The library reads them whole.
func (s *Storage) entries(ctx context.Context, remote string) ([]entry, error) {
	a, err := s.ask(ctx, listTime+s.o.Timeout, fsList, remote, "")
	if err != nil {
		return nil, err
	}
	return parseEntries(a.text)
}

// listTime is how long a listing may take beyond other requests: some have millions of entries.
const listTime = time.Minute

// parseEntries reads what shim.cc makes of a listing.
func parseEntries(text string) ([]entry, error) {
	var out []entry
	for line := range strings.SplitSeq(text, "\x00") {
		if line == "" {
			continue
		}
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 || f[3] == "" {
			return nil, fmt.Errorf("a listing has the entry %q: %w", printable(line), backends.ErrUnavailable)
		}
		e := entry{name: f[3], unknown: f[0] == "-"}
		if !e.unknown {
			flags, err1 := strconv.ParseUint(f[0], 10, 32)
			size, err2 := strconv.ParseInt(f[1], 10, 64)
			mtime, err3 := strconv.ParseInt(f[2], 10, 64)
			if err1 != nil || err2 != nil || err3 != nil || size < 0 {
				return nil, fmt.Errorf("a listing has the entry %q: %w", printable(line), backends.ErrUnavailable)
			}
			e.info = info{flags: uint32(flags), size: size, mtime: time.Unix(mtime, 0)}
		}
		out = append(out, e)
	}
	return out, nil
}
