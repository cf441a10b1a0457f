package batch_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/halleypush/halley/services/pushcore/internal/batch"
)

func TestCallsThatComeWhileABatchRunsShareTheNext(t *testing.T) {
	t.Parallel()
	entered, release := make(chan int), make(chan struct{})
	b := batch.New(1, 100, 1000, func(_ context.Context, items []int) {
		entered <- len(items)
		<-release
	})
	for i := range 11 {
		if err := b.Go(i); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if n := <-entered; n != 1 {
				t.Fatalf("the first call waited for others: batch of %d", n)
			}
		}
	}
	release <- struct{}{}
	if n := <-entered; n != 10 {
		t.Errorf("the second batch has %d items, want the 10 that waited", n)
	}
	release <- struct{}{}
	b.Close()
}

func TestAFullQueueRefuses(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b := batch.New(1, 1, 2, func(context.Context, []int) {
		once.Do(func() { close(entered) })
		<-release
	})
	if err := b.Go(0); err != nil {
		t.Fatal(err)
	}
	<-entered
	for i := range 2 {
		if err := b.Go(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Do(t.Context(), 3); !errors.Is(err, batch.ErrFull) {
		t.Errorf("the third waiting item: %v, want ErrFull", err)
	}
	close(release)
	b.Close()
	if err := b.Go(4); !errors.Is(err, batch.ErrFull) {
		t.Errorf("after Close: %v, want ErrFull", err)
	}
}

func TestACallerThatGivesUpDoesNotEndTheBatch(t *testing.T) {
	t.Parallel()
	release, finished := make(chan struct{}), make(chan error, 1)
	b := batch.New(1, 1, 1, func(ctx context.Context, _ []int) {
		<-release
		finished <- ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- b.Do(ctx, 1) }()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Do: %v", err)
	}
	close(release)
	if err := <-finished; err != nil {
		t.Errorf("the batch's context ended with its caller: %v", err)
	}
}
