package control

import (
	"context"

	"tarn/backends/replication"
)

// transfers lists the copies that are to be made; the summary is the engine's state.
func (s *Service) transfers(_ context.Context, _ struct{}, out *stream) (any, error) {
	if s.Engine == nil {
		return nil, Fail(ErrNoDaemon, "", "copies are made by the daemon of a mount")
	}
	for _, t := range s.Engine.Transfers() {
		if err := out.item(TransferEntry{Transfer: t, Path: Text(t.DID.Name)}); err != nil {
			return nil, err
		}
	}
	return s.Engine.Status(), nil
}

// TransferEntry is one copy that a rule wants.
type TransferEntry struct {
	replication.Transfer
	Path Text `json:"path"`
}
