package config

import (
	"reflect"
	"testing"

	"tarn/fs/vfs"
)

// The lake file's default policy is the one that package vfs argues for.
func TestDefaultPolicyIsThatOfVFS(t *testing.T) {
	p, want := Default("").Recalls.Policy, vfs.DefaultPolicy()
	got := vfs.Policy{NonBlock: p.Nonblock, BurstFiles: p.Burst.Files, BurstWindow: p.Burst.Window.D(), BurstBelow: int64(p.Burst.Below)}
	for _, r := range p.Rules {
		got.Rules = append(got.Rules, vfs.Rule{Comm: r.Comm, UID: r.UID, TTY: r.TTY, Action: vfs.Action(r.Action)})
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("config has\n%+v\nvfs has\n%+v", got, want)
	}
}
