// Package integration tests the whole of tarn: the program as users run it, mounted by
// a child process, on loopback and in temporary folders.
package integration
