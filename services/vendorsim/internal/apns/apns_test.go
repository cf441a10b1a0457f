package apns_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/services/vendorsim/internal/apns"
	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
)

const bundle = "com.example.demo"

// rig is Apple with the app demo, whose credentials a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		TeamID string `json:"team_id"`
		KeyID  string `json:"key_id"`
		Key    string `json:"key"`
	}
}

func start(t *testing.T, e apns.Environment) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return apns.New(f, e) }, frametest.OverTLS("h2"))}
	r.Register(`{"app":"demo","bundle_id":"com.example.demo","broadcast":true}`, &r.App)
	return r
}

// sign makes a provider token as the sheet says: ES256, kid, iss and iat.
func (r *rig) sign(change func(*jwt.Token)) string {
	r.t.Helper()
	key, err := jwt.ParseECPrivateKeyFromPEM([]byte(r.App.Key))
	frametest.Must(r.t, err)
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": r.App.TeamID, "iat": r.Clock.Now().Unix()})
	token.Header["kid"] = r.App.KeyID
	if change != nil {
		change(token)
	}
	text, err := token.SignedString(key)
	frametest.Must(r.t, err)
	return text
}

// headers are those of a good alert.
func (r *rig) headers() [][2]string {
	r.t.Helper()
	return [][2]string{
		{"authorization", "bearer " + r.sign(nil)},
		{"apns-topic", bundle},
		{"apns-push-type", "alert"},
		{"apns-id", "eabeae54-14a8-11e5-b60b-1697f925ec7b"},
		{"apns-expiration", "0"},
		{"apns-priority", "10"},
		{"apns-collapse-id", "news"},
	}
}

const (
	alert = `{"aps":{"alert":{"title":"Hi","body":"there"},"badge":1},"halley":{"push_id":"01935f3e-0000-7000-8000-000000000001"}}`
	token = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
)

// with replaces a header; an empty value removes it.
func with(headers [][2]string, name, value string) [][2]string {
	var changed [][2]string
	for _, h := range headers {
		if h[0] != name {
			changed = append(changed, h)
		}
	}
	if value != "" {
		changed = append(changed, [2]string{name, value})
	}
	return changed
}

func TestAGoodAlertIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	a := r.Do("POST", "/3/device/"+token, r.headers(), alert)
	if a.Status != http.StatusOK || a.Body != "" || a.Header.Get("apns-id") != "eabeae54-14a8-11e5-b60b-1697f925ec7b" {
		t.Fatalf("answered %+v", a)
	}
	if a.Header.Get("apns-unique-id") != "" {
		t.Error("production gives apns-unique-id")
	}
	got := r.Last()
	if got.App != "demo" || got.Tokens[0] != token || got.PushID != "01935f3e-0000-7000-8000-000000000001" ||
		got.DedupID != "eabeae54-14a8-11e5-b60b-1697f925ec7b" || got.Body != alert || got.Headers["Apns-Topic"] != bundle ||
		got.Headers["Authorization"] != "" {
		t.Errorf("recorded %+v", got)
	}
	pairs := r.Frame.Record.Pairs()
	if len(pairs) != 1 || pairs[0] != (frame.Pair{Token: token, PushID: got.PushID, Count: 1}) {
		t.Errorf("pairs are %v", pairs)
	}
}

func TestSandboxGivesAUniqueIDAndAnIDIsMade(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Sandbox)
	a := r.Do("POST", "/3/device/"+token, with(r.headers(), "apns-id", ""), alert)
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	if a.Status != http.StatusOK || !form.MatchString(a.Header.Get("apns-id")) || a.Header.Get("apns-unique-id") == "" {
		t.Fatalf("answered %+v", a)
	}
}

func TestRequestsAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	long := strings.Repeat("x", 5200)
	cases := []struct {
		name, method, path, header, value, body string
		status                                  int
		reason                                  string
	}{
		{name: "path", path: "/2/device/" + token, status: 404, reason: "BadPath"},
		{name: "method", method: "GET", status: 405, reason: "MethodNotAllowed"},
		{name: "no token", path: "/3/device/", status: 400, reason: "MissingDeviceToken"},
		{name: "token is no hex", path: "/3/device/" + strings.Repeat("zz", 32), status: 400, reason: "BadDeviceToken"},
		{name: "token is short", path: "/3/device/00fc13ad", status: 400, reason: "BadDeviceToken"},
		{name: "id in capitals", header: "apns-id", value: "EABEAE54-14A8-11E5-B60B-1697F925EC7B", status: 400, reason: "BadMessageId"},
		{name: "id is no uuid", header: "apns-id", value: "1", status: 400, reason: "BadMessageId"},
		{name: "expiration", header: "apns-expiration", value: "soon", status: 400, reason: "BadExpirationDate"},
		{name: "relative expiration is taken", header: "apns-expiration", value: "300", status: 200},
		{name: "priority", header: "apns-priority", value: "7", status: 400, reason: "BadPriority"},
		{name: "priority 1", header: "apns-priority", value: "1", status: 200},
		{name: "background is not 10", header: "apns-push-type", value: "background", status: 400, reason: "BadPriority"},
		{name: "collapse id of 64", header: "apns-collapse-id", value: strings.Repeat("c", 64), status: 200},
		{name: "collapse id of 65", header: "apns-collapse-id", value: strings.Repeat("c", 65), status: 400, reason: "BadCollapseId"},
		{name: "push type", header: "apns-push-type", value: "shout", status: 400, reason: "InvalidPushType"},
		{name: "no push type", header: "apns-push-type", status: 200},
		{name: "no topic", header: "apns-topic", status: 400, reason: "MissingTopic"},
		{name: "topic of nobody", header: "apns-topic", value: "com.example.other", status: 400, reason: "TopicDisallowed"},
		{name: "topic is no topic", header: "apns-topic", value: "com example", status: 400, reason: "BadTopic"},
		{name: "voip without its suffix", header: "apns-push-type", value: "voip", status: 400, reason: "BadTopic"},
		{name: "topic twice", header: "apns-topic", value: "+" + bundle, status: 400, reason: "DuplicateHeaders"},
		{name: "empty body", body: " ", status: 400, reason: "PayloadEmpty"},
		{name: "4097 bytes", body: `{"aps":"` + long[:4097-10] + `"}`, status: 413, reason: "PayloadTooLarge"},
		{name: "4096 bytes", body: `{"aps":"` + long[:4096-10] + `"}`, status: 200},
		{name: "no credential", header: "authorization", status: 403, reason: "MissingProviderToken"},
		{name: "no jwt", header: "authorization", value: "bearer x", status: 403, reason: "InvalidProviderToken"},
	}
	good := r.headers()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			headers, method, path, body := good, "POST", "/3/device/"+token, alert
			if value, twice := strings.CutPrefix(c.value, "+"); twice {
				headers = append(with(good, "", ""), [2]string{c.header, value})
			} else if c.header != "" {
				headers = with(good, c.header, c.value)
			}
			if c.method != "" {
				method = c.method
			}
			if c.path != "" {
				path = c.path
			}
			if c.body != "" {
				body = strings.TrimSpace(c.body)
			}
			a := r.Do(method, path, headers, body)
			if a.Status != c.status {
				t.Fatalf("answered %d %s, want %d", a.Status, a.Body, c.status)
			}
			if c.reason != "" && a.Field(t, "reason") != c.reason {
				t.Errorf("reason %s, want %s", a.Body, c.reason)
			}
		})
	}
}

