package main

import (
	"tarn/backends/lake"
	"tarn/cmd/tarn/config"
)

// careOf is what the lake file says of the care of an RSE.
func careOf(r config.RSE) lake.Care {
	mark := func(m config.Mark) lake.Mark {
		if m.IsPart() {
			return lake.Mark{Part: float64(m)}
		}
		return lake.Mark{Bytes: int64(m)}
	}
	return lake.Care{
		High: mark(r.High), Low: mark(r.Low), Grace: r.Grace.D(), Scratch: r.Scratch, Shared: r.Shared,
		Drain: r.Drain, DrainTo: r.DrainTo,
	}
}
