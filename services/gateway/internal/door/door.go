// Package door decides who comes in: it knows the apps, checks tokens and secrets without asking anybody, and has pushcore
// register new devices.
package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/halleypush/halley/pkg/token"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/loop"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

const (
	// askWithin bounds a question to pushcore on behalf of a connection that waits for its CONNACK.
	askWithin = 5 * time.Second
	// asksAtOnce bounds the questions under way; a connection that finds them all taken is told to come back.
	asksAtOnce = 512
	// refreshEvery is how often what is known of apps is read again, in case a notice of a change was lost.
	refreshEvery = time.Minute
	// unknownFor is how long an app stays unknown without asking again, and maxUnknown how many are remembered.
	unknownFor = 5 * time.Second
	maxUnknown = 10_000
	// comeBack is when a client that was sent away for lack of room is told to come back at the earliest.
	comeBack = 2 * time.Second
)

// appID is what app ids look like (halley.admin.v1.App).
var appID = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

// Door implements loop.Door.
type Door struct {
	rpc      gatewayv1.GatewayServiceClient
	log      *slog.Logger
	admitted func(loop.Ticket, loop.Admission)
	follow   func(app uint32)
	slots    chan struct{}

	mu       sync.Mutex
	byID     map[string]*session.App // guarded by mu
	byNumber map[uint32]*session.App // guarded by mu
	unknown  map[string]time.Time    // guarded by mu: until when
	asking   map[string][]waiting    // guarded by mu: who waits for an app that is being asked for
}

type waiting struct {
	connect *mqtt.Connect
	remote  netip.Addr
	ticket  loop.Ticket
}

// New returns a door. admitted takes the answers for connections that had to wait; follow is told of each app when it is
// first known.
func New(
	rpc gatewayv1.GatewayServiceClient, log *slog.Logger, admitted func(loop.Ticket, loop.Admission), follow func(uint32),
) *Door {
	return &Door{
		rpc: rpc, log: log, admitted: admitted, follow: follow, slots: make(chan struct{}, asksAtOnce),
		byID: map[string]*session.App{}, byNumber: map[uint32]*session.App{}, unknown: map[string]time.Time{},
		asking: map[string][]waiting{},
	}
}

// App returns a known app by its number, or nil. Only apps of devices that came are known.
func (d *Door) App(number uint32) *session.App {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.byNumber[number]
}

// Admit decides about a CONNECT. It answers at once if the app is known and the device is not new.
func (d *Door) Admit(c *mqtt.Connect, remote netip.Addr, t loop.Ticket) (loop.Admission, bool) {
	app, known := d.lookUp(c.Username)
	switch {
	case !appID.MatchString(c.Username):
		return loop.Admission{Refuse: mqtt.NotAuthorized, Reason: "the user name is no app id", Field: "app"}, true
	case !known:
		return d.askForApp(waiting{c, remote, t})
	case app == nil:
		return loop.Admission{Refuse: mqtt.NotAuthorized, Reason: "unknown app", Field: "app"}, true
	case c.ClientID == "":
		return d.background(func(ctx context.Context) { d.admitted(t, d.register(ctx, app, c, remote)) })
	default:
		return verify(app, c), true
	}
}

// lookUp returns an app; nil and true if it is known that there is none.
func (d *Door) lookUp(id string) (app *session.App, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if app := d.byID[id]; app != nil {
		return app, true
	}
	return nil, time.Now().Before(d.unknown[id])
}

func verify(app *session.App, c *mqtt.Connect) loop.Admission {
	number, generation, code := app.Verify(c)
	if code != mqtt.Success {
		field := "secret"
		if code == mqtt.InvalidClientID {
			field = "token"
		}
		return loop.Admission{Refuse: code, Reason: "the client id is the device's token, the password its secret", Field: field}
	}
	return loop.Admission{App: app, Ordinal: number, Generation: generation, Report: reportOf(c)}
}

