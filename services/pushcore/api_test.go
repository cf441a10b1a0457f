package pushcore_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestRequestsThatBreakARuleNameTheField(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	tokens := func(n int) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprint("token", i)
		}
		return list
	}
	qos := uint32(2)
	for name, c := range map[string]struct {
		change func(*pushv1.PushRequest)
		code   codes.Code
		field  string
	}{
		"no audience":       {func(r *pushv1.PushRequest) { r.Audience = nil }, codes.InvalidArgument, "audience"},
		"empty audience":    {func(r *pushv1.PushRequest) { r.Audience = &pushv1.Audience{} }, codes.InvalidArgument, "audience.target"},
		"no device":         {pushcoretest.ToTokens(), codes.InvalidArgument, "audience.devices.tokens"},
		"too many devices":  {pushcoretest.ToTokens(tokens(1001)...), codes.InvalidArgument, "audience.devices.tokens"},
		"an empty token":    {pushcoretest.ToTokens("a", ""), codes.InvalidArgument, "audience.devices.tokens[1]"},
		"too many users":    {pushcoretest.ToUsers(tokens(1001)...), codes.InvalidArgument, "audience.users.ids"},
		"a long user":       {pushcoretest.ToUsers(strings.Repeat("用", 43)), codes.InvalidArgument, "audience.users.ids[0]"},
		"no content":        {func(r *pushv1.PushRequest) { r.Notification = nil }, codes.InvalidArgument, ""},
		"data and payload":  {func(r *pushv1.PushRequest) { r.Data, r.Payload = map[string]string{"a": "b"}, "c" }, codes.InvalidArgument, ""},
		"ttl over 7 days":   {pushcoretest.TTL(7*24*time.Hour + 1), codes.InvalidArgument, "policy.ttl"},
		"ttl below 0":       {pushcoretest.TTL(-time.Second), codes.InvalidArgument, "policy.ttl"},
		"qos 2":             {func(r *pushv1.PushRequest) { r.Policy.Qos = &qos }, codes.InvalidArgument, "policy.qos"},
		"unknown priority":  {func(r *pushv1.PushRequest) { r.Policy.Priority = 9 }, codes.InvalidArgument, "policy.priority"},
		"long collapse key": {pushcoretest.Collapse(strings.Repeat("x", 65)), codes.InvalidArgument, "policy.collapse_key"},
		"long idempotency":  {pushcoretest.Once(strings.Repeat("x", 129)), codes.InvalidArgument, "policy.idempotency_key"},
		"long title":        {pushcoretest.Title(strings.Repeat("x", 257)), codes.InvalidArgument, "notification.title"},
		"a click without a value": {func(r *pushv1.PushRequest) {
			r.Notification.Click = &pushv1.Click{Type: pushv1.Click_URL}
		}, codes.InvalidArgument, "notification.click"},
		"an image that is no address": {func(r *pushv1.PushRequest) { r.Notification.Image = "picture" }, codes.InvalidArgument, "notification.image"},
		"content over 4 KiB": {func(r *pushv1.PushRequest) {
			r.Data = map[string]string{"k": strings.Repeat("x", 4096)}
		}, codes.InvalidArgument, "notification"},
		"overrides over 4 KiB": {func(r *pushv1.PushRequest) {
			r.Overrides = map[string]*structpb.Struct{"fcm": {Fields: map[string]*structpb.Value{
				"k": structpb.NewStringValue(strings.Repeat("x", 4096)),
			}}}
		}, codes.InvalidArgument, "notification"},
		"an override for nobody": {func(r *pushv1.PushRequest) {
			r.Overrides = map[string]*structpb.Struct{"pigeon": {}}
		}, codes.InvalidArgument, `overrides["pigeon"]`},
		"tag expression": {func(r *pushv1.PushRequest) {
			r.Audience = &pushv1.Audience{Target: &pushv1.Audience_Expression{Expression: "a AND b"}}
		}, codes.Unimplemented, "audience.expression"},
		"uploaded list": {func(r *pushv1.PushRequest) {
			r.Audience = &pushv1.Audience{Target: &pushv1.Audience_List{List: "l"}}
		}, codes.Unimplemented, "audience.list"},
		"a channel that is none": {func(r *pushv1.PushRequest) {
			r.Policy.DisabledChannels = []string{"pigeon"}
		}, codes.InvalidArgument, "policy.disabled_channels[0]"},
		"the own channel disabled": {func(r *pushv1.PushRequest) {
			r.Policy.DisabledChannels = []string{"halley"}
		}, codes.InvalidArgument, "policy.disabled_channels[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := app.TryPush(t, pushcoretest.ToUsers("alice"), c.change)
			reason := "INVALID_FIELD"
			if c.code == codes.Unimplemented {
				reason = "NOT_BUILT"
			}
			wantError(t, err, c.code, reason, c.field)
		})
	}
	app.Push(t, pushcoretest.ToTokens(tokens(1000)...), func(r *pushv1.PushRequest) {
		r.Notification.Title, r.Policy.Ttl = strings.Repeat("标", 256), durationpb.New(7*24*time.Hour)
	})
}

func TestUnknownTokensFailAtOnceAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, other := core.NewApp(t, nil), core.NewApp(t, nil)
	phone, stranger := app.Register(t), other.Register(t)
	id := app.Push(t, pushcoretest.ToTokens("made-up", stranger.Token, phone.Token, phone.Token))
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 1, Failed: 2})
	for _, token := range []string{"made-up", stranger.Token} {
		d := app.Delivery(t, id, &pushcoretest.Device{App: app, Token: token})
		wantDelivery(t, d, pushv1.Delivery_FAILED, pushv1.Delivery_UNKNOWN_DEVICE)
	}
	if n := len(app.Deliveries(t, id)); n != 3 {
		t.Errorf("%d deliveries", n)
	}
	only := app.Push(t, pushcoretest.ToTokens("made-up"))
	if got := app.Get(t, only).GetState(); got != pushv1.Push_ENDED {
		t.Errorf("a push for nobody is %s", got)
	}
}

func TestRESTSpeaksProtoNames(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	auth := pushcoretest.Bearer(app.ServerKey)
	body := `{"audience":{"users":{"ids":["alice"]}},"notification":{"title":"Hi","body":"…","click":{"type":"URL","value":"https://a.b"},
		"badge":{"set":3},"channel_id":"news"},"policy":{"ttl":"60s","idempotency_key":"order-7-shipped","channel":"OWN_FIRST","qos":1}}`
	answer := core.REST(t, "POST", "/v1/apps/"+app.ID+"/pushes", body, auth)
	made := answer.Decode(t)
	if answer.Code != http.StatusOK || made["state"] != "ACCEPTED" || len(made) != 2 {
		t.Fatalf("push: %d %s", answer.Code, answer.Body)
	}
	id := made["push_id"].(string)

	shown := core.REST(t, "GET", "/v1/apps/"+app.ID+"/pushes/"+id, "", auth).Decode(t)
	policy, counts := shown["policy"].(map[string]any), shown["counts"].(map[string]any)
	if shown["push_id"] != id || policy["ttl"] != "60s" || policy["channel"] != "OWN_FIRST" ||
		counts["pending"] != 1.0 || counts["targeted"] != 1.0 || counts["clicked"] != 0.0 {
		t.Errorf("the push reads %v", shown)
	}
	if _, err := time.Parse(time.RFC3339, shown["created_at"].(string)); err != nil {
		t.Errorf("created_at: %v", err)
	}
	deliveries := core.REST(t, "GET", "/v1/apps/"+app.ID+"/pushes/"+id+"/deliveries?state=PENDING&page_size=10", "", auth).Decode(t)
	first := deliveries["deliveries"].([]any)[0].(map[string]any)
	if first["user"] != "alice" || first["reason"] != "NO_DEVICE" || first["state"] != "PENDING" {
		t.Errorf("the delivery reads %v", first)
	}

	base := "/v1/apps/" + app.ID
	for _, c := range []struct{ method, path, body string }{
		{"POST", base + "/users/alice/devices", fmt.Sprintf(`{"device":%q}`, phone.Token)},
		{"GET", base + "/users/alice/devices", ""},
		{"GET", base + "/devices/" + phone.Token, ""},
		{"GET", base + "/devices?user=alice", ""},
		{"GET", base + "/pushes", ""},
		{"POST", base + "/pushes:batch", `{"pushes":[` + body + `]}`},
		{"DELETE", base + "/users/alice/devices/" + phone.Token, ""},
		{"DELETE", base + "/devices/" + phone.Token, ""},
	} {
		if answer := core.REST(t, c.method, c.path, c.body, auth); answer.Code != http.StatusOK {
			t.Errorf("%s %s: %d %s", c.method, c.path, answer.Code, answer.Body)
		}
	}
	if answer := core.REST(t, "GET", base+"/devices/"+phone.Token, "", auth); answer.Code != http.StatusNotFound {
		t.Errorf("a removed device: %d %s", answer.Code, answer.Body)
	}
}

