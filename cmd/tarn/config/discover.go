package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrNoLake says that no lake file was found where one was looked for.
var ErrNoLake = errors.New("no lake there")

// Folders lists where lakes are looked for by name, first one first: tarn in the
// user's configuration folder, then /etc/tarn.
func Folders(getenv func(string) string) []string {
	var out []string
	if x := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(x) {
		out = append(out, filepath.Join(x, "tarn"))
	} else if home := getenv("HOME"); home != "" {
		out = append(out, filepath.Join(home, ".config", "tarn"))
	}
	return append(out, "/etc/tarn")
}

// Find turns what a user calls a lake into the absolute path of its file: a folder with
// lake.yaml in it, a file, or a name that stands as NAME.yaml or NAME/lake.yaml in one
// of the folders. A path wins over a name. The error wraps ErrNoLake and says where
// was looked.
func Find(lake string, folders []string) (string, error) {
	if lake == "" {
		return "", fmt.Errorf("find lake: the name is empty: %w", ErrNoLake)
	}
	abs, err := filepath.Abs(lake)
	if err != nil {
		return "", fmt.Errorf("find lake %q: %w", lake, err)
	}
	var tried []string
	try := func(p string) (string, bool, error) {
		tried = append(tried, p)
		st, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENAMETOOLONG):
			return "", false, nil
		case err != nil:
			return "", false, fmt.Errorf("find lake %q: %w", lake, err)
		case st.IsDir():
			return "", false, nil
		}
		return p, true, nil
	}
	candidates := []string{abs, filepath.Join(abs, "lake.yaml")}
	if !strings.Contains(lake, "/") && lake != "." && lake != ".." {
		for _, f := range folders {
			candidates = append(candidates, filepath.Join(f, lake+".yaml"), filepath.Join(f, lake, "lake.yaml"))
		}
	}
	for i, p := range candidates {
		// A file cannot have lake.yaml in it.
		if i == 1 {
			if st, err := os.Stat(abs); err != nil || !st.IsDir() {
				continue
			}
		}
		if found, ok, err := try(p); err != nil || ok {
			return found, err
		}
	}
	return "", fmt.Errorf("find lake %q: looked for %s: %w", lake, strings.Join(tried, ", "), ErrNoLake)
}

// MountOf is one tarn mount of this machine.
type MountOf struct {
	Point string // where it is mounted
	Lake  string // absolute path of its lake file
	Grid  bool   // it is the root of several lakes, which Lake lists, and holds nothing but their mounts
}

// The file system types of a lake's mount and of the root of several.
const (
	lakeType = "fuse.tarn"
	gridType = "fuse.tarn-lakes"
)

// Mounts lists the tarn mounts in text, which has the form of /proc/self/mountinfo
// (proc(5)), in the order of mounting. It asks the file systems nothing, so a dead
// mount cannot hang it.
func Mounts(text string) []MountOf {
	var out []MountOf
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 2 || g[0] != lakeType && g[0] != gridType {
			continue
		}
		out = append(out, MountOf{Point: unescape(f[4]), Lake: unescape(g[1]), Grid: g[0] == gridType})
	}
	return out
}

// SystemMounts is Mounts of this process's view.
func SystemMounts() ([]MountOf, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return Mounts(string(b)), nil
}

// Below lists the mounts that are mounted on directories of the root of several lakes, in the order of mounting.
func (m MountOf) Below(mounts []MountOf) (out []MountOf) {
	for _, c := range mounts {
		if m.Grid && filepath.Dir(c.Point) == m.Point {
			out = append(out, c)
		}
	}
	return out
}

// Within finds the innermost, newest mount that the absolute path lies in, and the
// path's place in the lake ("/" for the mountpoint itself).
func Within(mounts []MountOf, path string) (m MountOf, lakePath string, ok bool) {
	path = filepath.Clean(path)
	for _, c := range mounts {
		if (path == c.Point || inside(path, c.Point)) && len(c.Point) >= len(m.Point) {
			m, ok = c, true
		}
	}
	if !ok {
		return m, "", false
	}
	return m, "/" + strings.TrimPrefix(strings.TrimPrefix(path, strings.TrimSuffix(m.Point, "/")), "/"), true
}

// unescape turns the kernel's \ooo (of space, tab, newline, backslash, #) into bytes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
