package loop

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/session"
)

const (
	// outsideBuffer is how much is read at a time from a connection that is not a native socket.
	outsideBuffer = 4 << 10
	// writeWithin is how long such a connection may take for one write; longer, and it is closed.
	writeWithin = 30 * time.Second
)

// outside is the socket of a connection that is not native: one that another server took and handed over, or any on another system than
// Linux. A goroutine
// reads it and hands what it read to the loop, one piece at a time; another writes while there is something to write. Neither
// keeps the loop waiting.
type outside struct {
	conn net.Conn
	// running counts the goroutines, so that a stop can wait for last words.
	running *sync.WaitGroup
	// ref is where the connection is now. It changes only while the reader waits for next.
	ref atomic.Pointer[Ref]
	// first is what was read of it already.
	first []byte
	// next lets the reader go on after the loop has used the last piece.
	next chan struct{}

	mu      sync.Mutex
	out     []byte // guarded by mu
	writing bool   // guarded by mu: the writer runs
	closing bool   // guarded by mu: close once everything is written
}

func newOutside(conn net.Conn, first []byte, running *sync.WaitGroup) *outside {
	return &outside{conn: conn, first: first, running: running, next: make(chan struct{}, 1)}
}

// read hands pieces to the loop until the peer is gone or the connection closed.
func (o *outside) read() {
	if len(o.first) > 0 && !o.hand(o.first) {
		return
	}
	o.first = nil
	buf := make([]byte, outsideBuffer)
	for {
		n, err := o.conn.Read(buf)
		if n > 0 && !o.hand(bytes.Clone(buf[:n])) {
			return
		}
		if err != nil {
			r := o.ref.Load()
			r.loop.post(&arrived{ref: *r, over: true})
			return
		}
	}
}

// hand gives a piece to the loop and waits until it is used; false: the connection is closed.
func (o *outside) hand(piece []byte) bool {
	r := o.ref.Load()
	r.loop.post(&arrived{ref: *r, data: piece})
	_, ok := <-o.next
	return ok
}

// letRead lets the reader of a connection that is not native read the next piece.
func (c *conn) letRead() {
	if c.rest != nil && c.rest.outside != nil {
		select {
		case c.rest.outside.next <- struct{}{}:
		default: // it was let go already
		}
	}
}

// arrived is a piece that a reader has read, or its end.
type arrived struct {
	ref  Ref
	data []byte
	over bool
}

func (a *arrived) run(l *Loop) {
	c := l.get(a.ref)
	switch {
	case c == nil:
	case a.over:
		l.close(a.ref.index, session.ByPeer)
	default:
		l.tally.bytesIn += len(a.data)
		if !l.metered(a.ref.index, len(a.data)) {
			return
		}
		l.take(a.ref.index, a.data)
		// One that is being admitted may have to move; its next piece must not be on its way here then.
		if c.gen == a.ref.gen && c.state != stateAdmitting && !c.stalled {
			c.letRead()
		}
	}
}

// write queues bytes and returns how many wait now. failed is called once, from the writer, if they cannot be written.
func (o *outside) write(data []byte, failed func()) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.out = append(o.out, data...)
	if !o.writing {
		o.writing = true
		o.running.Go(func() { o.drain(failed) })
	}
	return len(o.out)
}

// drain writes until nothing is left.
func (o *outside) drain(failed func()) {
	for {
		o.mu.Lock()
		data := o.out
		o.out = nil
		if len(data) == 0 {
			o.writing = false
			closing := o.closing
			o.mu.Unlock()
			if closing {
				_ = o.conn.Close() // over in any case
			}
			return
		}
		within := writeWithin
		if o.closing {
			within = lingerFor
		}
		err := o.conn.SetWriteDeadline(time.Now().Add(within))
		o.mu.Unlock()
		if err == nil {
			_, err = o.conn.Write(data)
		}
		if err != nil {
			_ = o.conn.Close() // over in any case
			failed()
			return
		}
	}
}

// discard closes the connection, of which no loop knows any more.
func (o *outside) discard() {
	close(o.next)
	go func() { _ = o.conn.Close() }() // not counted: nobody waits for a loop that has ended
}

// close closes the connection after what waits is written, and ends the reader. It does not wait for that: to close TLS and
// WebSocket takes words that a peer may be slow to take.
func (o *outside) close() {
	close(o.next)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closing = true
	if o.writing {
		_ = o.conn.SetWriteDeadline(time.Now().Add(lingerFor)) // fails only if it is closed
		return
	}
	o.running.Go(func() { _ = o.conn.Close() }) // over in any case
}
