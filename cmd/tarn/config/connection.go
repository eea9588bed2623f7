package config

import (
	"fmt"
	"os"
	"strings"
)

// ConnectionOf gives the name that the kernel has for the FUSE connection of the newest
// tarn mount at point, below /sys/fs/fuse/connections. It asks the mount nothing.
func ConnectionOf(point string) (id string, ok bool, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, fmt.Errorf("list mounts: %w", err)
	}
	id, ok = connectionIn(string(b), point)
	return id, ok, nil
}

// connectionIn is ConnectionOf in text: the name is the minor number of the device.
func connectionIn(text, point string) (id string, ok bool) {
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !found || len(f) < 6 || !strings.HasPrefix(after, "fuse.tarn ") || unescape(f[4]) != point {
			continue
		}
		if _, minor, has := strings.Cut(f[2], ":"); has {
			id, ok = minor, true
		}
	}
	return id, ok
}
