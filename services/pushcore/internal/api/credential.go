package api

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
)

var _ senderv1.CredentialServiceServer = (*Credentials)(nil)

// maxUntold bounds the apps that one watcher has not been told of yet; beyond it, it is told that any may have changed.
const maxUntold = 1_000

// Credentials serves halley.sender.v1.CredentialService.
type Credentials struct {
	senderv1.UnimplementedCredentialServiceServer

	apps     *registry.Apps
	channels *registry.Channels
	// stopping is closed when the process stops taking work.
	stopping <-chan struct{}

	mu       sync.Mutex
	watchers map[*watcher]bool // guarded by mu
}

// watcher is one sender that wants to hear of changes.
type watcher struct {
	more chan struct{} // has room for one: something is untold

	mu  sync.Mutex
	all bool            // guarded by mu: any app may have changed
	num map[uint32]bool // guarded by mu: the apps that changed
}

// NewCredentials returns the credential service. Watches end when stopping is closed.
func NewCredentials(apps *registry.Apps, channels *registry.Channels, stopping <-chan struct{}) *Credentials {
	return &Credentials{apps: apps, channels: channels, stopping: stopping, watchers: map[*watcher]bool{}}
}

// Changed tells all watchers that an app changed; 0: any may have.
func (c *Credentials) Changed(app uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		w.add(app)
	}
}

func (w *watcher) add(app uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if app == 0 || len(w.num) >= maxUntold {
		w.all, w.num = true, map[uint32]bool{}
	} else {
		w.num[app] = true
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// take returns what is untold: no apps mean that any may have changed.
func (w *watcher) take() *senderv1.WatchCredentialsResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	response := &senderv1.WatchCredentialsResponse{}
	if !w.all {
		for app := range w.num {
			response.Apps = append(response.Apps, app)
		}
	}
	w.all, w.num = false, map[uint32]bool{}
	return response
}

// GetCredential returns an app's credential for a channel.
func (c *Credentials) GetCredential(
	ctx context.Context, r *senderv1.GetCredentialRequest,
) (*senderv1.GetCredentialResponse, error) {
	app, err := c.apps.ByNumber(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	channel, credential, err := c.channels.Credential(ctx, app.No, r.GetChannel(), r.GetCandidate())
	if err != nil {
		return nil, err
	}
	return &senderv1.GetCredentialResponse{
		Credential: credential, Version: channel.Version, ReceiptSecret: channel.ReceiptSecret, AppId: app.ID,
		RefuseOverlong: app.Settings.GetRefuseOverlong(),
	}, nil
}

// WatchCredentials tells of changes until the sender goes or the process stops. Every change is told to watchers of all
// channels: changes are rare, and one too many costs a read.
func (c *Credentials) WatchCredentials(
	r *senderv1.WatchCredentialsRequest, stream grpc.ServerStreamingServer[senderv1.WatchCredentialsResponse],
) error {
	w := &watcher{more: make(chan struct{}, 1), num: map[uint32]bool{}}
	w.add(0)
	c.mu.Lock()
	c.watchers[w] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
	}()
	for {
		select {
		case <-c.stopping:
			return status.Error(codes.Unavailable, "this pushcore stops; watch again")
		case <-stream.Context().Done():
			return nil
		case <-w.more:
			response := w.take()
			var err error
			// Without the ids the sender would drop nothing that changed: it asks again when the stream has ended.
			if response.Ids, err = c.channels.IDs(stream.Context(), r.GetChannel(), response.GetApps()); err != nil {
				return err
			}
			if err := stream.Send(response); err != nil {
				return err
			}
		}
	}
}
