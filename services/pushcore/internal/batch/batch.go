// Package batch merges concurrent calls into shared statements and commits.
package batch

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrFull means that the queue in front of a batcher is full: the caller is refused, nothing was done.
var ErrFull = errors.New("too many calls are waiting")

// Batcher runs items through a function in batches. There is no timer: an item that finds a free worker starts at once,
// and those that come while all workers are busy share the next batch, so batches grow with the load and not before.
//
// The queue is bounded: an item that finds it full is refused with ErrFull.
type Batcher[T any] struct {
	run     func(context.Context, []T)
	max     int
	workers int
	limit   int

	mu      sync.Mutex
	queue   []*entry[T] // guarded by mu
	running int         // guarded by mu
	closed  bool        // guarded by mu
	idle    sync.WaitGroup
}

type entry[T any] struct {
	item T
	done chan struct{}
}

// New returns a batcher that calls run with 1 to max items, up to workers calls at a time, and lets limit items wait. run
// gets a context that outlives the callers': a batch that has begun serves them all. Results go into the items.
func New[T any](workers, maxItems, limit int, run func(context.Context, []T)) *Batcher[T] {
	return &Batcher[T]{run: run, max: maxItems, workers: workers, limit: limit}
}

// Do runs one item in a batch and waits until it is done. If ctx ends first, Do returns its error, and the item may still
// be run.
func (b *Batcher[T]) Do(ctx context.Context, item T) error {
	e := &entry[T]{item: item, done: make(chan struct{})}
	if err := b.add(e); err != nil {
		return err
	}
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the batch: %w", ctx.Err())
	}
}

// Go queues one item without waiting for it.
func (b *Batcher[T]) Go(item T) error { return b.add(&entry[T]{item: item}) }

// Close refuses new items and waits until all that are queued have run.
func (b *Batcher[T]) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.idle.Wait()
}

func (b *Batcher[T]) add(e *entry[T]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.queue) >= b.limit {
		return ErrFull
	}
	b.queue = append(b.queue, e)
	if b.running < b.workers {
		b.running++
		b.idle.Add(1)
		go b.work()
	}
	return nil
}

func (b *Batcher[T]) work() {
	defer b.idle.Done()
	for {
		entries := b.take()
		if entries == nil {
			return
		}
		items := make([]T, len(entries))
		for i, e := range entries {
			items[i] = e.item
		}
		b.run(context.Background(), items)
		for _, e := range entries {
			if e.done != nil {
				close(e.done)
			}
		}
	}
}

// take returns the next batch, or nil after it has given the worker's place back.
func (b *Batcher[T]) take() []*entry[T] {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.queue), b.max)
	if n == 0 {
		b.running--
		return nil
	}
	entries := b.queue[:n:n]
	b.queue = b.queue[n:]
	if len(b.queue) == 0 {
		b.queue = nil
	}
	return entries
}
