package rest

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"tarn/backends"
)

const (
	maxINI   = 1 << 20 // bytes of a file
	maxDepth = 10      // of settings that name one another, as Python's configparser has it
	maxNames = 1000    // of settings that one names, with those that these name
)

// ini is what a file says: section, key in lower case, value.
type ini map[string]map[string]string

// readINI reads a file as Python's configparser does, since that is what reads a rucio.cfg elsewhere: "key = value" or
// "key: value" at any indent, comments in lines of their own only (a password may have a "#" or quotes in it), the section DEFAULT
// under all others. A value that goes on in lines indented further counts with its first line. Errors name lines, never what is in them.
func readINI(r io.Reader) (ini, error) {
	out := ini{}
	in := bufio.NewScanner(io.LimitReader(r, maxINI))
	section, key, indent := "", "", 0
	for n := 1; in.Scan(); n++ {
		text := in.Text()
		if n == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		line := strings.TrimSpace(text)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		at := len(text) - len(strings.TrimLeft(text, " \t"))
		switch {
		case key != "" && at > indent: // goes on
		case line[0] == '[':
			end := strings.IndexByte(line, ']')
			if end < 0 {
				return nil, fmt.Errorf("line %d: a section without its end: %w", n, backends.ErrDamaged)
			}
			section, key = line[1:end], ""
			if out[section] == nil {
				out[section] = map[string]string{}
			}
		case section == "":
			return nil, fmt.Errorf("line %d: before the first section: %w", n, backends.ErrDamaged)
		default:
			k, v, ok := cutSetting(line)
			if !ok {
				if section != "client" && section != "DEFAULT" {
					continue // of no concern here
				}
				return nil, fmt.Errorf("line %d: neither a section nor key = value: %w", n, backends.ErrDamaged)
			}
			key, indent = k, at
			out[section][k] = v
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, backends.ErrDamaged)
	}
	return out, nil
}

func cutSetting(line string) (key, value string, ok bool) {
	i := strings.IndexAny(line, "=:")
	if i < 1 {
		return "", "", false
	}
	return strings.ToLower(strings.TrimSpace(line[:i])), strings.TrimSpace(line[i+1:]), true
}

// get gives the value of a key, "" when there is none, with "%(other)s" as the value of another and "%%" as "%".
func (f ini) get(section, key string) string {
	names := maxNames
	return f.lookup(section, key, maxDepth, &names)
}

func (f ini) lookup(section, key string, depth int, names *int) string {
	*names--
	v, ok := f[section][key]
	if !ok {
		v = f["DEFAULT"][key]
	}
	if depth == 0 || *names < 0 || !strings.Contains(v, "%") {
		return v
	}
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(v, "%")
		b.WriteString(before)
		if !ok || b.Len() > maxINI {
			return b.String()
		}
		name, rest, isName := strings.Cut(after, ")s")
		switch {
		case strings.HasPrefix(after, "%"):
			b.WriteByte('%')
			v = after[1:]
		case isName && strings.HasPrefix(name, "("):
			b.WriteString(f.lookup(section, strings.ToLower(name[1:]), depth-1, names))
			v = rest
		default: // Python refuses it; nothing else can be meant
			b.WriteByte('%')
			v = after
		}
	}
}