// background runs a question to pushcore, or refuses the connection if too many are under way.
func (d *Door) background(ask func(ctx context.Context)) (loop.Admission, bool) {
	select {
	case d.slots <- struct{}{}:
	default:
		return busy(), true
	}
	go func() {
		defer func() { <-d.slots }()
		ctx, cancel := context.WithTimeout(context.Background(), askWithin)
		defer cancel()
		ask(ctx)
	}()
	return loop.Admission{}, false
}

func busy() loop.Admission {
	return loop.Admission{Refuse: mqtt.QuotaExceeded, Reason: "too many connections wait", RetryAfter: comeBack, Crowd: true}
}

// askForApp asks pushcore for an app, once for all who wait for it.
func (d *Door) askForApp(w waiting) (loop.Admission, bool) {
	id := w.connect.Username
	d.mu.Lock()
	first := len(d.asking[id]) == 0
	if len(d.asking[id]) >= asksAtOnce {
		d.mu.Unlock()
		return busy(), true
	}
	d.asking[id] = append(d.asking[id], w)
	d.mu.Unlock()
	if !first {
		return loop.Admission{}, false
	}
	admission, now := d.background(func(ctx context.Context) {
		_, err := d.fetch(ctx, id)
		d.answerWaiting(id, err)
	})
	if now {
		d.answerWaiting(id, errBusy)
		return loop.Admission{}, false // answered like the others
	}
	return admission, now
}

var errBusy = errors.New("too many questions are under way")

// answerWaiting admits those who waited for an app, or refuses them.
func (d *Door) answerWaiting(id string, err error) {
	d.mu.Lock()
	list := d.asking[id]
	delete(d.asking, id)
	d.mu.Unlock()
	for _, w := range list {
		if err != nil && status.Code(err) != codes.NotFound {
			a := refusal(err)
			if errors.Is(err, errBusy) {
				a = busy()
			}
			d.admitted(w.ticket, a)
			continue
		}
		if admission, now := d.Admit(w.connect, w.remote, w.ticket); now {
			d.admitted(w.ticket, admission)
		}
	}
}

// fetch reads an app from pushcore and remembers it, or that there is none.
func (d *Door) fetch(ctx context.Context, id string) (*session.App, error) {
	response, err := d.rpc.GetApp(ctx, &gatewayv1.GetAppRequest{App: id})
	if status.Code(err) == codes.NotFound {
		d.mu.Lock()
		defer d.mu.Unlock()
		if app := d.byID[id]; app != nil {
			delete(d.byID, id)
			delete(d.byNumber, app.Number)
		}
		if len(d.unknown) >= maxUnknown {
			clear(d.unknown)
		}
		d.unknown[id] = time.Now().Add(unknownFor)
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	app, err := newApp(id, response)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	known := d.byID[id] != nil
	d.byID[id], d.byNumber[app.Number] = app, app
	delete(d.unknown, id)
	d.mu.Unlock()
	if !known {
		d.follow(app.Number)
	}
	return app, nil
}

func newApp(id string, r *gatewayv1.GetAppResponse) (*session.App, error) {
	var keys []token.AppKeys
	for _, k := range r.GetKeys() {
		key := token.AppKeys{}
		if len(k.GetLetter()) != 1 || len(k.GetTokenKey()) != len(key.TokenKey) || len(k.GetSecretKey()) != len(key.SecretKey) {
			return nil, fmt.Errorf("keys of app %s do not have their form", id)
		}
		key.Letter = k.GetLetter()[0]
		copy(key.TokenKey[:], k.GetTokenKey())
		copy(key.SecretKey[:], k.GetSecretKey())
		keys = append(keys, key)
	}
	codec, err := token.NewCodec(r.GetNumber(), keys...)
	if err != nil {
		return nil, fmt.Errorf("keys of app %s: %w", id, err)
	}
	return &session.App{
		ID: id, Number: r.GetNumber(), Codec: codec,
		KeepAlive:    uint16(r.GetKeepAlive().AsDuration() / time.Second),
		KeepAliveMin: uint16(r.GetKeepAliveMin().AsDuration() / time.Second),
		KeepAliveMax: uint16(r.GetKeepAliveMax().AsDuration() / time.Second),
		AckTimeout:   r.GetAckTimeout().AsDuration(),
	}, nil
}

// Changed reads an app again, after a notice that it changed; one that is not known here is forgotten as unknown.
func (d *Door) Changed(id string) {
	d.mu.Lock()
	known := d.byID[id] != nil
	delete(d.unknown, id)
	d.mu.Unlock()
	if known {
		d.background(func(ctx context.Context) { d.refresh(ctx, id) })
	}
}

func (d *Door) refresh(ctx context.Context, id string) {
	if _, err := d.fetch(ctx, id); err != nil && status.Code(err) != codes.NotFound {
		d.log.Warn("what is known of an app may be old", "app", id, "error", err)
	}
}

// Run reads the known apps again from time to time until ctx ends. While pushcore is away they stay as they are.
func (d *Door) Run(ctx context.Context) {
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		d.mu.Lock()
		var ids []string
		for id := range d.byID {
			ids = append(ids, id)
		}
		d.mu.Unlock()
		for _, id := range ids {
			ask, cancel := context.WithTimeout(ctx, askWithin)
			d.refresh(ask, id)
			cancel()
		}
	}
}

