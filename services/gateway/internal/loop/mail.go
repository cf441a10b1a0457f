package loop

// command is something that is posted to a loop.
type command interface{ run(l *Loop) }

// carrier is a command that carries a connection, which must not be left open if the loop has ended.
type carrier interface{ drop() }

// post has a command run on the loop, soon. Commands of one poster run in their order. After the loop has ended they are
// dropped.
func (l *Loop) post(c command) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		if c, ok := c.(carrier); ok {
			c.drop()
		}
		return
	}
	l.mail = append(l.mail, c)
	if len(l.mail) == 1 {
		l.poll.wake() // with mu held, so that the poller cannot be closed meanwhile
	}
}

// serve is post for a command that is in a hurry: it runs here and now if the loop waits or gives way, which spares the way to its thread.
func (l *Loop) serve(c command) {
	if !l.own.TryLock() {
		l.post(c)
		return
	}
	defer l.own.Unlock()
	l.tick()
	l.readMail() // what came before
	c.run(l)
	l.flushReceipts()
}

func (l *Loop) readMail() {
	l.mu.Lock()
	mail := l.mail
	l.mail = nil
	l.mu.Unlock()
	for _, c := range mail {
		c.run(l)
	}
}
