package sender

import "time"

// idleFor is how long a worker waits for more work before it ends.
const idleFor = time.Second

// workers are goroutines that make an app's requests, one after the other. They stay for a while: a request goes deep into
// net/http, and a goroutine for each would have to grow its stack again every time, which is a tenth of the whole cost.
type workers struct {
	slots chan struct{} // one token per worker
	work  chan func()
}

func newWorkers(most int) workers {
	return workers{slots: make(chan struct{}, most), work: make(chan func())}
}

// do has a worker do something. It waits while all are busy, those who wait take turns; once stop is closed it returns false.
func (w workers) do(stop <-chan struct{}, f func()) bool {
	select {
	case <-stop:
		return false
	default:
	}
	select {
	case w.work <- f: // one is idle
		return true
	default:
	}
	select {
	case <-stop:
		return false
	case w.work <- f:
	case w.slots <- struct{}{}:
		go w.run(f)
	}
	return true
}

// run does f, and then what else there is.
func (w workers) run(f func()) {
	defer func() { <-w.slots }()
	idle := time.NewTimer(idleFor)
	defer idle.Stop()
	for {
		f()
		f = nil // it is not kept alive while there is nothing to do
		idle.Reset(idleFor)
		select {
		case f = <-w.work:
		case <-idle.C:
			return
		}
	}
}
