package vfs

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Action is what the policy does with a process that would recall from tape.
type Action string

// The actions. Ask refuses until `tarn recalls allow PID` lets the process through.
const (
	Recall Action = "recall"
	Refuse Action = "refuse"
	Ask    Action = "ask"
)

// What an open of a nearline file with O_NONBLOCK gives: a handle that serves only
// bytes that are here, or EAGAIN.
const (
	NonBlockResident = "resident"
	NonBlockEAGAIN   = "eagain"
)

// Rule is one line of the recall policy; the first whose conditions all hold decides.
type Rule struct {
	Comm   []string // process names, empty: any
	UID    []uint32 // empty: any
	TTY    *bool    // has, or has not, a controlling terminal; nil: either
	Action Action
}

// Policy decides which processes may recall by reading. The zero value allows all.
type Policy struct {
	NonBlock string // default NonBlockResident
	Rules    []Rule
	// A process that, within BurstWindow, opened BurstFiles nearline files of which it
	// read less than BurstBelow bytes each (and not the whole), is held back.
	BurstFiles  int
	BurstWindow time.Duration
	BurstBelow  int64
}

// DefaultPolicy protects the tapes from what reads files without meaning them:
// indexers and type sniffers always, recursive searches when no person waits at a
// terminal, and whatever touches many files with tiny reads.
func DefaultPolicy() Policy {
	no := false
	return Policy{
		NonBlock: NonBlockResident,
		Rules: []Rule{
			{Comm: []string{"updatedb", "updatedb.mlocat", "updatedb.plocat", "mlocate", "plocate", "tracker-miner-f", "tracker-extract", "localsearch", "baloo_file", "baloo_file_extr",
				"tumblerd", "thunar", "nautilus", "dolphin", "clamscan", "clamd", "freshclam", "aide", "rkhunter", "restic", "file"}, Action: Refuse},
			{Comm: []string{"grep", "egrep", "fgrep", "rg", "ag", "ack", "ugrep"}, TTY: &no, Action: Refuse},
			{Action: Recall},
		},
		BurstFiles: 32, BurstWindow: time.Minute, BurstBelow: 1 << 20,
	}
}

// process is what the policy remembers of a process.
type process struct {
	comm    string
	tiny    []time.Time // ends of tiny reads of nearline files, within the window
	allowed bool
}

// Held is a process that was refused recalls.
type Held struct {
	PID   uint32    `json:"pid"`
	UID   uint32    `json:"uid"`
	Comm  string    `json:"comm"`
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	Count int       `json:"count"`
}

type policy struct {
	opt Policy
	now func() time.Time

	mu    sync.Mutex
	procs *lru.Cache[string, *process] // by pid and start time: a reused pid starts anew
	held  *lru.Cache[uint32, *Held]
}

func newPolicy(o Policy, now func() time.Time) *policy {
	if o.NonBlock == "" {
		o.NonBlock = NonBlockResident
	}
	procs, _ := lru.New[string, *process](4096) // fails on a size below 1 only
	held, _ := lru.New[uint32, *Held](256)
	return &policy{opt: o, now: now, procs: procs, held: held}
}

// procInfo is what /proc/PID/stat says.
type procInfo struct {
	comm  string
	tty   bool
	start string
}

func readProc(pid uint32) (procInfo, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procInfo{}, false
	}
	return parseStat(string(b))
}

// parseStat reads proc_pid_stat(5): the name stands in parentheses and may hold any
// byte; tty_nr is field 7, starttime field 22.
func parseStat(s string) (procInfo, bool) {
	i, j := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if i < 0 || j < i {
		return procInfo{}, false
	}
	f := strings.Fields(s[j+1:])
	if len(f) < 20 {
		return procInfo{}, false
	}
	tty, err := strconv.Atoi(f[4])
	if err != nil {
		return procInfo{}, false
	}
	return procInfo{comm: s[i+1 : j], tty: tty != 0, start: f[19]}, true
}

func key(pid uint32, p procInfo) string { return fmt.Sprintf("%d@%s", pid, p.start) }

