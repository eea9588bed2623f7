package config

import (
	"slices"
	"testing"
)

func TestStackedIn(t *testing.T) {
	const text = "42 27 0:39 / /a rw,nosuid - fuse.tarn /l/lake.yaml rw,user_id=0\n" +
		"43 27 0:40 / /a\\040b rw,nosuid - fuse.tarn /l/lake.yaml rw,user_id=0\n" +
		"44 27 0:41 / /a rw,nosuid - fuse.tarn /m/lake.yaml rw,user_id=0\n" +
		"45 27 0:42 / /c rw - fuse.sshfs x rw\n" +
		"46 27 0:43 / /a rw shared:1 - fuse.tarnish x rw\n"
	for point, want := range map[string][]stacked{
		"/a": {{"39", true}, {"41", true}, {"43", false}}, "/a b": {{"40", true}}, "/c": {{"42", false}}, "/": nil,
	} {
		if got := stackedIn(text, point); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", point, got, want)
		}
	}
}
