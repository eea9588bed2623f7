// Command tarn mounts a datalake and works on it: one binary that is the daemon, the
// tool box and the demonstration.
//
//	tarn init --demo lake && tarn mount lake mnt && ls mnt
//
// This package holds flags, wiring and output. Here and nowhere else stand the names
// of implementations (open.go).
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	// Not os.Exit: in a program built with -race it runs the C++ destructors of libXrdCl and of OpenSSL, while threads
	// of theirs are at work, and that crashes.
	syscall.Exit(status(ctx, run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)))
}

// status tells the user of err, and gives the exit status.
func status(ctx context.Context, err error) int {
	switch {
	case errors.Is(err, syscall.EPIPE):
		return 0 // `tarn ls | head`: whoever reads has enough
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return 130 // as a shell reports an interrupted command
	}
	return report(os.Stderr, err, slices.Contains(os.Args, "--json"))
}

// run does what args ask for. It is main without the process: tests call it.
func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) error {
	t := &terminal{in: in, out: out, err: errw, now: time.Now}
	app := newApp(t)
	if len(args) > 0 && strings.HasPrefix(filepath.Base(args[0]), "mount.") {
		args = fromMountHelper(args)
	}
	if len(args) > 0 && args[len(args)-1] == completionFlag {
		return app.RunContext(ctx, args)
	}
	ordered, err := arrange(app, args)
	if err != nil {
		return err
	}
	return app.RunContext(ctx, ordered)
}
