package library

import (
	"cmp"
	"context"
	"slices"
	"time"

	"tarn/backends"
)

// estimated is where a recall stands.
type estimated struct {
	position int
	eta      time.Duration
}

// visit is the work on one cartridge: what has to be read, and since when it waits.
type visit struct {
	c     *cart
	reads []*file // by position
	since time.Time
}

// Plan tells what staging the paths would cost if nothing else were going on. Time is what a caller would
// wait, so it is divided by Speed. What does not exist is not counted.
func (l *Library) Plan(ctx context.Context, paths ...string) (p backends.RecallPlan, err error) {
	if err := l.begin(ctx, "plan", ""); err != nil {
		return p, err
	}
	defer l.unlock()
	seen := map[*file]bool{}
	byCart := map[*cart]*visit{}
	for _, path := range paths {
		if checkPath(path) != nil {
			continue
		}
		f, _ := l.find(path)
		if f == nil || seen[f] {
			continue
		}
		seen[f] = true
		p.Files++
		p.Bytes += f.size
		if f.buf != nil {
			p.Online++
			continue
		}
		if f.cart < 0 || l.carts[f.cart].f == nil {
			continue
		}
		c := l.carts[f.cart]
		if byCart[c] == nil {
			byCart[c] = &visit{c: c}
		}
		byCart[c].reads = append(byCart[c].reads, f)
	}
	var visits []*visit
	for _, v := range byCart {
		slices.SortFunc(v.reads, func(a, b *file) int { return cmp.Compare(a.pos, b.pos) })
		visits = append(visits, v)
		p.Tapes++
		if v.c.drive == nil {
			p.Mounts++
		}
	}
	slices.SortFunc(visits, func(a, b *visit) int { return cmp.Compare(a.c.n, b.c.n) })
	l.simulate(visits, func(_ *file, at time.Duration) { p.Time = max(p.Time, at) })
	return p, nil
}

// simulate lets the drives work through the visits: each takes what is in it first, then
// the next of the list when it is free. done is called for each file with its time from now.
func (l *Library) simulate(visits []*visit, done func(*file, time.Duration)) {
	type sim struct {
		at   time.Duration
		cart *cart
		head int64
	}
	drives := make([]*sim, len(l.stations))
	at := map[*cart]*sim{}
	for i, d := range l.stations {
		drives[i] = &sim{cart: d.cart, head: d.head}
		if d.cart != nil {
			at[d.cart] = drives[i]
		}
	}
	work := func(s *sim, v *visit) {
		if s.cart != v.c {
			if s.cart != nil {
				s.at += l.unmountTime(s.head)
			}
			s.at += l.mountTime()
			s.cart, s.head = v.c, 0
		}
		// Up from the head first, then what lies before it.
		from, _ := slices.BinarySearchFunc(v.reads, s.head, func(f *file, h int64) int { return cmp.Compare(f.pos, h) })
		for i := range v.reads {
			f := v.reads[(from+i)%len(v.reads)]
			s.at += l.over(l.o.Timing.Seek, f.pos-s.head) + l.o.Timing.transfer(f.size)
			s.head = f.pos + f.size
			done(f, time.Duration(float64(s.at)/l.o.Speed))
		}
	}
	rest := visits[:0:0]
	for _, v := range visits {
		if s := at[v.c]; s != nil {
			work(s, v)
			continue
		}
		rest = append(rest, v)
	}
	for _, v := range rest {
		work(slices.MinFunc(drives, func(a, b *sim) int { return cmp.Compare(a.at, b.at) }), v)
	}
}

// estimateOf gives where r stands now. The estimate of all is made again when something has changed.
func (l *Library) estimateOf(r *recall) estimated {
	if r.reading {
		return estimated{eta: time.Duration(float64(l.o.Timing.transfer(r.f.size)) / l.o.Speed)}
	}
	if l.estimate == nil || l.estimatedAt != l.changes {
		l.estimatedAt = l.changes
		l.estimate = l.estimateAll()
	}
	return l.estimate[r.f]
}

func (l *Library) estimateAll() map[*file]estimated {
	var visits []*visit
	for _, c := range l.carts {
		if len(c.recalls) == 0 {
			continue
		}
		v := &visit{c: c, since: c.recalls[0].since}
		for _, r := range c.recalls {
			v.reads = append(v.reads, r.f)
			if r.since.Before(v.since) {
				v.since = r.since
			}
		}
		visits = append(visits, v)
	}
	slices.SortFunc(visits, func(a, b *visit) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(len(b.reads), len(a.reads)))
	})
	type done struct {
		f  *file
		at time.Duration
	}
	var all []done
	l.simulate(visits, func(f *file, at time.Duration) { all = append(all, done{f, at}) })
	slices.SortStableFunc(all, func(a, b done) int { return cmp.Compare(a.at, b.at) })
	out := make(map[*file]estimated, len(all))
	for i, d := range all {
		out[d.f] = estimated{position: i + 1, eta: max(d.at, 1)}
	}
	return out
}
