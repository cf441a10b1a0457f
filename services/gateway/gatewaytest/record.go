package gatewaytest

import (
	"sync"
	"testing"
	"time"
)

// Record is a list of what happened, which grows while a test waits on it.
type Record[T any] struct {
	mu    sync.Mutex
	items []T           // guarded by mu
	grown chan struct{} // guarded by mu; closed when items grows
}

func newRecord[T any]() *Record[T] { return &Record[T]{grown: make(chan struct{})} }

func (r *Record[T]) add(items ...T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = append(r.items, items...)
	close(r.grown)
	r.grown = make(chan struct{})
}

func (r *Record[T]) look() ([]T, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.items[:len(r.items):len(r.items)], r.grown
}

// All returns what happened so far.
func (r *Record[T]) All() []T {
	items, _ := r.look()
	return items
}

// Len returns how much happened so far.
func (r *Record[T]) Len() int { return len(r.All()) }

// Await waits until enough says so of what happened, and returns it.
func (r *Record[T]) Await(t testing.TB, what string, enough func([]T) bool) []T {
	t.Helper()
	deadline := time.After(Patience)
	for {
		items, grown := r.look()
		if enough(items) {
			return items
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("never happened: %s; this did: %v", what, items)
		}
	}
}

// AwaitOne waits until something happens for which is returns true, and returns the first such thing.
func (r *Record[T]) AwaitOne(t testing.TB, what string, is func(T) bool) T {
	t.Helper()
	var found T
	r.Await(t, what, func(items []T) bool {
		for _, item := range items {
			if is(item) {
				found = item
				return true
			}
		}
		return false
	})
	return found
}

// AwaitLen waits until n things have happened, and returns them and what came after.
func (r *Record[T]) AwaitLen(t testing.TB, what string, n int) []T {
	t.Helper()
	return r.Await(t, what, func(items []T) bool { return len(items) >= n })
}