func TestRESTRefusesWhatItDoesNotKnowByName(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	auth := pushcoretest.Bearer(app.ServerKey)
	for name, c := range map[string]struct{ method, path, body, field string }{
		"field": {"POST", "/pushes", `{"audience":{"all":{}},"notification":{"title":"x"},"polcy":{}}`, "polcy"},
		"inner field": {
			"POST", "/pushes", `{"audience":{"all":{}},"notification":{"titel":"x"}}`, "titel",
		},
		"query":     {"GET", "/pushes?page_sise=3", "", "page_sise"},
		"no JSON":   {"POST", "/pushes", `{"audience":`, ""},
		"push id":   {"GET", "/pushes/17", "", "push_id"},
		"page size": {"GET", "/pushes?page_size=101", "", "page_size"},
		"a word":    {"POST", "/pushes", `{"audience":{"all":{}},"notification":{"title":"x"},"policy":{"priority":"URGENT"}}`, ""},
	} {
		answer := core.REST(t, c.method, "/v1/apps/"+app.ID+c.path, c.body, auth)
		if answer.Code != http.StatusBadRequest || !strings.Contains(answer.Header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
			continue
		}
		if got := restField(t, answer); got != c.field {
			t.Errorf("%s: the field is %q, want %q: %s", name, got, c.field, answer.Body)
		}
	}
	unknown := "/v1/apps/" + app.ID + "/pushes/01935f3e-0000-7000-8000-000000000000"
	for _, c := range []struct {
		method, path, body string
		code               int
		reason             string
	}{
		{"GET", unknown, "", http.StatusNotFound, "PUSH_NOT_FOUND"},
		{"GET", unknown + "/deliveries", "", http.StatusNotFound, "PUSH_NOT_FOUND"},
		{"GET", "/v2/anything", "", http.StatusNotFound, "NO_SUCH_CALL"},
		{"GET", "/v1/anything", "", http.StatusNotFound, "NO_SUCH_CALL"},
		{"PUT", "/v1/apps/" + app.ID + "/pushes", "{}", http.StatusMethodNotAllowed, "NO_SUCH_CALL"},
		{"POST", "/v1/apps/" + app.ID + "/pushes", `{"payload":"` + strings.Repeat("x", 17<<20) + `"}`, http.StatusBadRequest, "BODY_TOO_LARGE"},
	} {
		answer := core.REST(t, c.method, c.path, c.body, auth)
		if answer.Code != c.code || !json.Valid([]byte(answer.Body)) || !strings.Contains(answer.Body, c.reason) {
			t.Errorf("%s %s: %d %s", c.method, c.path, answer.Code, answer.Body)
		}
	}
	answer := core.REST(t, "POST", "/v1/apps/"+app.ID+"/pushes",
		`{"audience":{"expression":"a"},"notification":{"title":"x"}}`, auth)
	if answer.Code != http.StatusNotImplemented || restField(t, answer) != "audience.expression" {
		t.Errorf("not built: %d %s", answer.Code, answer.Body)
	}
}

// restField returns the field that an error names, empty if none.
func restField(t *testing.T, a pushcoretest.Answer) string {
	t.Helper()
	for _, detail := range a.Decode(t)["details"].([]any) {
		d := detail.(map[string]any)
		if violations, ok := d["field_violations"].([]any); ok && len(violations) > 0 {
			return violations[0].(map[string]any)["field"].(string)
		}
	}
	return ""
}

