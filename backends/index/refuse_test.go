package index

import (
	"context"
	"fmt"
	"testing"

	"tarn/backends"
)

// A scope that cannot be indexed and is made later does not get missed: the index answers no more.
func TestScopeThatIsRefused(t *testing.T) {
	ctx := context.Background()
	r := small(t)
	must(t, r.x.Close())
	r.opt.Refuse = func(ctx context.Context, root backends.DID) error {
		for in, err := range r.cat.Scopes(ctx) {
			if err != nil || in.Layout == backends.LayoutContents && (root.IsZero() || root.Scope == in.DID.Scope) {
				return fmt.Errorf("scope %s: %w", in.DID.Scope, backends.ErrNotSupported)
			}
		}
		return nil
	}
	r.open()
	r.build("/")
	r.is("/", "level=DL3", true)
	must(t, r.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "flat", Name: "/flat"}, Type: backends.Container, Mode: 0o755, Layout: backends.LayoutContents}))
	in := fileInfo("/s/x", 4)
	in.DID = backends.DID{Scope: "flat", Name: "x"}
	in.Generation = backends.GenerationOf(in.DID, in.Size, in.Checksums)
	must(t, r.Add(ctx, in, backends.Meta{"level": "DL3"}))
	r.is("/", "level=DL3", false)
}
