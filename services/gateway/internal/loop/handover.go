package loop

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/halleypush/halley/pkg/ordinal"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

const (
	// quantum bounds one piece of a broadcast, in writes: 0.2 ms or so.
	quantum = 16
	// lookUps bounds a piece that finds sessions: likewise.
	lookUps = 1024
	// between is after how many writes of a piece broadcasts give way. With 16 direct messages beside a broadcast took a third longer, at
	// their slowest, and the broadcast a fifth less (make bench-gateway RUN=mixed).
	between = 2
	// directFor is how long after a direct message broadcasts give way to the threads that bring the next one. Where many gateways
	// share a processor that costs caches, so it is not done for nobody.
	directFor = time.Second
	// maxGiven is how much of each window a loop gives away: beside a thread that never rests, such as a collection of garbage, each
	// time takes until the kernel's next tick.
	window   = 50 * time.Millisecond
	maxGiven = window * 2 / 3
)

// Target is one delivery of a direct hand-over. Message is nil if its app is not known here, and so has no sessions.
type Target struct {
	App     uint32
	Ordinal uint64
	Session uint64
	Message *session.Message
	User    string
}

// Deliver hands direct pushes over and calls done with the results, in the order of the targets, from one of the loops
// or from here. Done must not block.
func (s *Set) Deliver(targets []Target, done func([]gatewayv1.DeliverResponse_Result)) {
	s.directAt.Store(int64(time.Since(s.begun)))
	d := &delivery{targets: targets, results: make([]gatewayv1.DeliverResponse_Result, len(targets)), done: done}
	byLoop := make([][]int32, len(s.loops))
	for i := range targets {
		id := s.home(targets[i].App, targets[i].Ordinal).id
		byLoop[id] = append(byLoop[id], int32(i))
	}
	d.left.Store(1)
	for id, list := range byLoop {
		if len(list) > 0 {
			d.left.Add(1)
			s.loops[id].serve(&deliverPart{d, list})
		}
	}
	d.finish()
}

type delivery struct {
	targets []Target
	results []gatewayv1.DeliverResponse_Result
	left    atomic.Int32
	done    func([]gatewayv1.DeliverResponse_Result)
}

func (d *delivery) finish() {
	if d.left.Add(-1) == 0 {
		d.done(d.results)
	}
}

type deliverPart struct {
	*delivery
	list []int32
}

func (p *deliverPart) run(l *Loop) {
	for _, n := range p.list {
		t := &p.targets[n]
		p.results[n] = l.deliver(t)
		l.tally.direct[p.results[n]]++
	}
	p.finish()
}

func (l *Loop) deliver(t *Target) gatewayv1.DeliverResponse_Result {
	i, ok := l.index.find(t.App, t.Ordinal)
	if !ok || t.Message == nil {
		return gatewayv1.DeliverResponse_NO_SESSION
	}
	c := l.conns.at(i)
	if c.session.Number != t.Session {
		return gatewayv1.DeliverResponse_NO_SESSION
	}
	before := c.session.InFlight()
	result := c.session.Deliver(&l.out, l.clock, t.Message, t.User, false)
	if c.session.InFlight() > before {
		l.set.traces.taken(c.session.Number, t.Message)
	}
	l.perform(i)
	switch result {
	case session.Taken, session.TakenUnconfirmed, session.Held:
		return gatewayv1.DeliverResponse_TAKEN
	case session.Full:
		return gatewayv1.DeliverResponse_FULL
	case session.Off:
		return gatewayv1.DeliverResponse_PERMISSION_OFF
	default: // not receiving, or expired: there is nothing to take
		return gatewayv1.DeliverResponse_NO_SESSION
	}
}

// SliceResult is what became of a slice: ordinals inside it.
type SliceResult struct {
	Sent, SentUnconfirmed, PermissionOff *roaring.Bitmap
}

// Slice hands an audience message over to every session of one slice that is in the bitmap, and calls done when all loops
// have tried all of theirs, from one of the loops.
func (s *Set) Slice(app, slice uint32, m *session.Message, members *roaring.Bitmap, done func(SliceResult)) {
	b := &broadcast{
		key: pushSlice{appSlice{app, slice}, m.ID}, message: m, members: members, done: done, begun: time.Now(),
		result: SliceResult{roaring.New(), roaring.New(), roaring.New()},
	}
	b.left.Store(int32(len(s.loops)))
	for _, l := range s.loops {
		l.post(&job{broadcast: b, result: SliceResult{roaring.New(), roaring.New(), roaring.New()}})
	}
}