func TestPhoneCallsExplainThemselves(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	for name, c := range map[string]struct {
		method, path, body string
		http               int
		code, field        string
	}{
		"unknown platform": {"POST", "report", `{"platform":"fridge"}`, 400, "INVALID_ARGUMENT", "platform"},
		"wrong kind":       {"POST", "report", `{"notifications":"yes"}`, 400, "INVALID_ARGUMENT", "notifications"},
		"no JSON":          {"POST", "events", `[{]`, 400, "INVALID_ARGUMENT", ""},
		"event type":       {"POST", "events", `[{"push_id":"01935f3e-0000-7000-8000-000000000000","type":"eaten"}]`, 400, "INVALID_ARGUMENT", "events[0].type"},
		"push id":          {"POST", "events", `{"events":[{"push_id":"7","type":"shown"}]}`, 400, "INVALID_ARGUMENT", "events[0].push_id"},
		"tags":             {"POST", "tags", `{"add":["a"]}`, 501, "UNIMPLEMENTED", ""},
		"no such call":     {"POST", "dance", `{}`, 404, "NOT_FOUND", ""},
		"no proof":         {"POST", "bind", `{"user":"alice"}`, 403, "PERMISSION_DENIED", "proof"},
		"limit":            {"GET", "pending?limit=101", "", 400, "INVALID_ARGUMENT", "limit"},
		"no number":        {"GET", "pending?limit=x", "", 400, "INVALID_ARGUMENT", "limit"},
		"too large":        {"POST", "report", `{"model":"` + strings.Repeat("x", 70_000) + `"}`, 400, "INVALID_ARGUMENT", ""},
	} {
		answer := core.REST(t, c.method, "/device/v1/"+c.path, c.body, phone.Basic)
		shown, _ := answer.Decode(t)["error"].(map[string]any)
		field, _ := shown["field"].(string)
		if answer.Code != c.http || shown["code"] != c.code || field != c.field || shown["message"] == "" {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
		}
	}
	// An event about a push that is not there is passed over, and a single event needs no array.
	phone.Call(t, "events", `{"push_id":"01935f3e-0000-7000-8000-000000000000","type":"shown","at":"1732330000000","later":{}}`)
	if answer := core.REST(t, "POST", "/device/v1/report", "", phone.Basic); answer.Code != 200 || answer.Body != "{}" {
		t.Errorf("an empty report: %d %s", answer.Code, answer.Body)
	}
}

func TestPagesFollowEachOtherAndCursorsAreSealed(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, other := core.NewApp(t, nil), core.NewApp(t, nil)
	var phones []*pushcoretest.Device
	for range 7 {
		phones = append(phones, app.Register(t))
	}
	push := app.Push(t, pushcoretest.ToDevices(phones...), func(r *pushv1.PushRequest) {
		tokens := r.GetAudience().GetDevices()
		tokens.Tokens = append(tokens.Tokens, "x", "y", "z")
	})
	everyone := app.Push(t, pushcoretest.ToAll())
	waitTargeted(t, app, everyone)
	users := app.Push(t, pushcoretest.ToUsers("a", "b", "c"))
	base := "/v1/apps/" + app.ID
	cursors := map[string]string{}
	for path, c := range map[string]struct {
		list, key string
		want      int
	}{
		base + "/devices":                            {"devices", "token", 7},
		base + "/pushes":                             {"pushes", "push_id", 3},
		base + "/pushes/" + push + "/deliveries":     {"deliveries", "device", 10},
		base + "/pushes/" + everyone + "/deliveries": {"deliveries", "device", 7},
		base + "/pushes/" + users + "/deliveries":    {"deliveries", "user", 3},
	} {
		seen := map[any]bool{}
		cursor := ""
		for {
			answer := core.REST(t, "GET", path+"?page_size=2&page_token="+cursor, "", pushcoretest.Bearer(app.ServerKey))
			page := answer.Decode(t)
			list := page[c.list].([]any)
			if len(list) > 2 {
				t.Errorf("%s: a page of %d", path, len(list))
			}
			for _, entry := range list {
				seen[entry.(map[string]any)[c.key]] = true
			}
			if cursor = page["next_page_token"].(string); cursor == "" {
				break
			}
			cursors[path] = cursor
		}
		if len(seen) != c.want {
			t.Errorf("%s: %d entries, want %d", path, len(seen), c.want)
		}
	}
	otherPush := other.Push(t, pushcoretest.ToUsers("a"))
	for path, cursor := range cursors {
		for _, wrong := range []string{
			strings.Replace(path, app.ID, other.ID, 1), base + "/devices", base + "/pushes",
			base + "/pushes/" + push + "/deliveries", "/v1/apps/" + other.ID + "/pushes/" + otherPush + "/deliveries",
		} {
			if wrong == path {
				continue
			}
			key := app.ServerKey
			if strings.Contains(wrong, other.ID) {
				key = other.ServerKey
			}
			answer := core.REST(t, "GET", wrong+"?page_token="+cursor, "", pushcoretest.Bearer(key))
			// Another app's push is not found at all.
			if answer.Code != http.StatusBadRequest && !(answer.Code == http.StatusNotFound && strings.Contains(wrong, other.ID)) {
				t.Errorf("the cursor of %s works on %s: %d", path, wrong, answer.Code)
			}
		}
		broken := []byte(cursor)
		broken[len(broken)/2] ^= 1
		answer := core.REST(t, "GET", path+"?page_token="+string(broken), "", pushcoretest.Bearer(app.ServerKey))
		if answer.Code != http.StatusBadRequest || restField(t, answer) != "page_token" {
			t.Errorf("a broken cursor: %d %s", answer.Code, answer.Body)
		}
	}
	shown := core.REST(t, "GET", base+"/pushes/"+push+"/deliveries?state=FAILED", "", pushcoretest.Bearer(app.ServerKey)).Decode(t)
	if n := len(shown["deliveries"].([]any)); n != 3 {
		t.Errorf("%d failed deliveries, want 3", n)
	}
}

