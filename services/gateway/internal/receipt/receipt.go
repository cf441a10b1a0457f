// Package receipt publishes the gateway's receipts to JetStream, in batches, until JetStream has them.
package receipt

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/pkg/subject"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
)

const (
	// maxWaiting bounds the direct receipts that wait, about 64 MB; beyond it the oldest are dropped: the next Pull of the
	// device finds the push still open, and the session sends the receipt once more.
	maxWaiting = 500_000
	// maxGathered bounds the slices whose receipts are gathered; beyond it they are published at once.
	maxGathered = 4_096
	// gatherFor is how long audience receipts are gathered into bitmaps.
	gatherFor = 100 * time.Millisecond
	// spacing is the time from one message of direct receipts to the next, unless they are full: each costs JetStream as much as many
	// receipts do, and often a file.
	spacing = 10 * time.Millisecond
	// perMessage bounds the direct receipts of one message.
	perMessage = 2_000
	// ackWithin is how long JetStream may take for one message, retryAfter the pause after it failed.
	ackWithin  = 5 * time.Second
	retryAfter = 500 * time.Millisecond
)

// Item is one step that one delivery took.
type Item struct {
	App      uint32
	Ordinal  uint64
	Push     uuid.UUID
	Step     ledgerv1.Step
	Audience bool
}

// Publisher publishes receipts: direct ones at once, those that follow together, audience ones gathered for a moment.
type Publisher struct {
	direct, audience jetstream.JetStream
	metrics          *Metrics
	log              *slog.Logger
	work             chan struct{}

	mu       sync.Mutex
	waiting  []Item                  // guarded by mu: direct
	gathered map[key]*roaring.Bitmap // guarded by mu: audience
}

// key is what one bitmap of audience receipts is about.
type key struct {
	app, slice uint32
	push       uuid.UUID
	step       ledgerv1.Step
}

// New returns a publisher over the two planes' connections.
func New(direct, audience jetstream.JetStream, metrics *Metrics, log *slog.Logger) *Publisher {
	return &Publisher{
		direct: direct, audience: audience, metrics: metrics, log: log, work: make(chan struct{}, 1),
		gathered: map[key]*roaring.Bitmap{},
	}
}

// Add takes receipts; it copies them and does not block.
func (p *Publisher) Add(items []Item) {
	p.mu.Lock()
	direct := 0
	for _, item := range items {
		if !item.Audience {
			p.waiting = append(p.waiting, item)
			direct++
			continue
		}
		k := key{item.App, ordinal.Slice(item.Ordinal), item.Push, item.Step}
		if p.gathered[k] == nil {
			p.gathered[k] = roaring.New()
		}
		p.gathered[k].Add(ordinal.Low(item.Ordinal))
	}
	if over := len(p.waiting) - maxWaiting; over > 0 {
		p.waiting = append(p.waiting[:0:0], p.waiting[over:]...)
		p.metrics.dropped.Add(float64(over))
	}
	full := len(p.gathered) >= maxGathered
	p.mu.Unlock()
	if direct > 0 || full {
		select {
		case p.work <- struct{}{}:
		default:
		}
	}
}

// Run publishes until ctx ends, and once more then, with what is there.
func (p *Publisher) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { p.runDirect(ctx) })
	wg.Go(func() { p.runAudience(ctx) })
	wg.Wait()
}

func (p *Publisher) runDirect(ctx context.Context) {
	for {
		select {
		case <-p.work:
		case <-ctx.Done():
			p.publishDirect(context.WithoutCancel(ctx), false)
			return
		}
		next := time.NewTimer(spacing)
		p.publishDirect(ctx, true)
		select {
		case <-next.C:
		case <-ctx.Done(): // the rest goes out at once
		}
		next.Stop()
	}
}