func TestPushTypesHaveTheirTopics(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	good := r.headers()
	for pushType, suffix := range map[string]string{
		"alert": "", "voip": ".voip", "complication": ".complication", "fileprovider": ".pushkit.fileprovider",
		"location": ".location-query", "liveactivity": ".push-type.liveactivity", "pushtotalk": ".voip-ptt",
		"controls": ".push-type.controls", "widgets": ".push-type.widgets",
	} {
		headers := with(with(good, "apns-push-type", pushType), "apns-topic", bundle+suffix)
		if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != http.StatusOK {
			t.Errorf("%s: answered %d %s", pushType, a.Status, a.Body)
		}
	}
	voip := with(with(good, "apns-push-type", "voip"), "apns-topic", bundle+".voip")
	for size, status := range map[int]int{5120: 200, 5121: 413} {
		body := `{"aps":"` + strings.Repeat("x", size-10) + `"}`
		if a := r.Do("POST", "/3/device/"+token, voip, body); a.Status != status {
			t.Errorf("voip of %d bytes: answered %d, want %d", size, a.Status, status)
		}
	}
	background := with(with(good, "apns-push-type", "background"), "apns-priority", "5")
	if a := r.Do("POST", "/3/device/"+token, background, `{"aps":{"content-available":1}}`); a.Status != http.StatusOK || r.Last().Notes != nil {
		t.Errorf("background: answered %d %s, noted %v", a.Status, a.Body, r.Last().Notes)
	}
}

func TestProviderTokens(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, reason string
		change       func(*jwt.Token)
	}{
		{name: "good"},
		{"59 minutes old", "", func(t *jwt.Token) { age(t, 59*time.Minute) }},
		{"61 minutes old", "ExpiredProviderToken", func(t *jwt.Token) { age(t, 61*time.Minute) }},
		{"from the future", "InvalidProviderToken", func(t *jwt.Token) { age(t, -10*time.Minute) }},
		{"in milliseconds", "InvalidProviderToken", func(t *jwt.Token) {
			claims := t.Claims.(jwt.MapClaims)
			claims["iat"] = claims["iat"].(int64) * 1000
		}},
		{"without iat", "InvalidProviderToken", func(t *jwt.Token) { delete(t.Claims.(jwt.MapClaims), "iat") }},
		{"of another team", "InvalidProviderToken", func(t *jwt.Token) { t.Claims.(jwt.MapClaims)["iss"] = "0000000000" }},
		{"of an unknown key", "InvalidProviderToken", func(t *jwt.Token) { t.Header["kid"] = "0000000000" }},
		{"without kid", "InvalidProviderToken", func(t *jwt.Token) { delete(t.Header, "kid") }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, apns.Production)
			a := r.Do("POST", "/3/device/"+token, with(r.headers(), "authorization", "bearer "+r.sign(c.change)), alert)
			if c.reason == "" && a.Status == http.StatusOK {
				return
			}
			if a.Status != http.StatusForbidden || a.Field(t, "reason") != c.reason {
				t.Errorf("answered %d %s, want %s", a.Status, a.Body, c.reason)
			}
		})
	}
}

func age(t *jwt.Token, by time.Duration) {
	claims := t.Claims.(jwt.MapClaims)
	claims["iat"] = claims["iat"].(int64) - int64(by/time.Second)
}

func TestASignatureOfAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	r, other := start(t, apns.Production), start(t, apns.Production)
	own := r.App.Key
	r.App.Key = other.App.Key
	headers := r.headers()
	r.App.Key = own
	if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != 403 || a.Field(t, "reason") != "InvalidProviderToken" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
}

// A token is kept for 20 minutes at least and used for 60 at most.
func TestTheTokenMustNotChangeTooOften(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	first := r.headers()
	send := func(headers [][2]string, status int, reason string) {
		t.Helper()
		a := r.Do("POST", "/3/device/"+token, headers, alert)
		if a.Status != status || reason != "" && a.Field(t, "reason") != reason {
			t.Fatalf("answered %d %s, want %d %s", a.Status, a.Body, status, reason)
		}
	}
	send(first, 200, "")
	r.Clock.Move(19 * time.Minute)
	send(r.headers(), 429, "TooManyProviderTokenUpdates")
	send(first, 200, "")
	r.Clock.Move(2 * time.Minute)
	second := r.headers()
	send(second, 200, "")
	r.Clock.Move(61 * time.Minute)
	send(second, 403, "ExpiredProviderToken")
	send(r.headers(), 200, "")
	r.Frame.Sessions.Expire("demo")
	r.Clock.Move(time.Second)
	send(r.headers(), 429, "TooManyProviderTokenUpdates") // nobody has been told yet that the one before is expired
}