// register has pushcore make a device.
func (d *Door) register(ctx context.Context, app *session.App, c *mqtt.Connect, remote netip.Addr) loop.Admission {
	request := &gatewayv1.RegisterRequest{
		Device: &devicev1.RegisterRequest{App: app.ID, ClientKey: c.Password, Report: reportOf(c)},
	}
	if remote.IsValid() {
		request.RemoteIp = remote.String()
	}
	for _, p := range c.User {
		if p.Name == "install_id" {
			request.Device.InstallId = p.Value
		}
	}
	response, err := d.rpc.Register(ctx, request)
	if err != nil {
		return refusal(err)
	}
	return loop.Admission{
		App: app, Ordinal: response.GetOrdinal(), Generation: response.GetGeneration(), Token: response.GetToken(),
		Secret: response.GetSecret(),
	}
}

// refusal returns what a client hears when pushcore said no, or nothing.
func refusal(err error) loop.Admission {
	s := status.Convert(err)
	a := loop.Admission{Refuse: mqtt.ServerUnavailable, RetryAfter: comeBack, Crowd: true}
	switch s.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		return loop.Admission{Refuse: mqtt.NotAuthorized, Reason: "wrong app or client key"}
	case codes.InvalidArgument:
		return loop.Admission{Refuse: mqtt.PayloadFormatInvalid, Reason: s.Message()}
	case codes.ResourceExhausted:
		a = loop.Admission{Refuse: mqtt.ConnectionRateExceeded, Reason: s.Message(), RetryAfter: comeBack + rand.N(comeBack)}
	}
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			a.RetryAfter = max(a.RetryAfter, retry.GetRetryDelay().AsDuration())
		}
	}
	return a
}

// reportOf returns what the user properties of a CONNECT say of the device; nil if nothing.
func reportOf(c *mqtt.Connect) *devicev1.Report {
	r := &devicev1.Report{}
	fields := map[string]**string{
		"platform": &r.Platform, "brand": &r.Brand, "model": &r.Model, "os_version": &r.OsVersion, "app_version": &r.AppVersion,
		"sdk_version": &r.SdkVersion, "locale": &r.Locale, "time_zone": &r.TimeZone,
	}
	some := false
	for _, p := range c.User {
		if field := fields[p.Name]; field != nil {
			value := p.Value
			*field, some = &value, true
		}
		if p.Name == "notifications" {
			on := strings.EqualFold(p.Value, "true") || p.Value == "1"
			r.Notifications, some = &on, true
		}
	}
	if !some {
		return nil
	}
	return r
}
