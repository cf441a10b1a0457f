package e2e_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/halleypush/halley/e2e/rig"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// The files of the contracts: naming them brings them into the registry.
var _ = []protoreflect.FileDescriptor{
	adminv1.File_halley_admin_v1_admin_proto, devicev1.File_halley_device_v1_device_proto,
	gatewayv1.File_halley_gateway_v1_gateway_proto, pushv1.File_halley_push_v1_push_proto,
}

// tenants are two apps on one Halley, with a device of the first and what its calls name.
type tenants struct {
	mine, others  *rig.App
	token, secret string
	pushID        string
}

func startTenants(t *testing.T) *tenants {
	t.Helper()
	up := rig.StartUp(t)
	up.Demo(t) // for the admin token
	x := &tenants{mine: up.CreateApp(t, "mine"), others: up.CreateApp(t, "others")}
	p := connected(t, x.mine)
	identity, _, err := p.store.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x.token, x.secret = identity.Token, identity.Secret
	x.pushID = x.mine.Push(t, x.token)
	return x
}

// credential is what a caller shows, and what must come of it.
type credential struct {
	name          string
	authorization string
	want          codes.Code
}

// allowed stands for anything but a refusal of the credential.
const allowed = codes.OK

func bearer(key string) string { return "Bearer " + key }

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// credentials returns everything that is tried on a service.
func (x *tenants) credentials(service protoreflect.FullName) []credential {
	void := codes.Unauthenticated
	all := []credential{
		{"none", "", void},
		{"an unknown key", bearer("sk_0123456789"), void},
		{"a device secret", bearer(x.secret), void},
		{"a device's token and secret", basic(x.token, x.secret), void},
		{"this app's key", bearer(x.mine.ServerKey), void},
		{"this app's client key", bearer(x.mine.ClientKey), void},
		{"another app's key", bearer(x.others.ServerKey), void},
		{"another app's client key", bearer(x.others.ClientKey), void},
		{"the admin token", bearer(x.mine.AdminToken), void},
	}
	want := map[string]codes.Code{}
	switch service.Parent() {
	case "halley.push.v1":
		want = map[string]codes.Code{
			"this app's key": allowed, "this app's client key": codes.PermissionDenied,
			"another app's key": codes.PermissionDenied, "another app's client key": codes.PermissionDenied,
		}
	case "halley.admin.v1":
		want = map[string]codes.Code{"the admin token": allowed}
	case "halley.device.v1":
		want = map[string]codes.Code{"a device's token and secret": allowed}
	}
	for i, c := range all {
		if code, special := want[c.name]; special {
			all[i].want = code
		}
	}
	return all
}

// methods returns every method of every service of Halley's contracts.
func methods() []protoreflect.MethodDescriptor {
	var all []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "halley.") {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				all = append(all, service.Methods().Get(j))
			}
		}
		return true
	})
	return all
}

// TestTenants tries every method of every service with every credential, over gRPC and REST. No request says more than which
// app, device and push it is about: a refusal must come before the request is looked at.
func TestTenants(t *testing.T) {
	t.Parallel()
	x := startTenants(t)
	public, internal := dialGRPC(t, x.mine.GRPC), dialGRPC(t, x.mine.Internal)
	tried, refused := 0, 0
	judge := func(way string, method protoreflect.FullName, c credential, got codes.Code) {
		tried++
		isRefusal := got == codes.Unauthenticated || got == codes.PermissionDenied
		if isRefusal {
			refused++
		}
		if c.want == allowed && (isRefusal || got == codes.Unavailable || got == codes.Internal || got == codes.Unknown) {
			t.Errorf("%s %s with %s: %v, want no refusal", way, method, c.name, got)
		}
		if c.want != allowed && got != c.want {
			t.Errorf("%s %s with %s: %v, want %v", way, method, c.name, got, c.want)
		}
	}
	all := methods()
	for _, method := range all {
		service := method.Parent().FullName()
		for _, c := range x.credentials(service) {
			switch service.Parent() {
			case "halley.push.v1", "halley.admin.v1":
				judge("gRPC", method.FullName(), c, x.callGRPC(t, public, method, c))
				judge("REST", method.FullName(), c, x.callREST(t, method, c))
				c.want = codes.Unimplemented // the internal port has no such service
				judge("gRPC on the internal port", method.FullName(), c, x.callGRPC(t, internal, method, c))
			case "halley.device.v1":
				if method.Name() == "Register" {
					c.want = registerWant(c)
				}
				judge("REST", method.FullName(), c, x.callREST(t, method, c))
				c.want = codes.Unimplemented // phones have HTTPS and MQTT
				judge("gRPC", method.FullName(), c, x.callGRPC(t, public, method, c))
			default:
				judge("gRPC on the internal port", method.FullName(), c, x.callGRPC(t, internal, method, c))
				c.want = codes.Unimplemented
				judge("gRPC", method.FullName(), c, x.callGRPC(t, public, method, c))
			}
		}
	}
	t.Logf("%d methods, %d tries, %d refused for their credential", len(all), tried, refused)
}

// registerWant: its credential is the client key in the body, a field that must be there.
func registerWant(c credential) codes.Code {
	if c.authorization == "" {
		return codes.InvalidArgument
	}
	return codes.Unauthenticated
}