func TestPhoneJSONOfAMessage(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	app.Bind(t, "alice", phone)
	id := app.Push(t, pushcoretest.ToUsers("alice"), pushcoretest.Collapse("order-7"), func(r *pushv1.PushRequest) {
		r.Notification = &pushv1.Notification{
			Title: "Hi", Body: "“…”\n", Image: "https://a.b/c.png", Click: &pushv1.Click{Type: pushv1.Click_PAGE, Value: "/orders/7"},
			Badge: &pushv1.Badge{Change: &pushv1.Badge_Set{Set: 0}}, Sound: "default", Group: "orders", ChannelId: "news",
		}
		r.Data = map[string]string{"b": "2", "a": "1"}
		r.Policy.Priority = pushv1.Policy_HIGH
	})
	m := phone.Pending(t, 1)[0]
	sent, expires := m["sent_at"].(float64), m["expires_at"].(float64)
	if expires-sent != 86_400_000 || time.Since(time.UnixMilli(int64(sent))).Abs() > time.Minute {
		t.Errorf("sent_at %v, expires_at %v", sent, expires)
	}
	user, _ := m["user"].(string)
	if !strings.HasPrefix(user, "u_") {
		t.Errorf("user is %q", user)
	}
	delete(m, "sent_at")
	delete(m, "expires_at")
	delete(m, "user")
	want := map[string]any{
		"push_id": id, "kind": "notification", "title": "Hi", "body": "“…”\n", "image": "https://a.b/c.png",
		"click": map[string]any{"type": "page", "value": "/orders/7"}, "badge": map[string]any{"set": 0.0}, "sound": "default",
		"group": "orders", "channel_id": "news", "collapse_key": "order-7", "data": map[string]any{"a": "1", "b": "2"},
		"priority": "high",
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("the phone gets\n%v, want\n%v", m, want)
	}
}

