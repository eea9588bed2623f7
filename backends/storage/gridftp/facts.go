package gridftp

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// facts is one entry of MLST or MLSD (RFC 3659 section 7).
type facts struct {
	name   string
	kind   string // file, dir, cdir, pdir, or something else
	size   int64
	mtime  time.Time
	unique string // names the file itself, whatever it is called: device and inode with Globus
}

func (f facts) isDir() bool { return f.kind == "dir" || f.kind == "cdir" || f.kind == "pdir" }

// same tells whether two looks at a name saw one content: a file is written once, and replaced by another.
func (f facts) same(g facts) bool {
	return f.kind == g.kind && f.size == g.size && f.unique == g.unique && f.mtime.Equal(g.mtime)
}

// parseFacts reads "fact=value;fact=value; name".
func parseFacts(line string) (facts, error) {
	list, name, ok := strings.Cut(line, " ")
	bad := func(why string) (facts, error) {
		return facts{}, fmt.Errorf("%w: entry %q: %s", errProtocol, printable(line), why)
	}
	if !ok || name == "" || list != "" && !strings.HasSuffix(list, ";") {
		return bad("not of the form facts; name")
	}
	f := facts{name: name, size: -1}
	for _, fact := range strings.Split(strings.TrimSuffix(list, ";"), ";") {
		key, value, ok := strings.Cut(fact, "=")
		if !ok {
			continue // values of facts that are not looked at may hold anything
		}
		switch strings.ToLower(key) {
		case "type":
			f.kind = strings.ToLower(value)
		case "size":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return bad("its size is none")
			}
			f.size = n
		case "modify":
			t, err := parseTime(value)
			if err != nil {
				return bad("its time is none")
			}
			f.mtime = t
		case "unique":
			f.unique = value
		}
	}
	switch {
	case f.kind == "":
		return bad("no type")
	case f.isDir():
		f.size = 0
	case f.kind == "file" && f.size < 0:
		return bad("no size")
	}
	return f, nil
}

// parseTime reads YYYYMMDDHHMMSS and perhaps a fraction, in UTC.
func parseTime(s string) (time.Time, error) {
	return time.ParseInLocation("20060102150405", s, time.UTC) // a fraction is taken as well
}

// parseMLST gives the entry in a reply to MLST, which is its one line that begins with a blank.
func parseMLST(r reply) (facts, error) {
	for _, l := range r.lines[min(1, len(r.lines)):] {
		if strings.HasPrefix(l, " ") {
			return parseFacts(l[1:])
		}
	}
	return facts{}, fmt.Errorf("%w: no entry in %q", errProtocol, printable(r.String()))
}
