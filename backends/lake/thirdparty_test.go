package lake_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

// servers is a rig whose disks have servers that copy between themselves: NEAR, FAR and THIRD.
type servers struct {
	*rig
	pNear, pFar, pThird *backendstest.Party
	third               *laketest.Storage
	dThird              *lake.RSE
}

func newServers(t *testing.T, more ...func(*lake.Options)) *servers {
	s := &servers{third: laketest.NewStorage()}
	s.pThird = &backendstest.Party{Storage: s.third}
	s.dThird = &lake.RSE{RSE: backends.RSE{Name: "THIRD", Kind: backends.DiskKind}, Storage: s.pThird, Distance: 9}
	s.rig = newRig(t, func(o *lake.Options) {
		s.pNear, s.pFar = &backendstest.Party{Storage: o.RSEs[0].Storage}, &backendstest.Party{Storage: o.RSEs[1].Storage}
		o.RSEs[0].Storage, o.RSEs[1].Storage = s.pNear, s.pFar
		o.RSEs = append(o.RSEs, s.dThird)
		for _, f := range more {
			f(o)
		}
	})
	return s
}

// copied copies in to THIRD, and wants it there.
func (s *servers) copied(in backends.Info, name string) backends.Replica {
	s.t.Helper()
	rep, err := s.Copy(ctx, in, s.dThird, nil)
	if err != nil || rep != s.replica(in, "THIRD") || rep.State != backends.Available || rep.Verified.IsZero() {
		s.t.Fatalf("%+v, %v", rep, err)
	}
	if !bytes.Equal(s.third.Get(rep.PFN), content(name)) {
		s.t.Error("wrong bytes")
	}
	return rep
}