// refuse gives the reason why the caller may not recall, or "".
func (p *policy) refuse(c Caller) string {
	if c.PID == 0 {
		return "" // the control API: a person asked
	}
	info, ok := readProc(c.PID)
	if !ok {
		return ""
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := p.get(key(c.PID, info), info.comm)
	if pr.allowed {
		return ""
	}
	why := ""
	switch p.action(info, c.UID) {
	case Refuse:
		why = fmt.Sprintf("the recall policy refuses %q (pid %d)", info.comm, c.PID)
		if !info.tty {
			why += " without a terminal"
		}
	case Ask:
		why = fmt.Sprintf("the recall policy asks before %q (pid %d) may recall", info.comm, c.PID)
	default:
		pr.prune(now, p.opt.BurstWindow)
		if p.opt.BurstFiles > 0 && len(pr.tiny) >= p.opt.BurstFiles {
			why = fmt.Sprintf("%q (pid %d) touched %d tape files with tiny reads within %v", info.comm, c.PID, len(pr.tiny), p.opt.BurstWindow)
		}
	}
	if why == "" {
		return ""
	}
	return p.hold(c, info, now, why)
}

// hold notes that c was refused, and gives the reason with its cure. Needs p.mu.
func (p *policy) hold(c Caller, info procInfo, now time.Time, why string) string {
	why += fmt.Sprintf("; stage what is needed with `tarn stage`, or let it through with `tarn recalls allow %d`", c.PID)
	h, ok := p.held.Get(c.PID)
	if !ok {
		h = &Held{PID: c.PID, UID: c.UID, Comm: info.comm, Since: now}
		p.held.Add(c.PID, h)
	}
	h.Why, h.Count = why, h.Count+1
	return why
}

// refuseNonBlock notes that c met the end of what is here of a file that it opened with
// O_NONBLOCK, and gives the words for it.
func (p *policy) refuseNonBlock(c Caller) string {
	info, _ := readProc(c.PID)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hold(c, info, p.now(), fmt.Sprintf("%q (pid %d) opened it with O_NONBLOCK, and the rest is on tape", info.comm, c.PID))
}

// allowed tells whether a person let c through.
func (p *policy) allowed(c Caller) bool {
	info, ok := readProc(c.PID)
	if !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pr, ok := p.procs.Get(key(c.PID, info))
	return ok && pr.allowed
}

// get needs p.mu.
func (p *policy) get(k, comm string) *process {
	pr, ok := p.procs.Get(k)
	if !ok {
		pr = &process{comm: comm}
		p.procs.Add(k, pr)
	}
	return pr
}

func (p *policy) action(info procInfo, uid uint32) Action {
	for _, r := range p.opt.Rules {
		if len(r.Comm) > 0 && !slices.Contains(r.Comm, info.comm) ||
			len(r.UID) > 0 && !slices.Contains(r.UID, uid) ||
			r.TTY != nil && *r.TTY != info.tty {
			continue
		}
		return r.Action
	}
	return Recall
}

func (pr *process) prune(now time.Time, window time.Duration) {
	i := 0
	for i < len(pr.tiny) && now.Sub(pr.tiny[i]) > window {
		i++
	}
	pr.tiny = pr.tiny[i:]
}

// released notes how much the caller read of a nearline file.
func (p *policy) released(c Caller, bytes, size int64) {
	if c.PID == 0 || p.opt.BurstFiles <= 0 || bytes >= size || bytes >= p.opt.BurstBelow {
		return
	}
	info, ok := readProc(c.PID)
	if !ok {
		return
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := p.get(key(c.PID, info), info.comm)
	pr.prune(now, p.opt.BurstWindow)
	if len(pr.tiny) <= p.opt.BurstFiles {
		pr.tiny = append(pr.tiny, now)
	}
}

// allow lets a process through from now on.
func (p *policy) allow(pid uint32) bool {
	info, ok := readProc(pid)
	if !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.get(key(pid, info), info.comm).allowed = true
	p.held.Remove(pid)
	return true
}

// list gives the processes that were refused, newest last.
func (p *policy) list() (out []Held) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.held.Values() {
		out = append(out, *h)
	}
	return out
}
