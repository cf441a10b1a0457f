package client

import (
	"context"
	"crypto/rand"
	"iter"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// Push sends one push. When it returns without an error the push is committed: nothing loses it any more. A push without an
// idempotency key gets a random one for this call; the request is not changed. Where not even repeats of the call by its caller
// may push twice, the caller chooses the key.
func (c *Client) Push(ctx context.Context, request *pushv1.PushRequest) (*pushv1.PushResponse, error) {
	return c.push.Push(ctx, withKey(request))
}

// PushBatch sends up to 500 different pushes. Each has its own result, in their order, and its own idempotency key, as with
// Push. Those that are refused for the moment are sent again with the others' results kept.
func (c *Client) PushBatch(ctx context.Context, request *pushv1.PushBatchRequest) (*pushv1.PushBatchResponse, error) {
	batch := &pushv1.PushBatchRequest{App: request.GetApp()}
	places := make([]int, len(request.GetPushes())) // where in the answer each push of the batch belongs
	for i, p := range request.GetPushes() {
		batch.Pushes = append(batch.Pushes, withKey(p))
		places[i] = i
	}
	all, err := c.push.PushBatch(ctx, batch)
	if err != nil {
		return nil, err
	}
	for attempt, results := 1, all.GetResults(); attempt < c.retry.attempts; attempt++ {
		var wait error
		batch, places, wait = refusedForNow(batch, places, results)
		if wait == nil || !c.retry.pause(ctx, attempt, wait) {
			break
		}
		part, err := c.push.PushBatch(ctx, batch)
		if err != nil {
			break // the results so far are true
		}
		results = part.GetResults()
		for i, result := range results[:min(len(results), len(places))] {
			all.Results[places[i]] = result
		}
	}
	return all, nil
}

// refusedForNow returns the pushes of a batch that may be accepted if they are sent again, their places, and the error that asks for
// the longest wait; nil if there are none.
func refusedForNow(
	batch *pushv1.PushBatchRequest, places []int, results []*pushv1.PushBatchResponse_Result,
) (*pushv1.PushBatchRequest, []int, error) {
	again := &pushv1.PushBatchRequest{App: batch.GetApp()}
	var (
		left []int
		wait error
	)
	for i, result := range results[:min(len(results), len(places))] {
		err := status.FromProto(result.GetError()).Err()
		if err == nil || !repeatable(pushv1.PushService_PushBatch_FullMethodName, err) {
			continue
		}
		again.Pushes = append(again.Pushes, batch.GetPushes()[i])
		left = append(left, places[i])
		longest, _ := retryDelay(wait)
		if told, _ := retryDelay(err); wait == nil || told > longest {
			wait = err
		}
	}
	return again, left, wait
}

// withKey returns the push with an idempotency key; it is a copy if it had none.
func withKey(p *pushv1.PushRequest) *pushv1.PushRequest {
	if p.GetPolicy().GetIdempotencyKey() != "" {
		return p
	}
	p = proto.CloneOf(p)
	if p == nil {
		p = &pushv1.PushRequest{}
	}
	if p.Policy == nil {
		p.Policy = &pushv1.Policy{}
	}
	p.Policy.IdempotencyKey = rand.Text()
	return p
}

// GetPush returns a push: its content, its state and how many deliveries are in which state.
func (c *Client) GetPush(ctx context.Context, app, pushID string) (*pushv1.Push, error) {
	response, err := c.push.GetPush(ctx, &pushv1.GetPushRequest{App: app, PushId: pushID})
	return response.GetPush(), err
}

// ListPushes iterates over the app's pushes, newest first, page by page. An error ends it.
func (c *Client) ListPushes(ctx context.Context, request *pushv1.ListPushesRequest) iter.Seq2[*pushv1.Push, error] {
	request = proto.CloneOf(request)
	return pages(func(token string) ([]*pushv1.Push, string, error) {
		if token != "" {
			request.PageToken = token
		}
		r, err := c.push.ListPushes(ctx, request)
		return r.GetPushes(), r.GetNextPageToken(), err
	})
}

// ListDeliveries iterates over what became of a push, device by device, page by page. An error ends it.
func (c *Client) ListDeliveries(ctx context.Context, request *pushv1.ListDeliveriesRequest) iter.Seq2[*pushv1.Delivery, error] {
	request = proto.CloneOf(request)
	return pages(func(token string) ([]*pushv1.Delivery, string, error) {
		if token != "" {
			request.PageToken = token
		}
		r, err := c.push.ListDeliveries(ctx, request)
		return r.GetDeliveries(), r.GetNextPageToken(), err
	})
}

// ListDevices iterates over the app's devices, oldest registration first, page by page. An error ends it.
func (c *Client) ListDevices(ctx context.Context, request *pushv1.ListDevicesRequest) iter.Seq2[*pushv1.Device, error] {
	request = proto.CloneOf(request)
	return pages(func(token string) ([]*pushv1.Device, string, error) {
		if token != "" {
			request.PageToken = token
		}
		r, err := c.devices.ListDevices(ctx, request)
		return r.GetDevices(), r.GetNextPageToken(), err
	})
}

// pages iterates over the items of pages; get is called with the token of the page before, empty for the first.
func pages[T any](get func(token string) (items []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		token := ""
		for {
			items, next, err := get(token)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			token = next
		}
	}
}