// publishDirect publishes what waits: full messages, and then one that is not.
func (p *Publisher) publishDirect(ctx context.Context, retry bool) {
	for {
		p.mu.Lock()
		n := min(len(p.waiting), perMessage)
		items := p.waiting[:n:n]
		if p.waiting = p.waiting[n:]; len(p.waiting) == 0 {
			p.waiting = nil
		}
		p.mu.Unlock()
		if n == 0 {
			return
		}
		batch := &ledgerv1.DirectReceipts{Receipts: make([]*ledgerv1.DirectReceipt, n)}
		for i := range items {
			batch.Receipts[i] = &ledgerv1.DirectReceipt{
				App: items[i].App, Ordinal: items[i].Ordinal, PushId: items[i].Push[:], Step: items[i].Step,
			}
		}
		p.publish(ctx, p.direct, subject.ReceiptsDirect, batch, n, retry)
		if n < perMessage {
			return
		}
	}
}

func (p *Publisher) runAudience(ctx context.Context) {
	ticker := time.NewTicker(gatherFor)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			p.publishAudience(context.WithoutCancel(ctx), false)
			return
		}
		p.publishAudience(ctx, true)
	}
}

// publishAudience publishes what was gathered, a message per partition.
func (p *Publisher) publishAudience(ctx context.Context, retry bool) {
	p.mu.Lock()
	gathered := p.gathered
	if len(gathered) == 0 {
		p.mu.Unlock()
		return
	}
	p.gathered = map[key]*roaring.Bitmap{}
	p.mu.Unlock()
	batches := map[int]*ledgerv1.SliceReceipts{}
	counts := map[int]int{}
	for k, bits := range gathered {
		bits.RunOptimize()
		members, err := bits.ToBytes()
		if err != nil { // a bitmap in memory always encodes
			panic(err)
		}
		partition := ordinal.Partition(k.app, k.slice)
		if batches[partition] == nil {
			batches[partition] = &ledgerv1.SliceReceipts{}
		}
		batches[partition].Receipts = append(batches[partition].Receipts, &ledgerv1.SliceReceipt{
			App: k.app, Slice: k.slice, PushId: k.push[:], Step: k.step, Ordinals: members,
		})
		counts[partition] += int(bits.GetCardinality())
	}
	for partition, batch := range batches {
		for _, part := range split(batch) {
			p.publish(ctx, p.audience, subject.ReceiptsAudience(partition), part, counts[partition], retry)
		}
	}
}

// maxBytes keeps a message well below what NATS lets through.
const maxBytes = 512 << 10

// split divides receipts into messages of bounded size; a single one is at most 128 KiB.
func split(all *ledgerv1.SliceReceipts) []*ledgerv1.SliceReceipts {
	var parts []*ledgerv1.SliceReceipts
	size := maxBytes
	for _, r := range all.GetReceipts() {
		if size += len(r.GetOrdinals()) + 64; size > maxBytes {
			parts = append(parts, &ledgerv1.SliceReceipts{})
			size = len(r.GetOrdinals()) + 64
		}
		last := parts[len(parts)-1]
		last.Receipts = append(last.Receipts, r)
	}
	return parts
}

// publish publishes one message and waits until JetStream has it; again and again if it fails, unless retry is false.
func (p *Publisher) publish(
	ctx context.Context, js jetstream.JetStream, to string, batch proto.Message, receipts int, retry bool,
) {
	data, err := proto.Marshal(batch)
	if err != nil { // receipts always encode
		panic(err)
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, ackWithin)
		_, err := js.Publish(attempt, to, data)
		cancel()
		if err == nil {
			p.metrics.published.Add(float64(receipts))
			return
		}
		p.metrics.retries.Inc()
		if !retry || ctx.Err() != nil {
			p.metrics.dropped.Add(float64(receipts))
			p.log.WarnContext(ctx, "receipts lost at the end; the next Pull of each device makes them again", "receipts", receipts)
			return
		}
		p.log.WarnContext(ctx, "receipts not published; trying again", "receipts", receipts, "error", err)
		timer := time.NewTimer(retryAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// Metrics count receipts.
type Metrics struct{ published, retries, dropped prometheus.Counter }

// NewMetrics registers the metrics of receipts.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_gateway_receipts_" + name, Help: help})
		registry.MustRegister(c)
		return c
	}
	return &Metrics{
		published: counter("published_total", "Receipts that JetStream has."),
		retries:   counter("retries_total", "Messages of receipts that JetStream did not confirm and that were published again."),
		dropped:   counter("dropped_total", "Receipts dropped because too many waited, or at the end; they are made again."),
	}
}
