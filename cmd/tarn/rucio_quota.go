package main

import (
	"context"
	"slices"

	"tarn/backends/catalogue/rucio/rest"
	"tarn/fs/vfs"
)

// quota is how much the account may still write: what Rucio's judge will look at when the rules of new files are made. An account of
// administrators has none.
func (o *opened) quota(ctx context.Context) (vfs.Quota, error) {
	account, _ := o.client.Account()
	if account == "" {
		var err error
		if account, err = o.client.WhoAmI(ctx); err != nil {
			return vfs.Quota{}, err
		}
	}
	if admin, err := o.client.IsAdmin(ctx, account); err != nil || admin {
		return vfs.NoQuota, err
	}
	list, err := o.client.AccountUsage(ctx, account)
	if err != nil {
		return vfs.Quota{}, err
	}
	at := map[string]rest.AccountUsage{}
	for _, u := range list {
		at[u.RSE] = u
	}
	least := vfs.NoQuota
	for _, w := range o.lake.WriteRules() {
		some, err := o.lake.Matching(w.Expression)
		if err != nil {
			return vfs.Quota{}, err
		}
		var names []string
		for _, r := range some {
			names = append(names, r.Name)
		}
		if q := quotaOf(names, w.Copies, at); q.Left < least.Left {
			least = q
		}
	}
	return least, nil
}

// quotaOf is that of a rule for copies at some of the RSEs: of the one that is the last to be chosen, if those with most left come
// first. Of an RSE where the account has nothing on record only the server knows.
func quotaOf(rses []string, copies int, at map[string]rest.AccountUsage) vfs.Quota {
	var all []vfs.Quota
	for _, r := range rses {
		u, ok := at[r]
		if !ok || u.Limit == rest.Unknown {
			all = append(all, vfs.NoQuota)
			continue
		}
		all = append(all, vfs.Quota{Limit: int64(u.Limit), Left: max(0, int64(u.Limit)-max(0, int64(u.Bytes)))})
	}
	slices.SortFunc(all, func(a, b vfs.Quota) int {
		switch {
		case a.Left > b.Left:
			return -1
		case a.Left < b.Left:
			return 1
		}
		return 0
	})
	if copies < 1 || copies > len(all) {
		return vfs.NoQuota // the rule cannot be fulfilled, which is told otherwise
	}
	return all[copies-1]
}

// quotaOrNil is what asks for the quota where there is one.
func (o *opened) quotaOrNil() func(context.Context) (vfs.Quota, error) {
	if o.rucio == nil {
		return nil
	}
	return o.quota
}