// Where servers can copy between themselves, they do: the file is read and written once.
func TestCopyByServers(t *testing.T) {
	s := newServers(t)
	in := s.file("a", "NEAR", "FAR", "TAPE")
	var told []int64
	rep, err := s.Copy(ctx, in, s.dThird, func(n int64) { told = append(told, n) })
	if err != nil || rep != s.replica(in, "THIRD") || rep.State != backends.Available || rep.Verified.IsZero() || !bytes.Equal(s.third.Get(rep.PFN), content("a")) {
		t.Fatalf("%+v, %v", rep, err)
	}
	if s.pNear.Sent() != 1 || s.pFar.Sent() != 0 || s.near.Calls("open") != 1 || s.third.Calls("create") != 1 {
		t.Errorf("NEAR sent %d and was opened %d times, FAR sent %d, %d uploads", s.pNear.Sent(), s.near.Calls("open"), s.pFar.Sent(), s.third.Calls("create"))
	}
	if !slices.IsSorted(told) || len(told) == 0 || told[len(told)-1] != in.Size {
		t.Errorf("progress: %d", told)
	}
	if again, err := s.Copy(ctx, in, s.dThird, nil); err != nil || again != rep || s.pNear.Sent() != 1 {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// A small file is carried: what servers do around a copy takes longer.
func TestSmallFileIsCarried(t *testing.T) {
	size := int64(len(content("a")))
	for _, c := range []struct {
		least int64
		sent  int64
	}{{size, 1}, {size + 1, 0}} {
		s := newServers(t, func(o *lake.Options) { o.ThirdParty = c.least })
		s.copied(s.file("a", "NEAR"), "a")
		if s.pNear.Sent() != c.sent {
			t.Errorf("with %d bytes at least, NEAR sent %d of a file of %d", c.least, s.pNear.Sent(), size)
		}
	}
}

// The source is the best replica on disk that is AVAILABLE and can.
func TestWhoSends(t *testing.T) {
	for _, c := range []struct {
		name              string
		at                []string
		do                func(s *servers, in backends.Info)
		near, far, opened int // copies sent by NEAR and FAR, opened at NEAR
	}{
		{"the nearest", []string{"NEAR", "FAR"}, nil, 1, 0, 1},
		{"not a BAD one", []string{"NEAR", "FAR"}, func(s *servers, in backends.Info) { s.DeclareBad(ctx, in, "NEAR", errors.New("rotten")) }, 0, 1, 0},
		{"not a BAD one, though no other can", []string{"NEAR", "FAR"}, func(s *servers, in backends.Info) {
			s.DeclareBad(ctx, in, "NEAR", errors.New("rotten"))
			s.dFar.Storage = s.far
		}, 0, 0, 0},
		{"not one that is being copied", []string{"FAR"}, func(s *servers, in backends.Info) {
			s.cat.PutReplica(ctx, in.DID, in.Generation, backends.Replica{RSE: "NEAR", PFN: "x", State: backends.Copying})
		}, 0, 1, 0},
		{"one that can, before one that is nearer", []string{"NEAR", "FAR"}, func(s *servers, in backends.Info) { s.dNear.Storage = s.near }, 0, 1, 0},
		{"nobody can", []string{"NEAR"}, func(s *servers, in backends.Info) { s.dNear.Storage = s.near }, 0, 0, 1},
		{"the destination cannot", []string{"NEAR", "FAR"}, func(s *servers, in backends.Info) { s.dThird.Storage = s.third }, 0, 0, 1},
	} {
		s := newServers(t)
		in := s.file("a", c.at...)
		if c.do != nil {
			c.do(s, in)
		}
		s.copied(in, "a")
		if s.pNear.Sent() != int64(c.near) || s.pFar.Sent() != int64(c.far) || s.near.Calls("open") != c.opened {
			t.Errorf("%s: NEAR sent %d, FAR %d, NEAR was opened %d times", c.name, s.pNear.Sent(), s.pFar.Sent(), s.near.Calls("open"))
		}
	}
}

// A tape is never a source: its file is recalled, and carried.
func TestTapesDoNotSend(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		party := &backendstest.Party{Storage: r.tape.Storage}
		r.tTape.Storage = party
		far := &backendstest.Party{Storage: r.far}
		r.dFar.Storage = far
		for _, state := range []backends.Locality{backends.Nearline, backends.OnlineAndNearline} {
			in := r.file(string(state), "TAPE")
			r.tape.Set("TAPE/"+string(state), state)
			rep, err := r.Copy(ctx, in, r.dFar, nil)
			if err != nil || !bytes.Equal(r.far.Get(rep.PFN), content(string(state))) {
				t.Errorf("%s: %+v, %v", state, rep, err)
			}
		}
		if party.Sent() != 0 {
			t.Errorf("the tape sent %d files", party.Sent())
		}
		pass(time.Second)
	})
}

func TestEmptyFileIsNotSent(t *testing.T) {
	s := newServers(t)
	in := s.add(backends.Info{DID: did("ctao", "/ctao/empty"), Type: backends.File, Checksums: sums(nil)},
		backends.Replica{RSE: "NEAR", PFN: "gone", State: backends.Available})
	if rep, err := s.Copy(ctx, in, s.dThird, nil); err != nil || s.third.Calls("create") != 1 || s.pNear.Sent() != 0 {
		t.Errorf("%+v, %v, %d sent", rep, err, s.pNear.Sent())
	}
}

// What servers fail at is carried, and for a while they are not asked again.
func TestCopyThatServersFailAt(t *testing.T) {
	s := newServers(t)
	fails := true
	s.pNear.Meanwhile = func(context.Context, string) error {
		if fails {
			return laketest.ErrDown
		}
		return nil
	}
	s.copied(s.file("a", "NEAR"), "a")
	if s.pNear.Sent() != 1 || s.near.Calls("open") != 2 {
		t.Errorf("%d sent, %d opened", s.pNear.Sent(), s.near.Calls("open"))
	}
	fails = false
	s.copied(s.file("b", "NEAR"), "b")
	if s.pNear.Sent() != 1 {
		t.Error("the pair that has just failed was asked again")
	}
	s.copied(s.file("c", "FAR"), "c")
	if s.pFar.Sent() != 1 {
		t.Error("another pair was not asked")
	}
}

