package loop

import "time"

// acceptPause is how long a loop accepts nothing after that failed: out of descriptors, as a rule, and the listening socket
// would say at once that it is ready again.
const acceptPause = 100 * time.Millisecond

// listen hands a listening socket to a loop.
type listen struct{ fd int }

func (c listen) run(l *Loop) {
	l.listener = c.fd
	if err := l.poll.add(c.fd, listenerToken|uint64(uint32(c.fd))); err != nil {
		l.log.Error("cannot watch the listening socket", "error", err)
	}
}

// unlisten closes a loop's listening socket: nobody is accepted any more, but those who have come already.
type unlisten struct{}

func (unlisten) run(l *Loop) {
	if l.listener != int(none) {
		l.accept()
	}
	l.closeListener()
}

func (l *Loop) closeListener() {
	if l.listener != int(none) {
		closeNative(l.listener)
		l.listener = int(none)
	}
}

// accept takes waiting connections off the listening socket.
func (l *Loop) accept() {
	for range acceptsPerTurn {
		fd, remote, ok, err := acceptNative(l.listener, l.set.userTimeout)
		if err != nil {
			l.set.metrics.acceptErrors.Inc()
			l.log.Error("cannot accept", "error", err)
			l.hear(false)
			l.deaf = l.clock.Since + acceptPause
			return
		}
		if !ok {
			return
		}
		l.begin(int32(fd), nil, TCP, remote)
	}
}

// hearAgain accepts again after the pause.
func (l *Loop) hearAgain() {
	if l.deaf == 0 || l.clock.Since < l.deaf {
		return
	}
	l.deaf = 0
	if l.listener != int(none) {
		l.hear(true)
	}
}

func (l *Loop) hear(on bool) {
	if err := l.poll.watch(l.listener, listenerToken|uint64(uint32(l.listener)), on, false); err != nil {
		l.log.Error("cannot watch the listening socket", "error", err)
	}
}
