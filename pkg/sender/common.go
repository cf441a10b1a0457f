package sender

import "sync"

// common is what a vendor's package has made of the messages of a job that differ in nothing but ID and Targets.
type common struct {
	mu         sync.Mutex
	credential Credential // guarded by mu: what it was made with; nil: nothing is made
	value      any        // guarded by mu
	err        error      // guarded by mu
}

// Common returns what build makes of a message, a part of the request or all of it. It is built once for all messages of a job
// that differ in nothing but ID and Targets: build must not look at those, and what it returns must not be changed. credential, a
// pointer, is that of the request; with another one it is built anew.
func Common[T any](m *Message, credential Credential, build func() (T, error)) (T, error) {
	if m.common == nil {
		return build()
	}
	m.common.mu.Lock()
	defer m.common.mu.Unlock()
	if m.common.credential != credential {
		m.common.value, m.common.err = build()
		m.common.credential = credential
	}
	return m.common.value.(T), m.common.err
}
