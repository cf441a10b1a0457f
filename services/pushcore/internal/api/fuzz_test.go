package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/halleypush/halley/pkg/phonejson"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// restRoute is a REST call with a JSON body.
type restRoute struct{ verb, path string }

// restRoutes returns the calls of the public APIs that take a JSON body.
func restRoutes() (routes []restRoute) {
	variable := regexp.MustCompile(`\{[^}]*\}`)
	for _, file := range []protoreflect.FileDescriptor{
		pushv1.File_halley_push_v1_push_proto, pushv1.File_halley_push_v1_device_proto, adminv1.File_halley_admin_v1_admin_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				rule, _ := proto.GetExtension(methods.Get(j).Options(), annotations.E_Http).(*annotations.HttpRule)
				if rule.GetBody() == "" {
					continue
				}
				for _, r := range []restRoute{
					{http.MethodPost, rule.GetPost()}, {http.MethodPatch, rule.GetPatch()}, {http.MethodPut, rule.GetPut()},
				} {
					if r.path != "" {
						routes = append(routes, restRoute{r.verb, variable.ReplaceAllString(r.path, "demo")})
					}
				}
			}
		}
	}
	return routes
}

// newBodyREST returns the REST API in front of a server that passes what is well-formed and valid to take.
func newBodyREST(f *testing.F, take func(proto.Message)) http.Handler {
	f.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxBody), grpc.ChainUnaryInterceptor(
		Errors(slog.New(slog.DiscardHandler)), Validate,
		func(_ context.Context, request any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			if m, ok := request.(proto.Message); ok {
				take(m)
			}
			return nil, status.Error(codes.Unimplemented, "taken")
		}))
	pushv1.RegisterPushServiceServer(server, pushv1.UnimplementedPushServiceServer{})
	pushv1.RegisterDeviceServiceServer(server, pushv1.UnimplementedDeviceServiceServer{})
	pushv1.RegisterUserServiceServer(server, pushv1.UnimplementedUserServiceServer{})
	adminv1.RegisterAdminServiceServer(server, adminv1.UnimplementedAdminServiceServer{})
	go func() { _ = server.Serve(listener) }() // ends with Stop
	f.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///bodies", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close() })
	rest, err := NewREST(f.Context(), conn)
	if err != nil {
		f.Fatal(err)
	}
	return rest
}

func FuzzBusinessJSON(f *testing.F) {
	routes := restRoutes()
	if len(routes) < 7 {
		f.Fatalf("only %d calls with a body: %v", len(routes), routes)
	}
	for i := range routes {
		for _, body := range []string{
			`{"audience":{"users":{"ids":["alice"]}},"notification":{"title":"Hi","body":"…"},"policy":{"ttl":"86400s","channel":"OWN_FIRST","qos":1}}`,
			`{"audience":{"all":{}},"data":{"values":{"k":"v"}},"policy":{"ttl":"0s","collapse_key":"c"}}`,
			`{"pushes":[{"audience":{"devices":{"tokens":["a"]}},"data":{"payload":"x"}}]}`,
			`{"device":"aAAAAAAAAAAAAAAAAAAAAAA"}`,
			`{"app_id":"demo","name":"x","settings":{}}`, `{"kind":"CLIENT"}`, `{"x":1}`, `{}`, ``, `[`, `null`,
		} {
			f.Add(byte(i), []byte(body))
		}
	}
	taken := make(chan proto.Message, 1)
	rest := newBodyREST(f, func(m proto.Message) { taken <- m })
	f.Fuzz(func(t *testing.T, which byte, body []byte) {
		r := routes[int(which)%len(routes)]
		answer := httptest.NewRecorder()
		rest.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), r.verb, r.path, strings.NewReader(string(body))))
		if !json.Valid(answer.Body.Bytes()) {
			t.Errorf("%s is answered with %q", r.path, answer.Body)
		}
		select {
		case m := <-taken:
			wantJSONTwice(t, m)
			return
		default:
		}
		// What is not taken is refused, and says which field or that the JSON is not well-formed.
		var s struct {
			Code    int               `json:"code"`
			Message string            `json:"message"`
			Details []json.RawMessage `json:"details"`
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &s); err != nil {
			t.Fatalf("%q: %v", answer.Body, err)
		}
		if answer.Code != http.StatusBadRequest || codes.Code(s.Code) != codes.InvalidArgument || s.Message == "" || len(s.Details) == 0 {
			t.Errorf("%s with %q answers %d: %s", r.path, body, answer.Code, answer.Body)
		}
	})
}

// wantJSONTwice checks that a request that was taken means the same when it is written and read again.
func wantJSONTwice(t *testing.T, m proto.Message) {
	t.Helper()
	written, err := protojson.Marshal(m)
	if err != nil {
		t.Fatalf("taken, but cannot be written: %v", err)
	}
	again := m.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(written, again); err != nil || !proto.Equal(m, again) {
		t.Errorf("%s means something else when it is read again (%v)", written, err)
	}
}

func FuzzPhoneJSON(f *testing.F) {
	kinds := []proto.Message{
		&devicev1.RegisterRequest{}, &devicev1.Report{}, &devicev1.BindRequest{}, &devicev1.UnbindRequest{}, &devicev1.EventsRequest{},
	}
	for i := range kinds {
		for _, body := range []string{
			`{"app":"demo","client_key":"ck_x","install_id":"aaaaaaaaaaaaaaaaaaaaaaaaaa","platform":"android","notifications":true}`,
			`{"channel_tokens":[{"channel":"xiaomi","token":"t","app_package":"p","environment":"production"}]}`,
			`{"user":"alice","proof":"a.b.c"}`, `[{"push_id":"x","type":"shown","at":1}]`, `{}`, ``, `[`, "{\"user\":\"\xff\"}", `{"user":7}`,
		} {
			f.Add(byte(i), []byte(body))
		}
	}
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, which byte, body []byte) {
		m := kinds[int(which)%len(kinds)].ProtoReflect().New().Interface()
		err := decode(body, m)
		if err == nil {
			written, err := phonejson.Marshal(m)
			if err != nil {
				t.Fatalf("taken, but cannot be written: %v", err)
			}
			again := m.ProtoReflect().New().Interface()
			if err := decode(written, again); err != nil || !proto.Equal(m, again) {
				t.Errorf("%s means something else when it is read again (%v)", written, err)
			}
			return
		}
		s := toStatus(t.Context(), log, err)
		if s.Code() != codes.InvalidArgument {
			t.Errorf("refused with %v: %s", s.Code(), s.Message())
		}
		if answer := errorBody(s); !json.Valid(answer) {
			t.Errorf("the phone is told %q", answer)
		}
	})
}
