package message_test

import (
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

func parse(t *testing.T, text string) *pushv1.PushRequest {
	t.Helper()
	r := &pushv1.PushRequest{}
	if err := protojson.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Stored idempotency keys depend on these values: they never change.
var hashes = []struct{ name, request, hash string }{
	{"devices", `{"app":"demo","audience":{"devices":{"tokens":["b","a"]}},"notification":{"title":"Hi"}}`, "608d4df6cc22b6d7706175831f22c150e6228a9e5ace7005f977561210eb3932"},
	{"users", `{"audience":{"users":{"ids":["alice"],"devices":"LATEST_BOUND"}},"payload":"p","policy":{"ttl":"0s","qos":0}}`, "f6c214959c2282b593253d4ac01ac81ade1ce23c12e2b378b611ba18e92f42eb"},
	{
		"everything", `{"audience":{"all":{}},"notification":{"title":"标题","body":"b","subtitle":"s","image":"https://a.b/c","click":{"type":"URL",
		"value":"https://a.b"},"badge":{"add":-1},"sound":"default","group":"g","channel_id":"c"},"data":{"k":"v","a":"b"},
		"overrides":{"fcm":{"ttl":"1s","nested":{"b":[1,2.5,null,true],"a":{}}}},"policy":{"ttl":"3600s","priority":"HIGH","collapse_key":"ck",
		"channel":"OWN_ONLY","qos":1,"idempotency_key":"not part of it"}}`, "ca5f08b0ee82a32f40e69798e6c52f74f40d9d81735dc9a3ba63887ed7b49f3f",
	},
}

func TestHashVectors(t *testing.T) {
	t.Parallel()
	for _, c := range hashes {
		sum := message.Hash(parse(t, c.request))
		if got := hex.EncodeToString(sum[:]); got != c.hash {
			t.Errorf("%s: %s, want %s", c.name, got, c.hash)
		}
	}
}

func TestHashIsTheContentsNotTheSpelling(t *testing.T) {
	t.Parallel()
	base := `{"audience":{"devices":{"tokens":["a","b"]}},"notification":{"title":"Hi"},"data":{"x":"1","y":"2"}`
	want := message.Hash(parse(t, base+`}`))
	for name, text := range map[string]string{
		"order and repeats": `{"data":{"y":"2","x":"1"},"notification":{"title":"Hi"},"audience":{"devices":{"tokens":["b","a","b"]}}}`,
		"defaults written":  base + `,"policy":{"ttl":"86400s","priority":"NORMAL","channel":"OWN_FIRST","qos":1}}`,
		"the key":           base + `,"policy":{"idempotency_key":"k"}}`,
		"the app":           base + `,"app":"demo"}`,
	} {
		if message.Hash(parse(t, text)) != want {
			t.Errorf("%s: another hash", name)
		}
	}
	seen := map[[32]byte]string{want: "base"}
	for name, text := range map[string]string{
		"token":     `{"audience":{"devices":{"tokens":["a"]}},"notification":{"title":"Hi"},"data":{"x":"1","y":"2"}}`,
		"joined":    `{"audience":{"devices":{"tokens":["ab"]}},"notification":{"title":"Hi"},"data":{"x":"1","y":"2"}}`,
		"users":     `{"audience":{"users":{"ids":["a","b"]}},"notification":{"title":"Hi"},"data":{"x":"1","y":"2"}}`,
		"latest":    `{"audience":{"users":{"ids":["a","b"],"devices":"LATEST_BOUND"}},"notification":{"title":"Hi"},"data":{"x":"1","y":"2"}}`,
		"body":      `{"audience":{"devices":{"tokens":["a","b"]}},"notification":{"body":"Hi"},"data":{"x":"1","y":"2"}}`,
		"no title":  `{"audience":{"devices":{"tokens":["a","b"]}},"notification":{},"data":{"x":"1","y":"2"}}`,
		"data only": `{"audience":{"devices":{"tokens":["a","b"]}},"data":{"x":"1","y":"2"}}`,
		"data":      `{"audience":{"devices":{"tokens":["a","b"]}},"notification":{"title":"Hi"},"data":{"x":"1","y":"3"}}`,
		"payload":   `{"audience":{"devices":{"tokens":["a","b"]}},"notification":{"title":"Hi"},"payload":"x"}`,
		"override":  base + `,"overrides":{"fcm":{}}}`,
		"ttl":       base + `,"policy":{"ttl":"86401s"}}`,
		"qos":       base + `,"policy":{"qos":0}}`,
		"priority":  base + `,"policy":{"priority":"LOW"}}`,
		"collapse":  base + `,"policy":{"collapse_key":"c"}}`,
		"channel":   base + `,"policy":{"channel":"OWN_ONLY"}}`,
		"disabled":  base + `,"policy":{"disabled_channels":["fcm"]}}`,
		"badge set": `{"audience":{"devices":{"tokens":["a","b"]}},"notification":{"title":"Hi","badge":{"set":1}},"data":{"x":"1","y":"2"}}`,
		"badge add": `{"audience":{"devices":{"tokens":["a","b"]}},"notification":{"title":"Hi","badge":{"add":1}},"data":{"x":"1","y":"2"}}`,
		"click":     `{"audience":{"devices":{"tokens":["a","b"]}},"notification":{"title":"Hi","click":{"type":"APP"}},"data":{"x":"1","y":"2"}}`,
	} {
		hash := message.Hash(parse(t, text))
		if other, taken := seen[hash]; taken {
			t.Errorf("%s has the hash of %s", name, other)
		}
		seen[hash] = name
	}
}

// A field that somebody adds to a request and forgets in Hash would make two different pushes one.
func TestHashLooksAtEveryField(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		message proto.Message
		fields  int
	}{
		{&pushv1.PushRequest{}, 7},
		{&pushv1.Audience{}, 5},
		{&pushv1.Audience_Users{}, 2},
		{&pushv1.Audience_Devices{}, 1},
		{&pushv1.Audience_All{}, 0},
		{&pushv1.Policy{}, 7},
		{&pushv1.Notification{}, 9},
		{&pushv1.Click{}, 2},
		{&pushv1.Badge{}, 2},
	} {
		if d := c.message.ProtoReflect().Descriptor(); d.Fields().Len() != c.fields {
			t.Errorf("%s has %d fields, Hash knows %d: teach it the new ones, and this test", d.FullName(), d.Fields().Len(), c.fields)
		}
	}
}