// After some minutes they are asked again.
func TestServersAreAskedAgain(t *testing.T) {
	var now time.Time
	s := &servers{third: laketest.NewStorage()}
	s.rig = newRig(t, func(o *lake.Options) {
		s.pNear, s.pFar = &backendstest.Party{Storage: o.RSEs[0].Storage}, &backendstest.Party{Storage: o.RSEs[1].Storage}
		o.RSEs[0].Storage, o.RSEs[1].Storage = s.pNear, s.pFar
		now = time.Now()
		o.Now = func() time.Time { return now }
	})
	s.pNear.Meanwhile = func(context.Context, string) error { return laketest.ErrDown }
	for _, c := range []struct {
		wait time.Duration
		sent int64
	}{{0, 1}, {4 * time.Minute, 1}, {2 * time.Minute, 2}} {
		now = now.Add(c.wait)
		if _, err := s.Copy(ctx, s.file(c.wait.String(), "NEAR"), s.dFar, nil); err != nil || s.pNear.Sent() != c.sent {
			t.Errorf("after %v: %d sent, %v", c.wait, s.pNear.Sent(), err)
		}
	}
}

// What a broken server has left at the destination is not taken for the file.
func TestHalfMadeCopy(t *testing.T) {
	s := newServers(t)
	in := s.file("a", "NEAR")
	half := func(context.Context, string) error {
		s.third.Put(s.replica(in, "THIRD").PFN, []byte("half"))
		return laketest.ErrDown
	}
	s.pNear.Meanwhile = half
	rep := s.copied(in, "a")
	if !slices.Equal(s.third.Paths(), []string{rep.PFN}) {
		t.Errorf("left %v", s.third.Paths())
	}
	// Where it is not certain that it is gone, nothing is carried, and the record stays.
	s = newServers(t)
	in = s.file("a", "NEAR")
	s.pNear.Meanwhile = half
	s.third.Fail(func(op, _ string) error {
		if op == "remove" {
			return laketest.ErrDown
		}
		return nil
	})
	if _, err := s.Copy(ctx, in, s.dThird, nil); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "not certain") {
		t.Error(err)
	}
	begun := s.replica(in, "THIRD")
	if begun.State != backends.Copying || s.near.Calls("open") != 1 {
		t.Errorf("%+v, NEAR opened %d times", begun, s.near.Calls("open"))
	}
	s.third.Fail(nil)
	s.pNear.Meanwhile = nil
	if rep := s.copied(in, "a"); rep.PFN != begun.PFN || s.pNear.Sent() != 2 {
		t.Errorf("%+v, %d sent", rep, s.pNear.Sent())
	}
}

// A copy whose answer was lost is there.
func TestLostAnswer(t *testing.T) {
	s := newServers(t)
	s.pNear.Answer = func(string, error) error { return laketest.ErrDown }
	s.copied(s.file("a", "NEAR"), "a")
	if s.near.Calls("open") != 1 || s.third.Calls("create") != 1 {
		t.Errorf("NEAR opened %d times, %d uploads", s.near.Calls("open"), s.third.Calls("create"))
	}
}

func rotten(name string) []byte {
	rot := content(name)
	rot[3] ^= 1
	return rot
}

