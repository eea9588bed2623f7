package library

import "time"

// Stats are counters since Open.
type Stats struct {
	Mounts       int64         `json:"mounts"`
	Seeks        int64         `json:"seeks"`
	BytesRead    int64         `json:"bytes_read"`
	BytesWritten int64         `json:"bytes_written"`
	TapeTime     time.Duration `json:"tape_time"` // of all drives together, not divided by Speed
	Requests     int64         `json:"requests"`  // calls of Stage
	Staged       int64         `json:"staged"`    // files read from tape
	Failed       int64         `json:"failed"`    // recalls that did not work
	Migrated     int64         `json:"migrated"`  // files written to tape
	Evicted      int64         `json:"evicted"`   // copies that went to make room

	Files      int64 `json:"files"` // now, as the rest
	BufferUsed int64 `json:"buffer_used"`
	BufferSize int64 `json:"buffer_size"`
	Unmigrated int64 `json:"unmigrated"` // bytes that are in the buffer only
	Queued     int   `json:"queued"`     // recalls that wait or run
}

// Stats gives the counters.
func (l *Library) Stats() Stats {
	l.mu.Lock()
	defer l.unlock()
	s := l.stats
	s.BufferUsed, s.BufferSize, s.Queued, s.Unmigrated = l.used, l.o.BufferSize, len(l.recalls), l.unmigrated
	s.Files = l.files
	for _, f := range l.homeless {
		s.Unmigrated += f.size
	}
	return s
}
