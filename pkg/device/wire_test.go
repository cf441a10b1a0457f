package device_test

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/halleypush/halley/pkg/device"
	"github.com/halleypush/halley/pkg/phonejson"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
)

// The SDK has types of its own; these tests hold them to the contract's.

func TestMessagesAreReadAsTheServerWritesThem(t *testing.T) {
	t.Parallel()
	text, err := phonejson.Marshal(&devicev1.Message{
		PushId: pushID(1), Kind: devicev1.Message_NOTIFICATION, Title: "t", Subtitle: "s", Body: "b", Image: "https://i",
		Click: &devicev1.Click{Type: devicev1.Click_URL, Value: "https://c"}, Badge: &devicev1.Badge{Change: &devicev1.Badge_Set{Set: 3}},
		Sound: "default", Group: "g", ChannelId: "c", CollapseKey: "k", Data: map[string]string{"a": "b"}, Payload: "p",
		Priority: devicev1.Message_HIGH, SentAt: 1732330000001, ExpiresAt: 1732416400002, User: "u_1",
	})
	if err != nil {
		t.Fatal(err)
	}
	var got device.Message
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	three := int32(3)
	want := device.Message{
		PushID: pushID(1), Kind: device.Notification, Title: "t", Subtitle: "s", Body: "b", Image: "https://i",
		Click: &device.Click{Type: "url", Value: "https://c"}, Badge: &device.Badge{Set: &three}, Sound: "default", Group: "g",
		ChannelID: "c", CollapseKey: "k", Data: map[string]string{"a": "b"}, Payload: "p", Priority: "high",
		SentAt: device.Time{Time: time.UnixMilli(1732330000001)}, ExpiresAt: device.Time{Time: time.UnixMilli(1732416400002)}, User: "u_1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var digits device.Message
	if err := json.Unmarshal([]byte(`{"sent_at":"1732330000001"}`), &digits); err != nil || !digits.SentAt.Equal(want.SentAt.Time) {
		t.Errorf("read %v, %v", digits.SentAt, err)
	}
	if json.Unmarshal([]byte(`{"sent_at":"soon"}`), &digits) == nil {
		t.Error("took a word for a time")
	}
}

func TestReportsAreWrittenAsTheServerReadsThem(t *testing.T) {
	t.Parallel()
	no := false
	text, err := json.Marshal(device.Report{
		Platform: "android", Brand: "小米", Model: "15", OSVersion: "15", AppVersion: "4", SDKVersion: "go", Locale: "zh-CN",
		TimeZone: "Asia/Shanghai", Notifications: &no,
		ChannelTokens: []device.ChannelToken{{Channel: "xiaomi", Token: "t", AppPackage: "p", Environment: "sandbox"}, {Channel: "fcm"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := &devicev1.Report{}
	if err := phonejson.Unmarshal(text, got); err != nil {
		t.Fatal(err)
	}
	want := &devicev1.Report{
		Platform: proto.String("android"), Brand: proto.String("小米"), Model: proto.String("15"), OsVersion: proto.String("15"),
		AppVersion: proto.String("4"), SdkVersion: proto.String("go"), Locale: proto.String("zh-CN"),
		TimeZone: proto.String("Asia/Shanghai"), Notifications: proto.Bool(false),
		ChannelTokens: []*devicev1.ChannelToken{
			{Channel: "xiaomi", Token: "t", AppPackage: "p", Environment: "sandbox"}, {Channel: "fcm"},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestEventsAreWrittenAsTheServerReadsThem(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal([]device.Event{
		{PushID: pushID(1), Type: device.Arrived, At: device.Time{Time: time.UnixMilli(7)}, Channel: "apns", Action: "open"},
		{PushID: pushID(2), Type: device.Shown},
		{PushID: pushID(3), Type: device.Clicked},
		{PushID: pushID(4), Type: device.Dismissed},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := phonejson.UnmarshalEvents(text)
	if err != nil {
		t.Fatal(err)
	}
	want := &devicev1.EventsRequest{Events: []*devicev1.Event{
		{PushId: pushID(1), Type: devicev1.Event_ARRIVED, At: 7, Channel: "apns", Action: "open"},
		{PushId: pushID(2), Type: devicev1.Event_SHOWN},
		{PushId: pushID(3), Type: devicev1.Event_CLICKED},
		{PushId: pushID(4), Type: devicev1.Event_DISMISSED},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// tear cuts the last bytes off a file, as a power cut may.
func tear(t *testing.T, name string) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v", info.Mode())
	}
	if err := os.Truncate(name, info.Size()-5); err != nil {
		t.Fatal(err)
	}
}
