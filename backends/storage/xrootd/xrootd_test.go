package xrootd

import (
	"errors"
	"strings"
	"testing"

	"tarn/backends"
)

func TestURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"root://host//data/x":       "root://host:1094//data/x",
		"root://host/data/x/":       "root://host:1094//data/x",
		"roots://host:1095//a//b":   "roots://host:1095//a/b",
		"root://host":               "root://host:1094//",
		"root://[::1]:1//x":         "root://[::1]:1//x",
		"root://ada:hunter2@host/x": "user or password",
		"root://ada@host/x":         "user or password",
		"root:///x":                 "no host",
		"http://host/x":             "root or roots",
		"root://host/x?authz=y":     "more than a folder",
		"root://host/x%0ay":         "cannot carry",
		"root://host/.tarn-uploads": "reserved",
		"root://ho st/x":            "cannot be read",
	} {
		end, err := parseURL(raw)
		if err != nil {
			if !errors.Is(err, backends.ErrName) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v, want %s", raw, err, want)
			}
			continue
		}
		if end.String() != want {
			t.Errorf("%s is %s, want %s", raw, end, want)
		}
	}
}
