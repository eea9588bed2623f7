package lake

import (
	"context"
	"fmt"

	"tarn/backends"
)

// claim is the making of one copy at an RSE: of the file with this inode, or, where the catalogue has none, of the DID.
type claim struct {
	inode uint64
	did   backends.DID
	rse   string
	past  string // the handle of one, and nothing else: it is undeleted, or deleted for good
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
	for {
		release, other := l.claim(claimOf(in, rse))
		if other == nil {
			return release, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// TryClaim is Claim that does not wait; ok is false when somebody else makes a copy of the file at the RSE, or deletes it.
func (l *Lake) TryClaim(in backends.Info, rse string) (release func(), ok bool) {
	release, other := l.claim(claimOf(in, rse))
	return release, other == nil
}

// TryClaimPast lets nobody else undelete a Past, or delete what it has, until release is called. Not waited for; who has
// it looks whether there still is such a Past.
func (l *Lake) TryClaimPast(handle string) (release func(), ok bool) {
	release, other := l.claim(claim{past: handle})
	return release, other == nil
}

// Undelete makes a Past current again, as backends.Versions does. ErrBusy while its copies are being deleted for good.
func (l *Lake) Undelete(ctx context.Context, handle string) error {
	release, ok := l.TryClaimPast(handle)
	if !ok {
		return fmt.Errorf("its grace period has ended, and it is being deleted: %w", backends.ErrBusy)
	}
	defer release()
	return l.o.Versions.Undelete(ctx, handle)
}

// claim takes a claim, or gives what is closed when the one who has it lets it go.
func (l *Lake) claim(c claim) (release func(), other chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other := l.claims[c]; other != nil {
		return nil, other
	}
	mine := make(chan struct{})
	l.claims[c] = mine
	return func() {
		l.mu.Lock()
		delete(l.claims, c)
		l.mu.Unlock()
		close(mine)
	}, nil
}