// A source is declared BAD when that is proved: by its own checksum or size, or by its bytes when they are carried.
func TestWhoIsToBlame(t *testing.T) {
	for _, c := range []struct {
		name  string
		knows []string // checksums of NEAR
		at    []string
		put   []byte // at NEAR; nil: nothing
		near  backends.ReplicaState
		far   int64 // copies sent by FAR
		err   error
	}{
		{"its own checksum", []string{"adler32"}, []string{"NEAR", "FAR"}, rotten("a"), backends.Bad, 1, nil},
		{"its size", nil, []string{"NEAR", "FAR"}, []byte("short"), backends.Bad, 1, nil},
		{"it is not there", nil, []string{"NEAR", "FAR"}, nil, backends.Bad, 1, nil},
		{"its bytes", nil, []string{"NEAR", "FAR"}, rotten("a"), backends.Bad, 0, nil},
		{"the only one, by its checksum", []string{"adler32"}, []string{"NEAR"}, rotten("a"), backends.Bad, 0, backends.ErrLost},
		{"the only one, by its bytes", nil, []string{"NEAR"}, rotten("a"), backends.Bad, 0, backends.ErrLost},
	} {
		s := newServers(t)
		s.near.Checksums = c.knows
		in := s.file("a", c.at...)
		if c.put == nil {
			s.near.Remove(ctx, "NEAR/a")
		} else {
			s.near.Put("NEAR/a", c.put)
		}
		_, err := s.Copy(ctx, in, s.dThird, nil)
		if !errors.Is(err, c.err) || s.replica(in, "NEAR").State != c.near || s.pNear.Sent() != 1 || s.pFar.Sent() != c.far {
			t.Errorf("%s: %v, NEAR %+v sent %d, FAR %d", c.name, err, s.replica(in, "NEAR"), s.pNear.Sent(), s.pFar.Sent())
		}
		if c.err == nil && !bytes.Equal(s.third.Get(s.replica(in, "THIRD").PFN), content("a")) {
			t.Errorf("%s: wrong bytes", c.name)
		}
		if c.err != nil && (len(s.third.Paths()) > 0 || s.replica(in, "THIRD").RSE != "") {
			t.Errorf("%s: left %v", c.name, s.third.Paths())
		}
	}
}

// Bytes that were right when they were sent are no reason to blame their source.
func TestDestinationIsToBlame(t *testing.T) {
	for _, c := range []struct {
		knows  []string
		proves bool
	}{{nil, false}, {[]string{"adler32"}, false}, {[]string{"adler32"}, true}} {
		s := newServers(t)
		s.near.Checksums, s.third.Checksums, s.third.Proves = c.knows, c.knows, c.proves
		in := s.file("a", "NEAR", "FAR")
		s.third.Lie = func(b []byte) []byte { b[7] ^= 1; return b }
		if _, err := s.Copy(ctx, in, s.dThird, nil); !errors.Is(err, backends.ErrCorrupt) {
			t.Error(err)
		}
		for _, rse := range []string{"NEAR", "FAR"} {
			if x := s.replica(in, rse); x.State != backends.Available {
				t.Errorf("%s was blamed: %+v", rse, x)
			}
		}
		if len(s.third.Paths()) > 0 || s.replica(in, "THIRD").RSE != "" {
			t.Errorf("left %v, %+v", s.third.Paths(), s.replica(in, "THIRD"))
		}
	}
}

// What is wrong on the way only is sent once more, by here.
func TestWrongOnTheWay(t *testing.T) {
	s := newServers(t)
	s.near.Checksums = []string{"adler32"}
	s.pNear.Answer = func(string, error) error { s.third.Remove(ctx, s.third.Paths()[0]); return backends.ErrCorrupt }
	in := s.file("a", "NEAR")
	s.copied(in, "a")
	if x := s.replica(in, "NEAR"); x.State != backends.Available {
		t.Errorf("blamed: %+v", x)
	}
}

// What the receiving storage has proved it is not asked again, and what it has not, once. A proof by a digest that is not known
// of the file is none.
func TestCopyIsProvedOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		proves bool
		want   backends.Checksums
		asked  int
		read   bool
	}{
		{"proved", true, sums(content("a")), 0, false},
		{"not proved", false, sums(content("a")), 1, false},
		{"proved by another digest", true, backends.Checksums{SHA256: sums(content("a")).SHA256}, 1, true},
	} {
		s := newServers(t)
		s.third.Checksums, s.third.Proves = []string{"adler32"}, c.proves
		s.near.Put("NEAR/a", content("a"))
		in := s.add(backends.Info{DID: did("ctao", "/ctao/a"), Type: backends.File, Size: int64(len(content("a"))), Checksums: c.want},
			backends.Replica{RSE: "NEAR", PFN: "NEAR/a", State: backends.Available})
		s.copied(in, "a")
		if n, read := s.third.Calls("checksum"), s.third.Calls("read") > 0; n != c.asked || read != c.read || s.pNear.Sent() != 1 {
			t.Errorf("%s: asked %d times, read back %v, sent %d", c.name, n, read, s.pNear.Sent())
		}
	}
}

