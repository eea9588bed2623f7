//go:build xrdcl && cgo

package xrootd

import (
	"strings"
	"testing"
)

func TestSpaceAnswers(t *testing.T) {
	for text, want := range map[string][2]int64{
		"oss.cgroup=public&oss.space=100&oss.free=40&oss.maxf=30&oss.used=60&oss.quota=-1\x00": {100, 40},
		"oss.space=100&oss.free=40&oss.used=60&oss.quota=70":                                   {70, 10},
		"oss.space=100&oss.free=40&oss.used=60&oss.quota=50":                                   {50, 0},
		"oss.space=10&oss.free=40":                                                             {10, 10},
		"oss.space=-1&oss.free=40":                                                             {0, 0},
		"oss.space=100":                                                                        {0, 0},
		"":                                                                                     {0, 0},
	} {
		if total, free, ok := parseSpace(text); total != want[0] || free != want[1] || ok != (want[0] > 0) {
			t.Errorf("%q: %d, %d, %v", text, total, free, ok)
		}
	}
}

func FuzzEntries(f *testing.F) {
	f.Add("51 4096 1700000000 a b\x00- - - c\x00")
	f.Fuzz(func(t *testing.T, text string) {
		es, err := parseEntries(text)
		for _, e := range es {
			if e.name == "" || strings.ContainsRune(e.name, 0) || e.size < 0 {
				t.Errorf("%+v", e)
			}
		}
		if err != nil && es != nil {
			t.Errorf("both entries and %v", err)
		}
	})
}