// broadcast is one slice of an audience push on its way through all loops.
type broadcast struct {
	key     pushSlice
	message *session.Message
	members *roaring.Bitmap
	begun   time.Time
	left    atomic.Int32
	done    func(SliceResult)

	mu     sync.Mutex
	result SliceResult // guarded by mu
}

// job is one loop's part of a broadcast. It finds the sessions that are there and in the bitmap first, and then hands over to them in the
// order in which they lie in memory, which caches like best. Those that come later Pull it.
type job struct {
	*broadcast
	result  SliceResult
	unfound roaring.ManyIntIterable // ordinals that are still to be found; nil: all are
	wanted  []uint64                // a bit for each connection that is left to try
	word    int                     // where in wanted it goes on
}

func (j *job) run(l *Loop) {
	if p := l.index[j.key.appSlice]; p != nil {
		j.unfound = roaring.And(j.members, p.members).ManyIterator()
		j.wanted = make([]uint64, l.conns.len()/64)
	}
	l.jobs = append(l.jobs, j)
}

// find looks up where some of the sessions are.
func (j *job) find(l *Loop) {
	p := l.index[j.key.appSlice]
	n := j.unfound.NextMany(l.found[:])
	if p == nil || n == 0 {
		j.unfound = nil
		return
	}
	for _, low := range l.found[:n] {
		if i, ok := p.at[low]; ok && int(i/64) < len(j.wanted) {
			j.wanted[i/64] |= 1 << (i % 64)
		}
	}
}

// next takes the next connections to try, as many as there is room for.
func (j *job) next(room []int32) []int32 {
	n := 0
	for ; j.word < len(j.wanted); j.word++ {
		for left := &j.wanted[j.word]; *left != 0; *left &= *left - 1 {
			if n == len(room) {
				return room
			}
			room[n] = int32(j.word*64 + bits.TrailingZeros64(*left))
			n++
		}
	}
	return room[:n]
}

// wants reports whether a connection is a session that the broadcast is for. One that has ended since it was found may have made room for
// another.
func (j *job) wants(c *conn) bool {
	s := &c.session
	return c.state == stateLive && j.key.appSlice == appSlice{s.App.Number, ordinal.Slice(s.Ordinal)} && j.members.Contains(ordinal.Low(s.Ordinal))
}

// giveWay lets other threads have the processor, if direct messages come. Whoever brings the next one hands it over meanwhile (serve).
func (l *Loop) giveWay() {
	now := time.Now()
	if now.Sub(l.set.begun)-time.Duration(l.set.directAt.Load()) > directFor || !l.yielding.may(now) {
		return
	}
	l.readMail() // what nobody could hand over while the loop was at work
	begun := time.Now()
	l.own.Unlock()
	yield()
	l.own.Lock()
	l.yielding.given += time.Since(begun)
}

// yielding is how much of a window was given away.
type yielding struct {
	begun time.Time
	given time.Duration
}

// may says whether there is some of the window at a time left to be given away.
func (y *yielding) may(now time.Time) bool {
	if now.Sub(y.begun) >= window {
		*y = yielding{begun: now}
	}
	return y.given < maxGiven
}

// runJobs hands over one piece of the broadcasts, those of all in turn.
func (l *Loop) runJobs() {
	if len(l.jobs) == 0 {
		return
	}
	j := l.jobs[0]
	l.jobs = l.jobs[1:]
	if l.piece(j) {
		j.finish(l)
	} else {
		l.jobs = append(l.jobs, j)
	}
	if len(l.jobs) == 0 {
		l.jobs = nil
	}
}

// piece finds some sessions, or hands a message over to some, and reports whether all have been tried.
func (l *Loop) piece(j *job) bool {
	if j.unfound != nil {
		j.find(l)
		return false
	}
	h := l.memory.of(j.key, l.clock.Since)
	var room [quantum]int32
	these := j.next(room[:])
	l.warm(these)
	for n, i := range these {
		if n%between == 0 {
			l.giveWay()
		}
		if c := l.conns.at(i); j.wants(c) {
			l.broadcastTo(j, h, i, &c.session)
		}
	}
	return len(these) < quantum
}

