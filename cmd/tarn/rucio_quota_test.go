package main

import (
	"testing"

	"tarn/backends/catalogue/rucio/rest"
	"tarn/fs/vfs"
)

func TestQuotaOf(t *testing.T) {
	at := map[string]rest.AccountUsage{
		"FULL": {Limit: 100, Bytes: 120}, "SOME": {Limit: 100, Bytes: 40}, "MORE": {Limit: 1000, Bytes: rest.Unknown}, "ANY": {Limit: rest.Unknown, Bytes: 5}, "NONE": {Limit: 0},
	}
	for _, c := range []struct {
		rses   []string
		copies int
		want   vfs.Quota
	}{
		{[]string{"SOME"}, 1, vfs.Quota{Limit: 100, Left: 60}},
		{[]string{"FULL"}, 1, vfs.Quota{Limit: 100, Left: 0}},
		{[]string{"NONE"}, 1, vfs.Quota{}},
		{[]string{"FULL", "SOME", "MORE"}, 1, vfs.Quota{Limit: 1000, Left: 1000}},
		{[]string{"FULL", "SOME", "MORE"}, 2, vfs.Quota{Limit: 100, Left: 60}},
		{[]string{"FULL", "ANY"}, 1, vfs.NoQuota},
		{[]string{"FULL", "ANY"}, 2, vfs.Quota{Limit: 100, Left: 0}},
		{[]string{"STRANGE"}, 1, vfs.NoQuota},
		{[]string{"SOME"}, 2, vfs.NoQuota},
		{nil, 1, vfs.NoQuota},
	} {
		if got := quotaOf(c.rses, c.copies, at); got != c.want {
			t.Errorf("%d copies at %v: %+v, want %+v", c.copies, c.rses, got, c.want)
		}
	}
}
