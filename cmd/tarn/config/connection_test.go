package config

import "testing"

func TestConnectionIn(t *testing.T) {
	const text = "42 27 0:39 / /a rw,nosuid - fuse.tarn /l/lake.yaml rw,user_id=0\n" +
		"43 27 0:40 / /a\\040b rw,nosuid - fuse.tarn /l/lake.yaml rw,user_id=0\n" +
		"44 27 0:41 / /a rw,nosuid - fuse.tarn /m/lake.yaml rw,user_id=0\n" +
		"45 27 0:42 / /c rw - fuse.sshfs x rw\n"
	for point, want := range map[string]string{"/a": "41", "/a b": "40", "/c": "", "/": ""} {
		if got, ok := connectionIn(text, point); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v; want %q", point, got, ok, want)
		}
	}
}
