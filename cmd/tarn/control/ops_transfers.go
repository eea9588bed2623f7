package control

import (
	"context"

	"tarn/backends"
	"tarn/backends/replication"
)

// engine gives the one that makes the copies.
func (s *Service) engine() (*replication.Engine, error) {
	if err := s.elsewhere("transfers", "`tarn rule ls` shows how far each rule is"); err != nil {
		return nil, err
	}
	if s.Engine == nil {
		return nil, Fail(ErrNoDaemon, "", "copies are made by the daemon of a mount")
	}
	return s.Engine, nil
}

// transfers lists the copies that are to be made; the summary is the engine's state.
func (s *Service) transfers(_ context.Context, _ struct{}, out *stream) (any, error) {
	e, err := s.engine()
	if err != nil {
		return nil, err
	}
	for _, t := range e.Transfers() {
		if err := out.item(TransferEntry{Transfer: t, Path: Text(t.DID.Name)}); err != nil {
			return nil, err
		}
	}
	return e.Status(), nil
}

// TransferEntry is one copy that a rule wants.
type TransferEntry struct {
	replication.Transfer
	Path Text `json:"path"`
}

// TransfersRequest is about the copies of the files at and below some paths.
type TransfersRequest struct {
	Paths    []Text `json:"paths"`
	To       string `json:"to,omitempty"`       // cancel: to this RSE only
	Priority int    `json:"priority,omitempty"` // priority: 0 is that of the rules
}

// dids are those of paths, which need not be there any more.
func (s *Service) dids(ctx context.Context, paths []Text) (out []backends.DID, err error) {
	for _, p := range paths {
		n, err := s.node(ctx, string(p))
		if err != nil {
			return nil, err
		}
		d := s.didOf(n.Info(), n.Path())
		n.Forget(1)
		if d.IsZero() {
			return nil, Fail(ErrUsage, "name a scope or what is below it", "%s is no file and no directory of files", p.Quote())
		}
		out = append(out, d)
	}
	return out, nil
}

// eachTransfer calls f for the DID of each path and adds up what it did.
func (s *Service) eachTransfer(ctx context.Context, req TransfersRequest, f func(e *replication.Engine, d backends.DID) (int, error)) (any, error) {
	e, err := s.engine()
	if err != nil {
		return nil, err
	}
	dids, err := s.dids(ctx, req.Paths)
	if err != nil {
		return nil, err
	}
	var c Count
	for _, d := range dids {
		n, err := f(e, d)
		c.Done += int64(n)
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

func (s *Service) transfersRetry(ctx context.Context, req TransfersRequest, _ *stream) (any, error) {
	if len(req.Paths) > 0 {
		return s.eachTransfer(ctx, req, func(e *replication.Engine, d backends.DID) (int, error) { return e.Retry(ctx, d) })
	}
	e, err := s.engine()
	if err != nil {
		return nil, err
	}
	n, err := e.Retry(ctx)
	return Count{Done: int64(n)}, err
}

func (s *Service) transfersCancel(ctx context.Context, req TransfersRequest, _ *stream) (any, error) {
	if _, ok := s.Lake.RSE(req.To); req.To != "" && !ok {
		return nil, Fail(ErrUsage, "`tarn rse ls` shows the RSEs", "there is no RSE %s", req.To)
	}
	return s.eachTransfer(ctx, req, func(e *replication.Engine, d backends.DID) (int, error) { return e.Cancel(ctx, d, req.To) })
}

func (s *Service) transfersPriority(ctx context.Context, req TransfersRequest, _ *stream) (any, error) {
	if req.Priority < 0 || req.Priority > backends.HighestPriority {
		return nil, Fail(ErrUsage, "", "priority %d: want %d to %d, or 0 for that of the rules", req.Priority, backends.LowestPriority, backends.HighestPriority)
	}
	return s.eachTransfer(ctx, req, func(e *replication.Engine, d backends.DID) (int, error) { return e.Prioritise(ctx, d, req.Priority) })
}
