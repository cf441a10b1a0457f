package sender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

const (
	// fetchWithin bounds a question to pushcore for a credential.
	fetchWithin = 5 * time.Second
	// watchAgain is the pause before a watch that ended is begun again.
	watchAgain = time.Second
)

// held is an app's credential as it is cached.
type held struct {
	credential Credential
	version    int64
	appID      string
	secret     string // the last part of the path of receipts
	refuse     bool   // overlong texts
}

// errNoCredential: the app has none, or none that can be read.
var errNoCredential = errors.New("the app has no credential for this channel")

// credentialCache keeps apps' credentials until they change.
type credentialCache struct {
	rpc    senderv1.CredentialServiceClient
	vendor Vendor
	log    *slog.Logger
	loads  singleflight.Group

	mu    sync.Mutex
	byApp map[uint32]*held // guarded by mu
	ids   map[string]uint32
	round int // guarded by mu: grows with each change, so that a load that began before is not cached
}

func newCredentialCache(rpc senderv1.CredentialServiceClient, vendor Vendor, log *slog.Logger) *credentialCache {
	return &credentialCache{rpc: rpc, vendor: vendor, log: log, byApp: map[uint32]*held{}, ids: map[string]uint32{}}
}

// get returns an app's credential. errNoCredential says that there is none that works; other errors, that it is not known now.
func (c *credentialCache) get(ctx context.Context, app uint32) (*held, error) {
	c.mu.Lock()
	h, round := c.byApp[app], c.round
	c.mu.Unlock()
	if h != nil {
		return h, nil
	}
	loaded, err, _ := c.loads.Do(strconv.Itoa(int(app)), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWithin)
		defer cancel()
		h, err := c.load(ctx, app, false)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.round == round {
			c.byApp[app], c.ids[h.appID] = h, app
		}
		return h, nil
	})
	if err != nil {
		return nil, err
	}
	return loaded.(*held), nil
}

func (c *credentialCache) load(ctx context.Context, app uint32, candidate bool) (*held, error) {
	answer, err := c.rpc.GetCredential(ctx, &senderv1.GetCredentialRequest{
		App: app, Channel: c.vendor.Channel(), Candidate: candidate,
	})
	if status.Code(err) == codes.NotFound {
		return nil, errNoCredential
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the credential: %w", err)
	}
	parsed, err := c.vendor.Parse(answer.GetCredential())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCredential, err)
	}
	return &held{
		credential: parsed, version: answer.GetVersion(), appID: answer.GetAppId(), secret: answer.GetReceiptSecret(),
		refuse: answer.GetRefuseOverlong(),
	}, nil
}

// known returns the cached credential of the app with an id, for receipts; unknown apps are asked for by nobody.
func (c *credentialCache) known(appID string) (*held, uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	app, ok := c.ids[appID]
	if !ok {
		return nil, 0
	}
	return c.byApp[app], app
}

// drop forgets apps' credentials; all, if none is named.
func (c *credentialCache) drop(apps ...uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.round++
	for app, h := range c.byApp {
		if len(apps) > 0 && !contains(apps, app) {
			continue
		}
		delete(c.byApp, app)
		if closer, ok := h.credential.(io.Closer); ok {
			_ = closer.Close() // requests under way end by themselves
		}
	}
}

func contains(apps []uint32, app uint32) bool {
	for _, a := range apps {
		if a == app {
			return true
		}
	}
	return false
}

// watch drops what changed until ctx ends. While pushcore is away, what is cached stays in use.
func (c *credentialCache) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.watchOnce(ctx)
		if ctx.Err() == nil {
			c.log.WarnContext(ctx, "not told of changed credentials for now", "error", err)
			pause(ctx, watchAgain)
		}
	}
}

func (c *credentialCache) watchOnce(ctx context.Context) error {
	changes, err := c.rpc.WatchCredentials(ctx, &senderv1.WatchCredentialsRequest{Channel: c.vendor.Channel()})
	if err != nil {
		return err
	}
	for {
		change, err := changes.Recv()
		if err != nil {
			return err
		}
		c.drop(change.GetApps()...)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
