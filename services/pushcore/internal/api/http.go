package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/proto/openapi"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
)

// maxBody bounds a REST request: a batch of 500 pushes with long lists fits.
const maxBody = 16 << 20

// marshaler is the form of all JSON that goes out, errors, too.
var marshaler = &runtime.JSONPb{
	MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true},
	UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
}

// NewREST returns the handler of /v1 and /admin/v1. It calls the gRPC server over conn, so both go the same way.
func NewREST(ctx context.Context, conn *grpc.ClientConn) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler),
		runtime.WithErrorHandler(restError),
		runtime.WithRoutingErrorHandler(noCall),
		// No header goes through but Authorization, which the mux passes on by itself: the trace is in the context.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		pushv1.RegisterPushServiceHandler, pushv1.RegisterDeviceServiceHandler, pushv1.RegisterUserServiceHandler,
		pushv1.RegisterActivityServiceHandler, adminv1.RegisterAdminServiceHandler,
	} {
		if err := register(ctx, mux, conn); err != nil {
			return nil, fmt.Errorf("register REST handler: %w", err)
		}
	}
	known := queryNames(pushv1.File_halley_push_v1_push_proto, pushv1.File_halley_push_v1_device_proto, pushv1.File_halley_push_v1_activity_proto,
		adminv1.File_halley_admin_v1_admin_proto)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		for name := range r.URL.Query() {
			if !known[name] {
				err := fault.Invalid(name, "there is no such query parameter")
				restError(r.Context(), mux, marshaler, w, r, err.GRPCStatus().Err())
				return
			}
		}
		mux.ServeHTTP(w, r)
	}), nil
}

// queryNames returns the names that a query may hold: the fields of all requests. The mux would pass over a misspelt one.
func queryNames(files ...protoreflect.FileDescriptor) map[string]bool {
	names := map[string]bool{}
	for _, file := range files {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				fields := methods.Get(j).Input().Fields()
				for k := range fields.Len() {
					names[string(fields.Get(k).Name())] = true
				}
			}
		}
	}
	return names
}

// restError writes a google.rpc.Status, with Retry-After where waiting helps.
func restError(
	ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error,
) {
	s := explain(status.Convert(err))
	if after := retryAfter(s); after != "" {
		w.Header().Set("Retry-After", after)
	}
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, s.Err())
}

// noCall answers for a path or a method that the API does not have.
func noCall(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, &runtime.HTTPStatusError{HTTPStatus: code, Err: noSuchCall(r).Err()})
}

func noSuchCall(r *http.Request) *status.Status {
	return fault.NotFound("NO_SUCH_CALL", "there is no %s %s; see /openapi.json", r.Method, r.URL.Path).GRPCStatus()
}

// OpenAPI serves the OpenAPI document of the REST API.
func OpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openapi.Document) // fails only when the caller is gone
}

// NotFound answers for paths outside the APIs.
func NotFound(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_ = marshaler.NewEncoder(w).Encode(noSuchCall(r).Proto()) // fails only when the caller is gone
}