func TestACallForExpiryMakesANewTokenNecessary(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	headers := r.headers()
	path := "/3/device/" + token
	r.Do("POST", path, headers, alert)
	r.Frame.Sessions.Expire("")
	if a := r.Do("POST", path, headers, alert); a.Status != 403 || a.Field(t, "reason") != "ExpiredProviderToken" {
		t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	if a := r.Do("POST", path, r.headers(), alert); a.Status != 200 {
		t.Fatalf("answered %d %s to a new token", a.Status, a.Body)
	}
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	if a := r.Do("POST", path, r.headers(), alert); a.Status == 200 {
		t.Fatal("a revoked credential is taken")
	}
}

// Every reason can be had by a title, and by a token in hex.
func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	frametest.CheckCodes(t, apns.Codes())
	headers := r.headers()
	for _, c := range apns.Codes() {
		if c.Status == http.StatusOK {
			continue
		}
		body := fmt.Sprintf(`{"aps":{"alert":{"title":"sim:code=%s"}}}`, c.Code)
		byTitle := r.Do("POST", "/3/device/"+token, headers, body)
		text := hex.EncodeToString([]byte("sim:code=" + c.Code + ";" + strings.Repeat(".", 32)))
		byToken := r.Do("POST", "/3/device/"+text, headers, alert)
		for _, a := range []frametest.Answer{byTitle, byToken} {
			if a.Status != c.Status || a.Field(t, "reason") != c.Code {
				t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.Status, c.Code)
			}
			if has := strings.Contains(a.Body, "timestamp"); has != (c.Status == http.StatusGone) {
				t.Errorf("%s: a timestamp comes only with 410: %s", c.Code, a.Body)
			}
		}
	}
	if n := len(r.Accepted()); n != 0 {
		t.Errorf("%d were accepted", n)
	}
}

func TestUnregisteredNamesATimeInMilliseconds(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	headers := r.headers()
	body := `{"aps":{"alert":"sim:code=Unregistered,at=1732330000000"}}`
	a := r.Do("POST", "/3/device/"+token, headers, body)
	if a.Status != http.StatusGone || a.Field(t, "timestamp") != "1732330000000" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	r.Patch(`{"invalid_share":1}`)
	a = r.Do("POST", "/3/device/"+token, headers, alert)
	if a.Status != http.StatusGone || a.Field(t, "timestamp") != fmt.Sprint(r.Clock.Now().UnixMilli()) {
		t.Errorf("a token that is dead by share: answered %d %s", a.Status, a.Body)
	}
}

func TestTokensBelongToAnAppAndAnEnvironment(t *testing.T) {
	t.Parallel()
	r, sandbox := start(t, apns.Production), start(t, apns.Sandbox)
	r.Register(`{"app":"second","bundle_id":"com.example.second"}`, new(struct{}))
	headers := r.headers()
	for token, want := range map[string]string{
		r.Tokens("demo", 1)[0]:       "",
		r.Tokens("second", 1)[0]:     "DeviceTokenNotForTopic",
		sandbox.Tokens("demo", 1)[0]: "BadDeviceToken",
	} {
		a := r.Do("POST", "/3/device/"+token, headers, alert)
		if want == "" && a.Status != 200 || want != "" && a.Field(t, "reason") != want {
			t.Errorf("answered %d %s, want %s", a.Status, a.Body, want)
		}
	}
}

func TestLimitedKeys(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]string{
		`{"app":"demo","bundle_id":"com.example.demo","key_environment":"sandbox"}`:            "BadEnvironmentKeyIdInToken",
		`{"app":"demo","bundle_id":"com.example.demo","key_topics":["com.example.demo.voip"]}`: "UnrelatedKeyIdInToken",
	} {
		r := start(t, apns.Production)
		r.Register(document, &r.App)
		if a := r.Do("POST", "/3/device/"+token, r.headers(), alert); a.Status != 403 || a.Field(t, "reason") != want {
			t.Errorf("answered %d %s, want %s", a.Status, a.Body, want)
		}
	}
}