// warm reads from sessions that come next, and from what they are about to be lent. Where there are too many for the caches the
// processor waits for all of them at once instead of for one after the other.
func (l *Loop) warm(these []int32) {
	sum := l.pool.Warm(len(these))
	for _, i := range these {
		c := l.conns.at(i)
		sum += int(c.session.Generation) + c.session.InFlight() + int(c.gen) // from its beginning to its end
	}
	l.warmed = sum
}

func (l *Loop) broadcastTo(j *job, h *handed, i int32, s *session.Session) {
	low := ordinal.Low(s.Ordinal)
	if h.sent.Contains(low) { // handed over before; whoever asks again has not heard
		j.result.Sent.Add(low)
		if step := h.proof(low); step != 0 {
			l.repeatReceipt(i, j.message, step)
			if h.unconfirmed.Contains(low) {
				j.result.SentUnconfirmed.Add(low)
			}
		}
		return
	}
	result := s.Deliver(&l.out, l.clock, j.message, "", true)
	switch result {
	case session.Taken:
		h.sent.Add(low)
		j.result.Sent.Add(low)
		l.set.traces.taken(s.Number, j.message)
	case session.TakenUnconfirmed:
		h.sent.Add(low)
		h.unconfirmed.Add(low)
		j.result.Sent.Add(low)
		j.result.SentUnconfirmed.Add(low)
	case session.Off:
		j.result.PermissionOff.Add(low)
	}
	l.tally.audience[result]++
	l.perform(i)
}

// repeatReceipt sends a receipt once more that the ledger seems not to have seen.
func (l *Loop) repeatReceipt(i int32, m *session.Message, step ledgerv1.Step) {
	c := l.conns.at(i)
	l.receipt(c, &session.Action{Kind: session.DoReceipt, Step: step, Message: m.ID, Audience: true})
}

// finish adds a loop's results to the broadcast's; the last one answers.
func (j *job) finish(l *Loop) {
	j.mu.Lock()
	j.broadcast.result.Sent.Or(j.result.Sent)
	j.broadcast.result.SentUnconfirmed.Or(j.result.SentUnconfirmed)
	j.broadcast.result.PermissionOff.Or(j.result.PermissionOff)
	j.mu.Unlock()
	if j.left.Add(-1) == 0 {
		l.set.metrics.slices.Observe(time.Since(j.begun).Seconds())
		j.done(j.broadcast.result)
	}
}

// Poke tells sessions that something happened to them, and calls done when all have been told.
func (s *Set) Poke(pokes []*gatewayv1.PokeRequest_Poke, done func()) {
	p := &poking{done: done}
	p.left.Store(int32(len(pokes)) + 1)
	for _, poke := range pokes {
		s.home(poke.GetApp(), poke.GetOrdinal()).post(&pokeOne{p, poke})
	}
	p.finish()
}

type poking struct {
	left atomic.Int32
	done func()
}

func (p *poking) finish() {
	if p.left.Add(-1) == 0 {
		p.done()
	}
}

type pokeOne struct {
	*poking
	poke *gatewayv1.PokeRequest_Poke
}

func (p *pokeOne) run(l *Loop) {
	defer p.finish()
	i, ok := l.index.find(p.poke.GetApp(), p.poke.GetOrdinal())
	if !ok || l.conns.at(i).session.Number != p.poke.GetSession() {
		return
	}
	s := &l.conns.at(i).session
	switch p.poke.GetAction() {
	case gatewayv1.PokeRequest_Poke_PULL:
		s.PullAll(&l.out)
	case gatewayv1.PokeRequest_Poke_SUPERSEDED:
		s.Supersede(&l.out)
	case gatewayv1.PokeRequest_Poke_GONE:
		s.Expel(&l.out)
	case gatewayv1.PokeRequest_Poke_PERMISSION_ON:
		s.SetPermission(false)
	case gatewayv1.PokeRequest_Poke_PERMISSION_OFF:
		s.SetPermission(true)
	}
	l.perform(i)
}
