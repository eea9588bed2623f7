package lake

import (
	"context"

	"tarn/backends"
)

// claim is the making of one copy at an RSE: of the file with this inode, or, where the catalogue has none, of the DID.
type claim struct {
	inode uint64
	did   backends.DID
	rse   string
}

func claimOf(in backends.Info, rse string) claim {
	c := claim{inode: in.Inode, rse: rse}
	if c.inode == 0 {
		c.did = in.DID
	}
	return c
}

// Claim waits until nobody else makes a copy of the file at the RSE, and lets nobody begin one until release
// is called. Two that do so at once would move the bytes twice, and the catalogue would know of one of them. Who
// has the claim looks at the replicas first: the one it waited for may have made the copy.
func (l *Lake) Claim(ctx context.Context, in backends.Info, rse string) (release func(), err error) {
	c := claimOf(in, rse)
	for {
		l.mu.Lock()
		other := l.claims[c]
		if other == nil {
			mine := make(chan struct{})
			l.claims[c] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.claims, c)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