func TestAdminMakesAndChangesAppsAndKeys(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	admin := pushcoretest.AsAdmin(t.Context())
	_, err := core.Apps.CreateApp(admin, &adminv1.CreateAppRequest{App: app.ID})
	wantError(t, err, codes.AlreadyExists, "APP_EXISTS", "app")
	_, err = core.Apps.CreateApp(admin, &adminv1.CreateAppRequest{App: "No Good"})
	wantError(t, err, codes.InvalidArgument, "INVALID_FIELD", "app")
	_, err = core.Apps.GetApp(admin, &adminv1.GetAppRequest{App: "nobody"})
	wantError(t, err, codes.NotFound, "APP_NOT_FOUND", "")

	shown, err := core.Apps.GetApp(admin, &adminv1.GetAppRequest{App: app.ID})
	s := shown.GetApp().GetSettings()
	if err != nil || s.GetKeepAlive().AsDuration() != 270*time.Second || s.GetDeviceCap() != 100 || s.GetBindPolicy() != adminv1.Settings_PROOF {
		t.Errorf("the defaults read %v, %v", s, err)
	}
	answer := core.REST(t, "PATCH", "/admin/v1/apps/"+app.ID, `{"settings":{"device_cap":7,"bind_policy":"OPEN"}}`,
		pushcoretest.Bearer(pushcoretest.AdminToken))
	changed, _ := answer.Decode(t)["settings"].(map[string]any)
	if answer.Code != 200 || changed["device_cap"] != 7.0 || changed["bind_policy"] != "OPEN" || changed["keep_alive"] != "270s" {
		t.Errorf("changed: %d %s", answer.Code, answer.Body)
	}
	_, err = core.Apps.UpdateApp(admin, &adminv1.UpdateAppRequest{App: app.ID, Settings: &adminv1.Settings{
		KeepAlive: durationpb.New(700 * time.Second),
	}})
	wantError(t, err, codes.InvalidArgument, "INVALID_FIELD", "settings.keep_alive")

	made, err := core.Apps.CreateKey(admin, &adminv1.CreateKeyRequest{App: app.ID, Kind: adminv1.Key_SERVER, Note: "second"})
	if err != nil || !strings.HasPrefix(made.GetSecret(), "sk_") || !strings.HasPrefix(made.GetSecret(), made.GetKey().GetPrefix()) {
		t.Fatalf("made: %v, %v", made, err)
	}
	second := *app
	second.ServerKey = made.GetSecret()
	id := second.Push(t, pushcoretest.ToUsers("alice"))
	if _, err := core.Apps.RevokeKey(admin, &adminv1.RevokeKeyRequest{App: app.ID, KeyId: made.GetKey().GetKeyId()}); err != nil {
		t.Fatal(err)
	}
	_, err = second.TryPush(t, pushcoretest.ToUsers("alice"))
	wantError(t, err, codes.Unauthenticated, "WRONG_KEY", "")
	app.Get(t, id)
	listed, err := core.Apps.ListKeys(admin, &adminv1.ListKeysRequest{App: app.ID})
	if err != nil || len(listed.GetKeys()) != 3 || listed.GetKeys()[2].GetRevokedAt() == nil {
		t.Errorf("keys: %v, %v", listed, err)
	}
	for range 3 {
		core.NewApp(t, nil)
	}
	first, err := core.Apps.ListApps(admin, &adminv1.ListAppsRequest{PageSize: 3})
	if err != nil || len(first.GetApps()) != 3 {
		t.Fatalf("apps: %v, %v", first, err)
	}
	rest, err := core.Apps.ListApps(admin, &adminv1.ListAppsRequest{PageSize: 3, PageToken: first.GetNextPageToken()})
	if err != nil || len(rest.GetApps()) != 1 || slices.ContainsFunc(first.GetApps(), func(a *adminv1.App) bool {
		return a.GetApp() == rest.GetApps()[0].GetApp()
	}) {
		t.Errorf("the rest: %v, %v", rest, err)
	}
}

func TestChangesReachOtherReplicasAtOnce(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	twin := core.Site.Start(t)
	app := core.NewApp(t, nil)
	if _, err := app.On(twin).TryPush(t, pushcoretest.ToUsers("alice")); err != nil { // the twin has the key in its cache
		t.Fatal(err)
	}
	admin := pushcoretest.AsAdmin(t.Context())
	keys, err := core.Apps.ListKeys(admin, &adminv1.ListKeysRequest{App: app.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys.GetKeys() {
		if _, err := core.Apps.RevokeKey(admin, &adminv1.RevokeKeyRequest{App: app.ID, KeyId: k.GetKeyId()}); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	pushcoretest.Eventually(t, "the twin refuses the key", func() bool {
		_, err := app.On(twin).TryPush(t, pushcoretest.ToUsers("alice"))
		return err != nil
	})
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v: the cache expired, nobody told", took)
	}
}
