package sender

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
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
	// renewAgain is how long a credential that was fetched anew, and refused again, is not fetched anew: a change is told.
	renewAgain = time.Minute
)

// held is an app's credential as it is cached.
type held struct {
	credential Credential
	version    int64
	appID      string
	secret     string // the last part of the path of receipts
	refuse     bool   // overlong texts
	account    *account
	renewed    time.Time // when it was fetched because the vendor refused the one before; zero: it was not
}

// close ends what the vendor's package keeps for the credential; requests under way end by themselves.
func (h *held) close() {
	if closer, ok := h.credential.(io.Closer); ok {
		_ = closer.Close() // nothing is lost with it
	}
}

// errNoCredential: the app has none, or none that can be read.
var errNoCredential = errors.New("the app has no credential for this channel")

// credentialCache keeps apps' credentials until they change.
type credentialCache struct {
	rpc    senderv1.CredentialServiceClient
	vendor Vendor
	log    *slog.Logger
	loads  singleflight.Group

	limits Limits

	mu       sync.Mutex
	byApp    map[uint32]*held               // guarded by mu
	ids      map[string]uint32              // guarded by mu
	accounts map[[sha256.Size]byte]*account // guarded by mu: by credential
	round    int                            // guarded by mu: grows with each change, so that a load that began before is not cached
}

func newCredentialCache(rpc senderv1.CredentialServiceClient, vendor Vendor, limits Limits, log *slog.Logger) *credentialCache {
	return &credentialCache{
		rpc: rpc, vendor: vendor, limits: limits, log: log,
		byApp: map[uint32]*held{}, ids: map[string]uint32{}, accounts: map[[sha256.Size]byte]*account{},
	}
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
		c.ids[h.appID] = app // it does not change
		if c.round == round {
			c.byApp[app] = h
		}
		return h, nil
	})
	if err != nil {
		return nil, err
	}
	return loaded.(*held), nil
}

// latest returns the credential that was cached since, or the one at hand: a job that began with one that was changed meanwhile does
// not ask the vendor with it, target by target.
func (c *credentialCache) latest(app uint32, h *held) *held {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.byApp[app]; now != nil {
		return now
	}
	return h
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
		refuse: answer.GetRefuseOverlong(), account: c.account(sha256.Sum256(answer.GetCredential())),
	}, nil
}

// account returns the account of a credential.
func (c *credentialCache) account(key [sha256.Size]byte) *account {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.accounts[key]
	if a == nil {
		now := time.Now()
		maps.DeleteFunc(c.accounts, func(_ [sha256.Size]byte, old *account) bool { return old.idle(now) })
		a = newAccount(c.limits)
		a.used = now
		c.accounts[key] = a
	}
	return a
}

// renew returns a credential instead of one that the vendor refuses: the one that somebody else has fetched meanwhile, or one
// that it fetches, with new access tokens even if nothing changed. Nil: there is none that is worth another try.
func (c *credentialCache) renew(ctx context.Context, app uint32, refused *held) *held {
	c.mu.Lock()
	now := c.byApp[app]
	c.mu.Unlock()
	if now == refused {
		if time.Since(refused.renewed) < renewAgain {
			return nil
		}
		c.drop(app)
	}
	fresh, err := c.get(ctx, app)
	if err != nil || fresh == refused {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if fresh.renewed.IsZero() {
		fresh.renewed = time.Now()
	}
	return fresh
}

// ofID returns the credential and the number of the app with an id, for receipts. Pushcore has told the ids of all apps that have
// a credential for the channel: strangers who call have nothing asked for them.
func (c *credentialCache) ofID(ctx context.Context, id string) (*held, uint32) {
	c.mu.Lock()
	app, ok := c.ids[id]
	c.mu.Unlock()
	if !ok {
		return nil, 0
	}
	h, err := c.get(ctx, app)
	if err != nil {
		return nil, 0
	}
	return h, app
}

// drop forgets apps' credentials; all, if none is named.
func (c *credentialCache) drop(apps ...uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.round++
	for app, h := range c.byApp {
		if len(apps) > 0 && !slices.Contains(apps, app) {
			continue
		}
		delete(c.byApp, app)
		h.close()
	}
}

// learn notes apps' ids, by which receipts come.
func (c *credentialCache) learn(ids map[uint32]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for app, id := range ids {
		c.ids[id] = app // it does not change
	}
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
		c.learn(change.GetIds())
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
