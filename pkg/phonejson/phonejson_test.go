package phonejson_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/halleypush/halley/pkg/phonejson"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
)

var update = flag.Bool("update", false, "write the golden files")

func examples() map[string]proto.Message {
	report := &devicev1.Report{
		Platform: proto.String("android"), Brand: proto.String("小米"), Model: proto.String("15"), OsVersion: proto.String("15"),
		AppVersion: proto.String("4.2.0"), SdkVersion: proto.String("1.0.0"), Locale: proto.String("zh-CN"),
		TimeZone: proto.String("Asia/Shanghai"), Notifications: proto.Bool(false),
		ChannelTokens: []*devicev1.ChannelToken{
			{Channel: "xiaomi", Token: "abc", AppPackage: "com.example", Environment: "production"}, {Channel: "fcm"},
		},
	}
	return map[string]proto.Message{
		"register_request":  &devicev1.RegisterRequest{App: "demo", ClientKey: "ck_x", InstallId: "0123456789abcdefghijkl", Report: report},
		"register_response": &devicev1.RegisterResponse{Token: "aKF1", Secret: "AAAA"},
		"report":            report,
		"bind_request":      &devicev1.BindRequest{User: "alice", Proof: "e30.e30.x"},
		"bind_response":     &devicev1.BindResponse{User: "u_9f3"},
		"report_request":    &devicev1.ReportRequest{Report: report},
		"report_response":   &devicev1.ReportResponse{},
		"unbind_response":   &devicev1.UnbindResponse{},
		"events_response":   &devicev1.EventsResponse{},
		"pending_request":   &devicev1.PendingRequest{Limit: 100},
		"badge_add":         &devicev1.Badge{Change: &devicev1.Badge_Add{Add: -1}},
		"unbind_request":    &devicev1.UnbindRequest{User: "alice"},
		"unbind_all":        &devicev1.UnbindRequest{},
		"events_request": &devicev1.EventsRequest{Events: []*devicev1.Event{
			{
				PushId: "01935f3e-0000-7000-8000-000000000000", Type: devicev1.Event_CLICKED, At: 1732330000000, Channel: "apns",
				Action: "open", Token: "aKF1",
			},
		}},
		"pending_response": &devicev1.PendingResponse{Messages: []*devicev1.Message{notification(), {Kind: devicev1.Message_REVOKE}}},
		"message":          notification(),
		"message_data": &devicev1.Message{
			PushId: "01935f3e-0000-7000-8000-000000000000", Kind: devicev1.Message_DATA, Payload: "<\"\\\n\u2028>",
		},
		"error": &devicev1.Error{Code: "RESOURCE_EXHAUSTED", Message: "too many", Field: "user", RetryAfterMs: 1500},
	}
}

func notification() *devicev1.Message {
	return &devicev1.Message{
		PushId: "01935f3e-0000-7000-8000-000000000000", Kind: devicev1.Message_NOTIFICATION, Title: "Hi", Subtitle: "s", Body: "b",
		Image: "https://example.com/i.png", Click: &devicev1.Click{Type: devicev1.Click_URL, Value: "https://example.com"},
		Badge: &devicev1.Badge{Change: &devicev1.Badge_Set{Set: 0}}, Sound: "default", Group: "orders", ChannelId: "news",
		CollapseKey: "order-7", Data: map[string]string{"k": "v", "a": "ü"}, Priority: devicev1.Message_NORMAL,
		SentAt: 1732330000000, ExpiresAt: 1732416400000, User: "u_9f3", To: "aKF1",
	}
}

// The golden files are the contract with phones in the field.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, m := range examples() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := phonejson.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			back := m.ProtoReflect().New().Interface()
			if err := phonejson.Unmarshal(got, back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, back, protocmp.Transform()); diff != "" {
				t.Errorf("decoded again (-want +got)\n%s", diff)
			}
		})
	}
}

// A message or a field that is new in the proto must come with a golden file.
func TestGoldenFilesCoverEveryField(t *testing.T) {
	t.Parallel()
	covered := map[protoreflect.FullName]bool{}
	for _, m := range examples() {
		cover(covered, m.ProtoReflect())
	}
	messages := devicev1.File_halley_device_v1_device_proto.Messages()
	for i := range messages.Len() {
		m := messages.Get(i)
		if !covered[m.FullName()] {
			t.Errorf("no golden file holds a %s", m.Name())
		}
		last := protoreflect.FieldNumber(0)
		for j := range m.Fields().Len() {
			field := m.Fields().Get(j)
			if !covered[field.FullName()] {
				t.Errorf("no golden file holds the field %s", field.FullName())
			}
			if field.Number() < last { // Marshal writes fields in the order of the file
				t.Errorf("%s does not stand in the order of the numbers", field.FullName())
			}
			last = field.Number()
		}
	}
}

// cover notes the message's type and those of its fields that are set, its inner messages' included.
func cover(covered map[protoreflect.FullName]bool, m protoreflect.Message) {
	covered[m.Descriptor().FullName()] = true
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		covered[field.FullName()] = true
		switch {
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := range v.List().Len() {
				cover(covered, v.List().Get(i).Message())
			}
		default:
			cover(covered, v.Message())
		}
		return true
	})
}

