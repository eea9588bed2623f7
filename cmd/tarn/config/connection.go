package config

import (
	"fmt"
	"os"
	"strings"
)

// Connection is the FUSE connection of one tarn mount.
type Connection struct {
	Point string
	Name  string // the kernel's, below /sys/fs/fuse/connections
}

// ConnectionOf gives that of the newest tarn mount at point. It asks the mount nothing.
func ConnectionOf(point string) (c Connection, ok bool, err error) {
	mounts, err := mountedAt(point)
	for _, m := range mounts {
		if m.tarn {
			c, ok = Connection{Point: point, Name: m.device}, true
		}
	}
	return c, ok, err
}

// Mounted tells whether the mount of the connection is there, and whether it is seen: another
// file system may be mounted over it.
func (c Connection) Mounted() (there, seen bool, err error) {
	mounts, err := mountedAt(c.Point)
	for i, m := range mounts {
		if m.tarn && m.device == c.Name {
			there, seen = true, i == len(mounts)-1
		}
	}
	return there, seen, err
}

// stacked is one of the mounts at a mountpoint.
type stacked struct {
	device string // the minor number of its device, which names a FUSE connection
	tarn   bool
}

func mountedAt(point string) ([]stacked, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return stackedIn(string(b), point), nil
}

// stackedIn is mountedAt in text, the oldest first.
func stackedIn(text, point string) (out []stacked) {
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !found || len(f) < 6 || unescape(f[4]) != point {
			continue
		}
		if _, minor, has := strings.Cut(f[2], ":"); has {
			out = append(out, stacked{minor, strings.HasPrefix(after, lakeType+" ") || strings.HasPrefix(after, gridType+" ")})
		}
	}
	return out
}