func TestAConnectionIsForOneTeam(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	if a := r.Do("POST", "/3/device/"+token, r.headers(), alert); a.Status != 200 {
		t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	r.Register(`{"app":"second","bundle_id":"com.example.second"}`, &r.App)
	headers := with(r.headers(), "apns-topic", "com.example.second")
	if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != 403 || a.Field(t, "reason") != "InvalidProviderToken" {
		t.Errorf("answered %d %s to another team", a.Status, a.Body)
	}
	r.Client.CloseIdleConnections()
	if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != 200 {
		t.Errorf("answered %d %s on a connection of its own", a.Status, a.Body)
	}
}

func TestTheAppsLimitIsTooManyRequests(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	r.Patch(`{"limit":{"per_second":1,"burst":2}}`)
	headers := r.headers()
	for _, want := range []int{200, 200, 429} {
		if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != want {
			t.Fatalf("answered %d %s, want %d", a.Status, a.Body, want)
		}
	}
	r.Clock.Move(time.Second)
	if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != 200 {
		t.Errorf("answered %d %s a second later", a.Status, a.Body)
	}
}

func TestBroadcastChannels(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	auth := r.headers()[0]
	manage := "/1/apps/" + bundle + "/channels"
	created := r.Do("POST", manage, [][2]string{auth}, `{"message-storage-policy":0,"push-type":"LiveActivity"}`)
	id := created.Header.Get("apns-channel-id")
	if created.Status != http.StatusCreated || id == "" {
		t.Fatalf("answered %+v", created)
	}
	channel := [2]string{"apns-channel-id", id}
	read := r.Do("GET", manage, [][2]string{auth, channel}, "")
	if read.Status != 200 || read.Field(t, "message-storage-policy") != "0" || read.Field(t, "push-type") != "LiveActivity" {
		t.Errorf("answered %+v", read)
	}
	var list struct{ Channels []string }
	frametest.Must(t, json.Unmarshal([]byte(r.Do("GET", "/1/apps/"+bundle+"/all-channels", [][2]string{auth}, "").Body), &list))
	if len(list.Channels) != 1 || list.Channels[0] != id {
		t.Errorf("channels are %v", list)
	}

	send := "/4/broadcasts/apps/" + bundle
	headers := [][2]string{auth, channel, {"apns-push-type", "liveactivity"}, {"apns-expiration", "0"}, {"apns-priority", "10"}}
	body := `{"aps":{"event":"update","timestamp":1,"content-state":{}}}`
	if a := r.Do("POST", send, headers, body); a.Status != 200 || a.Header.Get("apns-request-id") == "" || r.Last().Tokens[0] != id {
		t.Errorf("answered %+v", a)
	}
	for name, c := range map[string]struct{ header, value, body, reason string }{
		"no channel":       {"apns-channel-id", "", body, "MissingChannelId"},
		"not a channel":    {"apns-channel-id", "?", body, "BadChannelId"},
		"unknown channel":  {"apns-channel-id", "dHN0LXNyY2gtY2hubA==", body, "ChannelNotRegistered"},
		"no expiration":    {"apns-expiration", "", body, "BadExpirationDate"},
		"nothing is kept":  {"apns-expiration", "4102444800", body, "BadExpirationDate"},
		"type":             {"apns-push-type", "alert", body, "InvalidPushType"},
		"size":             {"apns-priority", "5", `{"aps":"` + strings.Repeat("x", 5120) + `"}`, "PayloadTooLarge"},
		"no authorization": {"authorization", "", body, "MissingProviderToken"},
	} {
		if a := r.Do("POST", send, with(headers, c.header, c.value), c.body); a.Field(t, "reason") != c.reason {
			t.Errorf("%s: answered %d %s, want %s", name, a.Status, a.Body, c.reason)
		}
	}
	if a := r.Do("DELETE", manage, [][2]string{auth, channel}, ""); a.Status != http.StatusNoContent {
		t.Errorf("answered %+v", a)
	}
	if a := r.Do("POST", send, headers, body); a.Field(t, "reason") != "ChannelNotRegistered" {
		t.Errorf("answered %+v for a channel that is gone", a)
	}
}
