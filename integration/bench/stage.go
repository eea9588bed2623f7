package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// stage lets the servers of the tests play here: it ends them, and a failure is an error.
type stage struct {
	testing.TB
	dir  string // of temporary folders
	ends []func()
}

// failed is what ends a scene.
type failed string

func (s *stage) Helper()                   {}
func (s *stage) Context() context.Context  { return context.Background() }
func (s *stage) Cleanup(f func())          { s.ends = append(s.ends, f) }
func (s *stage) Logf(string, ...any)       {}
func (s *stage) Log(...any)                {}
func (s *stage) Failed() bool              { return false }
func (s *stage) Fatal(a ...any)            { panic(failed(fmt.Sprint(a...))) }
func (s *stage) Fatalf(f string, a ...any) { panic(failed(fmt.Sprintf(f, a...))) }
func (s *stage) Skip(a ...any)             { s.Fatal(a...) }
func (s *stage) Skipf(f string, a ...any)  { s.Fatalf(f, a...) }
func (s *stage) Error(a ...any)            { step("%s", fmt.Sprint(a...)) }
func (s *stage) Errorf(f string, a ...any) { step(f, a...) }

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp(s.dir, "stage-")
	if err != nil {
		s.Fatal(err)
	}
	return dir
}

// play runs a scene.
func (s *stage) play(scene func()) (err error) {
	defer func() {
		switch why := recover().(type) {
		case nil:
		case failed:
			err = errors.New(string(why))
		default:
			panic(why)
		}
	}()
	scene()
	return nil
}

// end does what Cleanup was given, the last first.
func (s *stage) end() {
	for _, f := range slices.Backward(s.ends) {
		f()
	}
	s.ends = nil
}
