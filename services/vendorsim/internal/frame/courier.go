package frame

import (
	"container/heap"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// maxReceipts bounds the receipts that wait, so that their memory is bounded; what comes then is dropped and counted.
const maxReceipts = 1_000_000

// couriers is how many calls with receipts are under way at once.
const couriers = 4

// Receipt is one thing that a vendor tells about one device.
type Receipt struct {
	To   string // receipts of one call have the same: the app, the address, or both
	Item any    // what the vendor's Encode needs
}

// Encode makes the call that carries receipts of the same To. An error drops them.
type Encode func(ctx context.Context, to string, items []any) (*http.Request, error)

// Courier sends receipts as the switches say. A receipt is tried once: no sheet promises more.
type Courier struct {
	frame  *Frame
	most   int // receipts of one call
	encode Encode
	client *http.Client
	log    *slog.Logger

	mu     sync.Mutex
	queue  receiptQueue
	counts ReceiptCounts
	wake   chan struct{} // has room for one
}

// ReceiptCounts are a courier's counters, in receipts.
type ReceiptCounts struct {
	Queued     uint64 `json:"queued"`
	Waiting    uint64 `json:"waiting"`
	Sent       uint64 `json:"sent"`       // and answered with 200
	Failed     uint64 `json:"failed"`     // not answered with 200
	Lost       uint64 `json:"lost"`       // because of the switch
	Duplicated uint64 `json:"duplicated"` // because of the switch
	Dropped    uint64 `json:"dropped"`    // the queue was full
}

// NewCourier returns a courier that puts up to most receipts into a call. The frame runs it.
func (f *Frame) NewCourier(most int, encode Encode) *Courier {
	c := &Courier{
		frame: f, most: most, encode: encode, client: f.receipts, log: f.Log, wake: make(chan struct{}, 1),
	}
	f.couriers = append(f.couriers, c)
	return c
}

// Add queues a receipt, unless the switches say that it is lost.
func (c *Courier) Add(r Receipt) {
	s := c.frame.Switches().Receipts
	if s.Off {
		return
	}
	copies := 1
	if s.Duplicate > 0 && rand.Float64() < s.Duplicate {
		copies = 2
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Lost > 0 && rand.Float64() < s.Lost {
		c.counts.Lost++
		return
	}
	for i := range copies {
		if len(c.queue) >= maxReceipts {
			c.counts.Dropped++
			continue
		}
		wait := time.Duration(s.Delay)
		if s.Shuffle && wait > 0 {
			wait = rand.N(wait)
		}
		heap.Push(&c.queue, waiting{Receipt: r, due: time.Now().Add(wait)})
		c.counts.Queued++
		if i > 0 {
			c.counts.Duplicated++
		}
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Counts returns the counters.
func (c *Courier) Counts() ReceiptCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.counts
	counts.Waiting = uint64(len(c.queue))
	return counts
}

// run sends receipts until ctx ends.
func (c *Courier) run(ctx context.Context) {
	slots := make(chan struct{}, couriers)
	var sending sync.WaitGroup
	defer sending.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		due, next := c.take(time.Now())
		for to, items := range due {
			for len(items) > 0 {
				n := min(len(items), c.most)
				part := items[:n:n]
				items = items[n:]
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return
				}
				sending.Go(func() {
					defer func() { <-slots }()
					c.send(ctx, to, part)
				})
			}
		}
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// take returns the receipts that are due, and how long until the next one; 0: none waits.
func (c *Courier) take(now time.Time) (due map[string][]any, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	due = make(map[string][]any)
	for len(c.queue) > 0 {
		if wait := c.queue[0].due.Sub(now); wait > 0 {
			next = wait
			break
		}
		r := heap.Pop(&c.queue).(waiting)
		due[r.To] = append(due[r.To], r.Item)
	}
	if c.frame.Switches().Receipts.Shuffle {
		for _, items := range due {
			rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		}
	}
	return due, next
}

func (c *Courier) send(ctx context.Context, to string, items []any) {
	err := c.call(ctx, to, items)
	if err != nil && ctx.Err() == nil {
		c.log.Warn("receipts were not taken", "receipts", len(items), "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.counts.Failed += uint64(len(items))
		return
	}
	c.counts.Sent += uint64(len(items))
}

func (c *Courier) call(ctx context.Context, to string, items []any) error {
	request, err := c.encode(ctx, to, items)
	if err != nil {
		return fmt.Errorf("encode receipts: %w", err)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("send receipts: %w", err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection can be used again
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("receipts answered with %d", response.StatusCode)
	}
	return nil
}

type waiting struct {
	Receipt
	due time.Time
}

// receiptQueue is a heap, the earliest first.
type receiptQueue []waiting

func (q receiptQueue) Len() int           { return len(q) }
func (q receiptQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q receiptQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push adds a receipt at the end, for container/heap.
func (q *receiptQueue) Push(x any) { *q = append(*q, x.(waiting)) }

// Pop takes the last, for container/heap.
func (q *receiptQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = waiting{}
	*q = old[:len(old)-1]
	return last
}