func TestWhatPhonesMayWriteDifferently(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"digits as a string":     `{"push_id":"p","type":"shown","at":"1732330000000"}`,
		"upper case":             `{"push_id":"p","type":"SHOWN","at":1732330000000}`,
		"unknown fields":         `{"push_id":"p","type":"shown","at":1732330000000,"x":{"y":[1]}}`,
		"null is absent":         `{"push_id":"p","type":"shown","at":1732330000000,"action":null}`,
		"the last of duplicates": `{"push_id":"q","push_id":"p","type":"shown","at":1732330000000}`,
		"an array":               `[{"push_id":"p","type":"shown","at":1732330000000}]`,
		"an object of events":    ` {"events":[{"push_id":"p","type":"shown","at":1732330000000}]} `,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := phonejson.UnmarshalEvents([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			want := &devicev1.EventsRequest{Events: []*devicev1.Event{{PushId: "p", Type: devicev1.Event_SHOWN, At: 1732330000000}}}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestErrorsNameTheField(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, field, message string }{
		"wrong word":   {`[{"type":"shown"},{"type":"seen"}]`, "events[1].type", "must be one of arrived, shown, clicked, dismissed"},
		"zero word":    {`{"type":"type_unspecified"}`, "events[0].type", "must be one of arrived, shown, clicked, dismissed"},
		"no word":      {`{"type":1}`, "events[0].type", "must be a word"},
		"fraction":     {`{"at":1.5}`, "events[0].at", "must be a whole number of 64 bits"},
		"too large":    {`{"at":9223372036854775808}`, "events[0].at", "must be a whole number of 64 bits"},
		"not a string": {`{"push_id":7}`, "events[0].push_id", "must be a string"},
		"not events":   {`"x"`, "events", "must be an array"},
		"empty":        {``, "", "the text is empty"},
		"two values":   {`{} {}`, "", "there is more behind the JSON value"},
		"bad utf-8":    {"\"\xff\"", "", "the text is not valid UTF-8"},
		"too deep":     {nested(phonejson.MaxDepth + 1), "", "the text is nested deeper than 32"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := phonejson.UnmarshalEvents([]byte(c.text))
			var e *phonejson.Error
			if !errors.As(err, &e) || e.Field != c.field || e.Message != c.message {
				t.Errorf("got %v, want %s: %s", err, c.field, c.message)
			}
		})
	}
}

// nested returns an event with an unknown field, which makes the text depth deep.
func nested(depth int) string {
	return `{"x":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
}

func TestBracketsInStringsAreNoDepth(t *testing.T) {
	t.Parallel()
	for _, text := range []string{nested(phonejson.MaxDepth), `{"action":"` + strings.Repeat(`[{\"`, 20) + `"}`} {
		if _, err := phonejson.UnmarshalEvents([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// fuzz checks for every JSON text that decodes that what it means survives another round.
func fuzz(f *testing.F, empty proto.Message, decode func([]byte, proto.Message) error) {
	f.Helper()
	for _, m := range examples() {
		seed, err := phonejson.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte(`{"at":"9","notifications":null,"data":{"":""}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := empty.ProtoReflect().New().Interface()
		if decode(data, m) != nil {
			return
		}
		again, err := phonejson.Marshal(m)
		if err != nil {
			t.Fatalf("decoded, but cannot be encoded: %v", err)
		}
		back := empty.ProtoReflect().New().Interface()
		if err := phonejson.Unmarshal(again, back); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if !proto.Equal(m, back) {
			t.Errorf("%s means something else when it is decoded again", again)
		}
	})
}

func FuzzRegister(f *testing.F) { fuzz(f, &devicev1.RegisterRequest{}, phonejson.Unmarshal) }
func FuzzReport(f *testing.F)   { fuzz(f, &devicev1.Report{}, phonejson.Unmarshal) }
func FuzzBind(f *testing.F)     { fuzz(f, &devicev1.BindRequest{}, phonejson.Unmarshal) }
func FuzzUnbind(f *testing.F)   { fuzz(f, &devicev1.UnbindRequest{}, phonejson.Unmarshal) }
func FuzzMessage(f *testing.F)  { fuzz(f, &devicev1.Message{}, phonejson.Unmarshal) }

func FuzzEvents(f *testing.F) {
	fuzz(f, &devicev1.EventsRequest{}, func(data []byte, m proto.Message) error {
		request, err := phonejson.UnmarshalEvents(data)
		if err == nil {
			proto.Merge(m, request)
		}
		return err
	})
}

func BenchmarkMarshalMessage(b *testing.B) {
	m := notification()
	m.Title, m.Body = "您的订单已发货", "点击查看物流详情"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := phonejson.Marshal(m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnmarshalEvents(b *testing.B) {
	data := []byte(`{"push_id":"01935f3e-0000-7000-8000-000000000000","type":"shown","at":1732330000000}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := phonejson.UnmarshalEvents(data); err != nil {
			b.Fatal(err)
		}
	}
}
