package stream

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Replicated returns a JetStream whose streams are kept on n servers of a cluster; 0 is one.
func Replicated(js jetstream.JetStream, n int) jetstream.JetStream {
	return replicated{JetStream: js, replicas: n}
}

type replicated struct {
	jetstream.JetStream
	replicas int
}

// CreateOrUpdateStream makes a stream, or changes it, also the number of its servers.
func (r replicated) CreateOrUpdateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	c.Replicas = r.replicas
	return r.JetStream.CreateOrUpdateStream(ctx, c)
}
