package pushcore_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestSameKeyAndContentIsTheSamePush(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, other := core.NewApp(t, nil), core.NewApp(t, nil)
	phone, second := app.Register(t), app.Register(t)
	for name, to := range map[string]pushcoretest.PushOption{
		"direct": pushcoretest.ToDevices(phone, second), "user": pushcoretest.ToUsers("alice"), "everyone": pushcoretest.ToAll(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := pushcoretest.Once("order-7-" + name)
			first := app.Push(t, to, key)
			if id, err := uuid.Parse(first); err != nil || id.Version() != 7 {
				t.Errorf("%s is no UUIDv7", first)
			}
			if again := app.Push(t, to, key); again != first {
				t.Errorf("the same push got two ids: %s, %s", first, again)
			}
			if another := app.Push(t, to, pushcoretest.Once("order-8-"+name)); another == first {
				t.Error("another key got the same id")
			}
			_, err := app.TryPush(t, to, key, pushcoretest.Title("other"))
			wantError(t, err, codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "policy.idempotency_key")
			if id := other.Push(t, pushcoretest.ToUsers("alice"), key); id == first {
				t.Error("a key reaches into another app")
			}
		})
	}
	// Over REST, with a default written out, targets in another order and one twice, it is the same content.
	key := "order-9"
	first := app.Push(t, pushcoretest.ToDevices(phone, second), pushcoretest.Once(key))
	body := fmt.Sprintf(`{"audience":{"devices":{"tokens":[%q,%q,%q]}},"notification":{"title":"hello"},
		"policy":{"ttl":"86400s","priority":"NORMAL","channel":"OWN_FIRST","qos":1,"idempotency_key":%q}}`,
		second.Token, phone.Token, second.Token, key)
	answer := core.REST(t, "POST", "/v1/apps/"+app.ID+"/pushes", body, pushcoretest.Bearer(app.ServerKey))
	if answer.Code != 200 || answer.Decode(t)["push_id"] != first {
		t.Errorf("over REST: %d %s, want %s", answer.Code, answer.Body, first)
	}
	wantCounts(t, app.Get(t, first), &pushv1.Counts{Pending: 2})
}

func TestConcurrentTwinsGetOneAnswer(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	twin := core.Site.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	for name, to := range map[string]pushcoretest.PushOption{
		"direct": pushcoretest.ToDevices(phone), "everyone": pushcoretest.ToAll(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ids := make([]string, 40)
			var wg sync.WaitGroup
			for i := range ids {
				on := app
				if i%2 == 1 {
					on = app.On(twin) // on another replica
				}
				wg.Go(func() { ids[i] = on.Push(t, to, pushcoretest.Once("twins-"+name)) })
			}
			wg.Wait()
			slices.Sort(ids)
			if distinct := slices.Compact(ids); len(distinct) != 1 {
				t.Errorf("%d pushes were made: %v", len(distinct), distinct)
			}
		})
	}
}

func TestKeyIsFreeAgainAfter72Hours(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	to, key := pushcoretest.ToUsers("alice"), pushcoretest.Once("k")
	first := app.Push(t, to, key)
	_, err := core.SQL(t).Exec(t.Context(), "UPDATE idempotency SET created_at = created_at - interval '72 hours 1 second'")
	if err != nil {
		t.Fatal(err)
	}
	second := app.Push(t, to, key, pushcoretest.Title("other"))
	if second == first || app.Push(t, to, key, pushcoretest.Title("other")) != second {
		t.Error("the key is not the new push's")
	}
}

func TestBatchAcceptsEachOnItsOwn(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, other := core.NewApp(t, nil), core.NewApp(t, nil)
	phone := app.Register(t)
	good := func() *pushv1.PushRequest { return app.Request(pushcoretest.ToDevices(phone)) }
	change := func(f func(*pushv1.PushRequest)) *pushv1.PushRequest {
		r := good()
		f(r)
		return r
	}
	twin := pushcoretest.Once("twin")
	list := []struct {
		name          string
		push          *pushv1.PushRequest
		code          codes.Code
		reason, field string
	}{
		{name: "good", push: good()},
		{"another app", change(func(r *pushv1.PushRequest) { r.App = other.ID }), codes.InvalidArgument, "INVALID_FIELD", "app"},
		{name: "no app", push: change(func(r *pushv1.PushRequest) { r.App = "" })},
		{"no audience", change(func(r *pushv1.PushRequest) { r.Audience = nil }), codes.InvalidArgument, "INVALID_FIELD", "audience"},
		{"ttl", change(func(r *pushv1.PushRequest) { r.Policy.Ttl = durationpb.New(-1) }), codes.InvalidArgument, "INVALID_FIELD", "policy.ttl"},
		{
			"not built", change(func(r *pushv1.PushRequest) {
				r.Audience = &pushv1.Audience{Target: &pushv1.Audience_List{List: "l"}}
			}), codes.Unimplemented, "NOT_BUILT", "audience.list",
		},
		{name: "twin", push: app.Request(pushcoretest.ToDevices(phone), twin)},
		{name: "its twin", push: app.Request(pushcoretest.ToDevices(phone), twin)},
		{
			"its false twin", app.Request(pushcoretest.ToDevices(phone), twin, pushcoretest.Title("other")),
			codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "policy.idempotency_key",
		},
		{name: "everyone", push: app.Request(pushcoretest.ToAll())},
		{name: "unknown token", push: app.Request(pushcoretest.ToTokens("nobody"))},
	}
	var pushes []*pushv1.PushRequest
	for _, c := range list {
		pushes = append(pushes, c.push)
	}
	response, err := core.Pushes.PushBatch(app.Key(t.Context()), &pushv1.PushBatchRequest{App: app.ID, Pushes: pushes})
	if err != nil {
		t.Fatal(err)
	}
	// Of the three with one key any may be first; then the others are its twin, or false.
	ids := map[string]bool{}
	reused := 0
	for i, result := range response.GetResults() {
		c := list[i]
		if len(c.name) >= 4 && c.name[len(c.name)-4:] == "twin" {
			if result.GetError() != nil {
				reused++
				wantError(t, status.FromProto(result.GetError()).Err(), codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "policy.idempotency_key")
			} else {
				ids[result.GetAccepted().GetPushId()] = true
			}
			continue
		}
		if c.code != codes.OK {
			wantError(t, status.FromProto(result.GetError()).Err(), c.code, c.reason, c.field)
		} else if result.GetAccepted().GetPushId() == "" {
			t.Errorf("%s: %v", c.name, result)
		}
	}
	if len(ids) != 1 || reused < 1 || reused > 2 {
		t.Errorf("of the twins %d pushes were made, %d refused", len(ids), reused)
	}
}

func TestBatchOf500DifferentPushes(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	r := &pushv1.PushBatchRequest{App: app.ID}
	for i := range 500 {
		r.Pushes = append(r.Pushes, app.Request(pushcoretest.ToDevices(phone), pushcoretest.Title(fmt.Sprint(i))))
	}
	response, err := core.Pushes.PushBatch(app.Key(t.Context()), r)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for i, result := range response.GetResults() {
		id := result.GetAccepted().GetPushId()
		if ids[id] || app.Get(t, id).GetNotification().GetTitle() != fmt.Sprint(i) {
			t.Fatalf("result %d is %v", i, result)
		}
		ids[id] = true
	}
	r.Pushes = append(r.Pushes, r.Pushes[0])
	_, err = core.Pushes.PushBatch(app.Key(t.Context()), r)
	wantError(t, err, codes.InvalidArgument, "INVALID_FIELD", "pushes")
}
