package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/credential"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// probeSize is enough to tell a speed, and soon written.
const probeSize = 8 << 20

// probeStep is one row of `tarn rse test`.
type probeStep struct {
	Protocol string  `json:"protocol"`
	Step     string  `json:"step"`
	OK       bool    `json:"ok"`
	Seconds  float64 `json:"seconds"`
	Bytes    int64   `json:"bytes,omitempty"`
	Error    string  `json:"error,omitempty"`
}

func (s *session) rseTestCommand() *cli.Command {
	return &cli.Command{
		Name: "test", Usage: "try every protocol of an RSE with a probe file", ArgsUsage: "NAME",
		Description: "Writes a file of 8 MiB by each protocol that writes, reads it by ranges, compares its checksum, lists and\ndeletes it. It needs no mount and touches nothing else.",
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			file, _, err := s.pick()
			if err != nil {
				return err
			}
			cfg, err := s.load(file)
			if err != nil {
				return err
			}
			for _, r := range rsesOf(cfg) {
				if r.Name == c.Args().First() {
					return s.testRSE(c.Context, cfg.Here(r), cfg)
				}
			}
			return control.Fail(backends.ErrNotExist, "`tarn rse ls` lists them", "the lake has no RSE %s", c.Args().First())
		},
	}
}

func (s *session) testRSE(ctx context.Context, r config.RSE, cfg *config.Config) error {
	if r.Kind == config.TapeKind {
		return control.Fail(backends.ErrNotSupported, "", "%s is a tape library on this machine and has no protocols", r.Name)
	}
	ps := r.Protocols
	if len(ps) == 0 {
		ps = []config.Protocol{{URL: "file://" + r.Path}}
	}
	cred := credential.New(credential.Options{Getenv: os.Getenv, UID: os.Geteuid()})
	l := s.t.list("protocol", "step", "", ">time", ">speed", "")
	failed := 0
	for _, p := range ps {
		err := probeProtocol(ctx, r, p, cred, cfg.Checksums, func(x probeStep) error {
			word, speed := "ok", ""
			if !x.OK {
				word = "FAILED"
				failed++
			}
			if x.Bytes > 0 && x.OK && x.Seconds > 0 {
				speed = s.t.size(int64(float64(x.Bytes)/x.Seconds)) + "/s"
			}
			return l.add(x, x.Protocol, x.Step, word, fmt.Sprintf("%.0fms", x.Seconds*1000), speed, x.Error)
		})
		if err != nil {
			return errors.Join(err, l.end())
		}
	}
	if err := l.end(); err != nil {
		return err
	}
	if failed > 0 {
		return control.Fail(backends.ErrUnavailable, "", "%s of %s failed", count(int64(failed), "step"), r.Name)
	}
	return nil
}

// probeProtocol tries one protocol and tells of each step. What fails ends it, after the probe file is removed.
func probeProtocol(ctx context.Context, r config.RSE, p config.Protocol, cred *credential.Source, algs []string, tell func(probeStep) error) error {
	var told error
	step := func(name string, n int64, f func() error) bool {
		start := time.Now()
		err := f()
		x := probeStep{Protocol: p.URL, Step: name, OK: err == nil, Seconds: time.Since(start).Seconds(), Bytes: n}
		if err != nil {
			x.Error = err.Error()
		}
		told = errors.Join(told, tell(x))
		return err == nil && told == nil
	}
	var st backends.Storage
	if !step("open", 0, func() (err error) {
		log := slog.New(slog.DiscardHandler)
		if st, err = openProtocol(p, r, cred, algs, log, time.Now); err != nil {
			return err
		}
		st = again(p, st, log)
		_, _, err = st.Space(ctx)
		return err
	}) {
		if st != nil {
			told = errors.Join(told, st.Close())
		}
		return told
	}
	defer st.Close()
	if config.Priority(p.Write) == 0 || r.ReadOnly {
		step("list", 0, func() error {
			for _, err := range st.List(ctx, "") {
				return err
			}
			return nil
		})
		return told
	}
	data := make([]byte, probeSize)
	rand.Read(data) // never fails
	h := checksum.New(algs...)
	h.Write(data)
	dir := "tarn-probe"
	at := dir + "/" + strings.ToLower(rand.Text())
	ok := step("write", probeSize, func() error {
		u, err := st.Create(ctx, at, probeSize)
		if err != nil {
			return err
		}
		defer u.Abort()
		if _, err := u.Write(data); err != nil {
			return err
		}
		_, err = u.Commit(ctx, h.Sum())
		return err
	})
	if ok && config.Priority(p.Read) > 0 {
		probeReads(ctx, st, at, data, h.Sum(), step)
	}
	if ok && config.Priority(p.Delete) > 0 {
		step("delete", 0, func() error {
			if err := st.Remove(ctx, at); err != nil {
				return err
			}
			if err := st.Remove(ctx, dir); err != nil && !errors.Is(err, backends.ErrNotEmpty) && !errors.Is(err, backends.ErrNotExist) {
				return err
			}
			return nil
		})
	}
	return told
}

// probeReads reads the probe file in every way there is.
func probeReads(ctx context.Context, st backends.Storage, at string, data []byte, sums backends.Checksums, step func(string, int64, func() error) bool) {
	_ = step("read", int64(len(data)), func() error {
		o, err := st.Open(ctx, at)
		if err != nil {
			return err
		}
		defer o.Close()
		buf := make([]byte, 1<<20)
		for off := 0; off < len(data); off += len(buf) {
			n, err := o.ReadAt(ctx, buf, int64(off))
			if err != nil && err != io.EOF {
				return err
			}
			if !bytes.Equal(buf[:n], data[off:min(off+len(buf), len(data))]) {
				return fmt.Errorf("other bytes than were written at %d: %w", off, backends.ErrCorrupt)
			}
		}
		return nil
	}) && step("read 4 KiB", 4096, func() error {
		o, err := st.Open(ctx, at)
		if err != nil {
			return err
		}
		defer o.Close()
		b := make([]byte, 4096)
		off := len(data) - 5000
		if n, err := o.ReadAt(ctx, b, int64(off)); n < len(b) {
			return err
		}
		if !bytes.Equal(b, data[off:off+len(b)]) {
			return fmt.Errorf("other bytes than were written at %d: %w", off, backends.ErrCorrupt)
		}
		return nil
	}) && step("checksum", 0, func() error {
		c, err := st.Checksum(ctx, at)
		if errors.Is(err, backends.ErrNotSupported) {
			return nil // copies are read back then
		}
		if err != nil {
			return err
		}
		return sums.Match(c)
	}) && step("list", 0, func() error {
		for a, err := range st.List(ctx, at[:strings.LastIndexByte(at, '/')]) {
			if err != nil {
				return err
			}
			if a.Path == at && a.Size == int64(len(data)) {
				return nil
			}
		}
		return fmt.Errorf("the probe file is not listed: %w", backends.ErrNotExist)
	})
}
