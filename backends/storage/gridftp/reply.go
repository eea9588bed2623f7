package gridftp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of what a server may say at once.
const (
	maxLine  = 64 << 10
	maxReply = 1 << 20
)

// errProtocol is an answer that is none: the session cannot be used any more.
var errProtocol = errors.New("the server does not speak FTP as it should")

// reply is one whole answer of the control channel (RFC 959 section 4.2): a code and the lines of its text, without codes.
type reply struct {
	code  int
	lines []string
}

// class is the first digit: 1 goes on, 2 done, 3 more is wanted, 4 failed for now, 5 failed.
func (r reply) class() int { return r.code / 100 }

// last is the text of the last line, or of the only one.
func (r reply) last() string { return r.lines[len(r.lines)-1] }

// String is the reply on one line, for errors.
func (r reply) String() string {
	return fmt.Sprintf("%d %s", r.code, printable(strings.Join(r.lines, "; ")))
}

// printable keeps an answer from doing things to a terminal or a log.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 500 {
		s = s[:500] + "..."
	}
	return s
}

// readReply reads one reply. Lines between the first and the last of one of many lines may be anything but the last
// line's beginning; of these a code of their own is taken off, as Globus sends them.
func readReply(r *bufio.Reader) (reply, error) {
	line, err := readLine(r)
	if err != nil {
		return reply{}, err
	}
	code, sep, ok := splitCode(line)
	if !ok {
		return reply{}, fmt.Errorf("%w: got %q", errProtocol, printable(line))
	}
	rep := reply{code: code, lines: []string{line[4:]}}
	for size := len(line); sep == '-'; {
		if line, err = readLine(r); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return reply{}, err
		}
		if size += len(line) + 1; size > maxReply {
			return reply{}, fmt.Errorf("%w: an answer of more than %d bytes", errProtocol, maxReply)
		}
		if c, s, ok := splitCode(line); ok && c == code {
			sep = s
			line = line[4:]
		}
		rep.lines = append(rep.lines, line)
	}
	return rep, nil
}

// splitCode takes the code of a line apart.
func splitCode(line string) (code int, sep byte, ok bool) {
	if len(line) == 3 {
		line += " " // some servers leave out the blank before an empty text
	}
	if len(line) < 4 || line[3] != ' ' && line[3] != '-' || line[0] < '1' || line[0] > '6' {
		return 0, 0, false
	}
	for _, c := range []byte(line[:3]) {
		if c < '0' || c > '9' {
			return 0, 0, false
		}
		code = code*10 + int(c-'0')
	}
	return code, line[3], true
}

// readLine reads up to a line end, which it takes off.
func readLine(r *bufio.Reader) (string, error) {
	var b []byte
	for {
		part, err := r.ReadSlice('\n')
		b = append(b, part...)
		if len(b) > maxLine {
			return "", fmt.Errorf("%w: a line of more than %d bytes", errProtocol, maxLine)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		s := strings.TrimRight(string(b), "\r\n\x00")
		if len(s) == 3 {
			s += " "
		}
		return s, nil
	}
}

// parsePASV gives the address of a reply to PASV: six numbers (RFC 959), in brackets or not.
func parsePASV(text string) (netip.AddrPort, error) {
	bad := fmt.Errorf("%w: no address in %q", errProtocol, printable(text))
	i := strings.IndexByte(text, '(') + 1
	if i == 0 {
		if i = strings.IndexAny(text, "0123456789"); i < 0 {
			return netip.AddrPort{}, bad
		}
	}
	end := i
	for end < len(text) && (text[end] >= '0' && text[end] <= '9' || text[end] == ',') {
		end++
	}
	fields := strings.Split(text[i:end], ",")
	if len(fields) != 6 {
		return netip.AddrPort{}, bad
	}
	var b [6]byte
	for i, f := range fields {
		n, err := strconv.ParseUint(f, 10, 8)
		if err != nil {
			return netip.AddrPort{}, bad
		}
		b[i] = byte(n)
	}
	port := uint16(b[4])<<8 | uint16(b[5])
	if port == 0 {
		return netip.AddrPort{}, bad
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), port), nil
}

// parseEPSV gives the port of a reply to EPSV (RFC 2428): (|||port|) with any delimiter.
func parseEPSV(text string) (uint16, error) {
	bad := fmt.Errorf("%w: no port in %q", errProtocol, printable(text))
	i, j := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if i < 0 || j < i+6 {
		return 0, bad
	}
	s := text[i+1 : j]
	fields := strings.Split(s[1:], s[:1])
	if len(fields) != 4 {
		return 0, bad
	}
	n, err := strconv.ParseUint(fields[2], 10, 16)
	if err != nil || n == 0 {
		return 0, bad
	}
	return uint16(n), nil
}

// parseFeatures gives the words of a reply to FEAT (RFC 2389) with what follows them.
func parseFeatures(r reply) map[string]string {
	f := map[string]string{}
	if len(r.lines) < 2 {
		return f
	}
	for _, l := range r.lines[1 : len(r.lines)-1] {
		word, rest, _ := strings.Cut(strings.TrimSpace(l), " ")
		f[strings.ToUpper(word)] = rest
	}
	return f
}