// Where there is no room, carrying the bytes is of no use.
func TestCopyToAFullStorage(t *testing.T) {
	s := newServers(t)
	s.pNear.Meanwhile = func(context.Context, string) error { return backends.ErrNoSpace }
	in := s.file("a", "NEAR")
	if _, err := s.Copy(ctx, in, s.dThird, nil); !errors.Is(err, backends.ErrNoSpace) || s.near.Calls("open") != 1 {
		t.Errorf("%v, NEAR opened %d times", err, s.near.Calls("open"))
	}
	if s.replica(in, "THIRD").RSE != "" {
		t.Error("the record stays")
	}
}

// While it runs others can hear of it; when it is called off or tarn dies its record stays, and the next one goes on.
func TestCopyByServersIsCalledOff(t *testing.T) {
	s := newServers(t)
	in := s.file("a", "NEAR")
	run, cancel := context.WithCancel(ctx)
	var pfn string
	s.pNear.Meanwhile = func(context.Context, string) error {
		x := s.replica(in, "THIRD")
		if pfn = x.PFN; x.State != backends.Copying || pfn == "" {
			t.Errorf("bytes move before that is on record: %+v", x)
		}
		if from := s.Sending(in, "THIRD"); from != "NEAR" || s.Sending(in, "FAR") != "" {
			t.Errorf("%q sends", from)
		}
		cs, err := s.Explain(ctx, in)
		if i := slices.IndexFunc(cs, func(c lake.Candidate) bool { return c.RSE == "THIRD" }); err != nil || i < 0 || cs[i].Reason != "is being copied by third party, from NEAR" {
			t.Errorf("%+v, %v", cs, err)
		}
		cancel()
		return nil
	}
	if _, err := s.Copy(run, in, s.dThird, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if x := s.replica(in, "THIRD"); x.State != backends.Copying || x.PFN != pfn || len(s.third.Paths()) != 0 || s.near.Calls("open") != 1 {
		t.Errorf("%+v, files %v, NEAR opened %d times", x, s.third.Paths(), s.near.Calls("open"))
	}
	if from := s.Sending(in, "THIRD"); from != "" {
		t.Errorf("%s still sends", from)
	}
	s.pNear.Meanwhile = nil
	if rep := s.copied(in, "a"); rep.PFN != pfn || s.pNear.Sent() != 2 {
		t.Errorf("%+v, %d sent", rep, s.pNear.Sent())
	}
	// Between the copy and its registration.
	in = s.file("b", "NEAR")
	puts := 0
	s.cat.Fail(func(op string, _ backends.DID) error {
		if op == "putreplica" {
			if puts++; puts > 1 {
				return laketest.ErrDown
			}
		}
		return nil
	})
	if _, err := s.Copy(ctx, in, s.dThird, nil); !errors.Is(err, backends.ErrUnavailable) {
		t.Fatal(err)
	}
	s.cat.Fail(nil)
	begun := s.replica(in, "THIRD")
	if rep := s.copied(in, "b"); rep.PFN != begun.PFN || s.pNear.Sent() != 3 {
		t.Errorf("%+v, %d sent", rep, s.pNear.Sent())
	}
}

// A content that was replaced meanwhile leaves nothing.
func TestCopyByServersOfWhatIsReplaced(t *testing.T) {
	s := newServers(t)
	in := s.file("a", "NEAR")
	s.pNear.Meanwhile = func(context.Context, string) error {
		return s.cat.Add(ctx, backends.Info{DID: in.DID, Type: backends.File, Size: 1, Checksums: sums([]byte("x"))}, nil)
	}
	if _, err := s.Copy(ctx, in, s.dThird, nil); !errors.Is(err, backends.ErrStale) || len(s.third.Paths()) != 0 {
		t.Errorf("%v, left %v", err, s.third.Paths())
	}
}
