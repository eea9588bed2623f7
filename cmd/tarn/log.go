package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"

	"tarn/cmd/tarn/config"
)

// logger is what a command that opens the lake itself logs to: warnings with -v, more
// with -vv and -vvv.
func (s *session) logger() *slog.Logger {
	if s.t.verbose == 0 || s.t.quiet {
		return slog.New(slog.DiscardHandler)
	}
	level := slog.LevelWarn - slog.Level(4*(s.t.verbose-1))
	return slog.New(slog.NewTextHandler(s.t.err, &slog.HandlerOptions{Level: level}))
}

// daemonLog is the log that the lake file asks for, at file or w.
func daemonLog(c config.Log, w io.Writer, verbose int) *slog.Logger {
	level := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[c.Level]
	o := &slog.HandlerOptions{Level: level - slog.Level(4*verbose)}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// openLog opens a log file for appending.
func openLog(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

func goVersion() string { return runtime.Version() }
