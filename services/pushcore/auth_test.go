package pushcore_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// halleyMethods returns every method of every Halley service, by the full name of the service.
func halleyMethods() map[string][]protoreflect.MethodDescriptor {
	methods := map[string][]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			if !strings.HasPrefix(string(s.FullName()), "halley.") {
				continue
			}
			for j := range s.Methods().Len() {
				methods[string(s.FullName())] = append(methods[string(s.FullName())], s.Methods().Get(j))
			}
		}
		return true
	})
	return methods
}

// try calls a method with a credential, empty for none, and returns the code. The request names the app and nothing else.
func try(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, app, credential string) codes.Code {
	t.Helper()
	ctx := t.Context()
	if credential != "" {
		ctx = pushcoretest.As(ctx, credential)
	}
	request, response := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if field := m.Input().Fields().ByName("app"); field != nil && field.Kind() == protoreflect.StringKind {
		request.Set(field, protoreflect.ValueOfString(app))
	}
	path := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return status.Code(conn.Invoke(ctx, path, request, response))
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
	if err == nil {
		_ = stream.SendMsg(request) // the answer says what became of it
		_ = stream.CloseSend()
		err = stream.RecvMsg(response)
	}
	return status.Code(err)
}

// everyCredential returns what somebody may hold, by what it is.
func everyCredential(t *testing.T, core *pushcoretest.Core) (app *pushcoretest.App, held map[string]string) {
	t.Helper()
	app, other := core.NewApp(t, nil), core.NewApp(t, nil)
	return app, map[string]string{
		"nothing": "", "a made-up key": "sk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "the app's key": app.ServerKey,
		"another app's key": other.ServerKey, "the client key": app.ClientKey, "a device's secret": app.Register(t).Secret,
		"a device's token": app.Register(t).Token, "the admin token": pushcoretest.AdminToken,
		"the service token": pushcoretest.ServiceToken,
	}
}

// rights are which credentials open a service; all others are UNAUTHENTICATED, but those in denied, which are known and
// belong elsewhere.
type rights struct {
	business bool
	opens    string
	denied   []string
}

var services = map[string]rights{
	"halley.push.v1.PushService":       {true, "the app's key", []string{"another app's key", "the client key"}},
	"halley.push.v1.DeviceService":     {true, "the app's key", []string{"another app's key", "the client key"}},
	"halley.push.v1.UserService":       {true, "the app's key", []string{"another app's key", "the client key"}},
	"halley.push.v1.ActivityService":   {true, "the app's key", []string{"another app's key", "the client key"}},
	"halley.admin.v1.AdminService":     {true, "the admin token", nil},
	"halley.gateway.v1.GatewayService": {false, "the service token", nil},

	"halley.sender.v1.CredentialService": {false, "the service token", nil},
}

func TestEveryMethodIsOpenToItsCredentialOnly(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, held := everyCredential(t, core)
	for service, methods := range halleyMethods() {
		for _, m := range methods {
			for port, conn := range map[bool]*grpc.ClientConn{true: core.Business, false: core.InternalConn} {
				right, known := services[service]
				for what, credential := range held {
					got := try(t, conn, m, app.ID, credential)
					if !known || right.business != port {
						if got != codes.Unimplemented {
							t.Errorf("%s with %s: %s on a port that must not have it", m.FullName(), what, got)
						}
						continue
					}
					refused := got == codes.Unauthenticated || got == codes.PermissionDenied
					switch {
					case what == right.opens && refused:
						t.Errorf("%s refuses %s", m.FullName(), what)
					case slices.Contains(right.denied, what) && got != codes.PermissionDenied:
						t.Errorf("%s answers %s to %s, want PermissionDenied", m.FullName(), got, what)
					case what != right.opens && !slices.Contains(right.denied, what) && got != codes.Unauthenticated:
						t.Errorf("%s answers %s to %s, want Unauthenticated", m.FullName(), got, what)
					}
				}
			}
		}
	}
}

func TestServersServeNothingElse(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	stream, err := reflectionv1.NewServerReflectionClient(core.Business).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range answer.GetListServicesResponse().GetService() {
		if !services[s.GetName()].business && !strings.HasPrefix(s.GetName(), "grpc.health.") &&
			!strings.HasPrefix(s.GetName(), "grpc.reflection.") {
			t.Errorf("the business port serves %s", s.GetName())
		}
	}
	if n := len(answer.GetListServicesResponse().GetService()); n < 5 {
		t.Errorf("only %d services", n)
	}
}

func TestEveryRESTPathIsOpenToItsCredentialOnly(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, held := everyCredential(t, core)
	tried := 0
	for service, right := range services {
		for _, m := range halleyMethods()[service] {
			rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
			method, path := binding(rule)
			if method == "" {
				continue
			}
			tried++
			path = strings.NewReplacer("{app}", app.ID, "{push_id}", "01935f3e-0000-7000-8000-000000000000",
				"{device}", "x", "{user}", "alice", "{key_id}", "k").Replace(path)
			for what, credential := range held {
				authorize := pushcoretest.Bearer(credential)
				if credential == "" {
					authorize = nil
				}
				got := core.REST(t, method, path, "{}", authorize).Code
				refused := got == http.StatusUnauthorized || got == http.StatusForbidden
				switch {
				case what == right.opens && refused:
					t.Errorf("%s %s refuses %s", method, path, what)
				case slices.Contains(right.denied, what) && got != http.StatusForbidden:
					t.Errorf("%s %s answers %d to %s", method, path, got, what)
				case what != right.opens && !slices.Contains(right.denied, what) && got != http.StatusUnauthorized:
					t.Errorf("%s %s answers %d to %s", method, path, got, what)
				}
			}
		}
	}
	if tried < 15 {
		t.Errorf("only %d paths", tried)
	}
}

func binding(rule *annotations.HttpRule) (method, path string) {
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return "GET", p.Get
	case *annotations.HttpRule_Post:
		return "POST", p.Post
	case *annotations.HttpRule_Patch:
		return "PATCH", p.Patch
	case *annotations.HttpRule_Delete:
		return "DELETE", p.Delete
	}
	return "", ""
}

func TestPhoneCallsNeedTheDevicesOwnSecret(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, held := everyCredential(t, core)
	phone, second := app.Register(t), app.Register(t)
	stranger := core.NewApp(t, nil).Register(t)
	wrong := map[string]func(*http.Request){
		"nothing":                 nil,
		"another device's secret": func(r *http.Request) { r.SetBasicAuth(phone.Token, second.Secret) },
		"another app's device":    func(r *http.Request) { r.SetBasicAuth(phone.Token, stranger.Secret) },
		"a made-up token":         func(r *http.Request) { r.SetBasicAuth("a"+strings.Repeat("A", 22), phone.Secret) },
		"an empty secret":         func(r *http.Request) { r.SetBasicAuth(phone.Token, "") },
	}
	for what, credential := range held {
		wrong[what+" as Bearer"] = pushcoretest.Bearer(credential)
	}
	for _, call := range []struct{ method, path string }{
		{"POST", "report"}, {"POST", "bind"}, {"POST", "unbind"}, {"POST", "tags"}, {"POST", "events"}, {"GET", "pending"},
	} {
		for what, authorize := range wrong {
			answer := core.REST(t, call.method, "/device/v1/"+call.path, "{}", authorize)
			if answer.Code != http.StatusUnauthorized || answer.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %s: %d %s", call.path, what, answer.Code, answer.Body)
			}
		}
	}
}