func dialGRPC(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// value is what a request says in a field that paths name.
func (x *tenants) value(field string) string {
	switch field {
	case "app":
		return x.mine.ID
	case "device":
		return "z000000000000000000000a" // none: what is allowed must not take the device away
	case "push_id":
		return x.pushID
	case "user":
		return "alice"
	default:
		return "none"
	}
}

// callGRPC calls a method and returns its code.
func (x *tenants) callGRPC(t *testing.T, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, c credential) codes.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if c.authorization != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", c.authorization)
	}
	request := dynamicpb.NewMessage(method.Input())
	if field := method.Input().Fields().ByName("app"); field != nil && field.Kind() == protoreflect.StringKind {
		request.Set(field, protoreflect.ValueOfString(x.mine.ID))
	}
	path := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	if !method.IsStreamingClient() {
		return status.Code(conn.Invoke(ctx, path, request, dynamicpb.NewMessage(method.Output())))
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
	if err == nil {
		err = stream.RecvMsg(dynamicpb.NewMessage(method.Output()))
	}
	return status.Code(err)
}

var pathVariable = regexp.MustCompile(`\{(\w+)\}`)

// callREST calls a method as its annotation says, and returns the code that its HTTP status stands for.
func (x *tenants) callREST(t *testing.T, method protoreflect.MethodDescriptor, c credential) codes.Code {
	t.Helper()
	rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		t.Fatalf("%s has no REST form", method.FullName())
	}
	verb, path := restForm(rule)
	path = pathVariable.ReplaceAllStringFunc(path, func(variable string) string { return x.value(strings.Trim(variable, "{}")) })
	var body []byte
	if rule.GetBody() != "" {
		body = []byte(`{}`)
	}
	if method.Name() == "Register" && method.Parent().Name() == "PhoneService" {
		body = []byte(`{"app":"` + x.mine.ID + `","client_key":"` + strings.TrimPrefix(c.authorization, "Bearer ") + `"}`)
		if c.name == "this app's client key" {
			body = []byte(`{"app":"others","client_key":"` + x.mine.ClientKey + `"}`) // it is right for its own app
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), verb, x.mine.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if c.authorization != "" {
		request.Header.Set("Authorization", c.authorization)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return codeOf(response.StatusCode)
}

// restForm returns the HTTP method and path of a rule.
func restForm(rule *annotations.HttpRule) (verb, path string) {
	switch pattern := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return http.MethodGet, pattern.Get
	case *annotations.HttpRule_Post:
		return http.MethodPost, pattern.Post
	case *annotations.HttpRule_Patch:
		return http.MethodPatch, pattern.Patch
	case *annotations.HttpRule_Delete:
		return http.MethodDelete, pattern.Delete
	default:
		return http.MethodPut, rule.GetPut()
	}
}

// codeOf returns the gRPC code that a status stands for, as docs/errors.md has it.
func codeOf(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusOK:
		return codes.OK
	case http.StatusBadRequest:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.NotFound
	case http.StatusConflict:
		return codes.AlreadyExists
	case http.StatusNotImplemented:
		return codes.Unimplemented
	default:
		return codes.Unknown
	}
}

// TestForeignNames has an app, with its own key, name another app's device, user and push: it learns and reaches nothing.
func TestForeignNames(t *testing.T) {
	t.Parallel()
	x := startTenants(t)
	if _, err := x.mine.Client.Users().Bind(t.Context(), &pushv1.BindRequest{App: "mine", User: "alice", Device: x.token}); err != nil {
		t.Fatal(err)
	}
	devices, users := x.others.Client.Devices(), x.others.Client.Users()
	for name, call := range map[string]func(ctx context.Context) error{
		"GetPush": func(ctx context.Context) error {
			_, err := x.others.Client.GetPush(ctx, "others", x.pushID)
			return err
		},
		"ListDeliveries": func(ctx context.Context) error {
			for _, err := range x.others.Client.ListDeliveries(ctx, &pushv1.ListDeliveriesRequest{App: "others", PushId: x.pushID}) {
				return err
			}
			return nil
		},
		"GetDevice": func(ctx context.Context) error {
			_, err := devices.GetDevice(ctx, &pushv1.GetDeviceRequest{App: "others", Device: x.token})
			return err
		},
		"DeleteDevice": func(ctx context.Context) error {
			_, err := devices.DeleteDevice(ctx, &pushv1.DeleteDeviceRequest{App: "others", Device: x.token})
			return err
		},
		"RotateSecret": func(ctx context.Context) error {
			_, err := devices.RotateSecret(ctx, &pushv1.RotateSecretRequest{App: "others", Device: x.token})
			return err
		},
		"Bind": func(ctx context.Context) error {
			_, err := users.Bind(ctx, &pushv1.BindRequest{App: "others", User: "alice", Device: x.token})
			return err
		},
	} {
		if err := call(t.Context()); status.Code(err) != codes.NotFound {
			t.Errorf("%s of another app's: %v, want NotFound", name, err)
		}
	}
	listed, err := users.ListUserDevices(t.Context(), &pushv1.ListUserDevicesRequest{App: "others", User: "alice"})
	if err != nil || len(listed.GetDevices()) != 0 {
		t.Errorf("the other app's user of the same name has devices %v, %v", listed, err)
	}
	push := x.others.Push(t, x.token)
	x.others.AwaitCounts(t, push, 10*time.Second, &pushv1.Counts{Targeted: 1, Failed: 1})
	batch, err := x.others.Client.PushBatch(t.Context(), &pushv1.PushBatchRequest{
		App: "others", Pushes: []*pushv1.PushRequest{x.mine.Request(x.token)},
	})
	if err != nil || batch.GetResults()[0].GetError() == nil {
		t.Errorf("a batch with another app's push: %v, %v", batch, err)
	}
}
