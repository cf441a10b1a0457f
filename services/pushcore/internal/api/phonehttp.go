package api

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/halleypush/halley/pkg/phonejson"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keep"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
)

// maxPhoneBody bounds what a phone may send.
const maxPhoneBody = 64 << 10

// PhoneHTTP serves the phones' calls under /device/v1.
type PhoneHTTP struct {
	phones *Phones
	apps   *registry.Apps
}

// NewPhoneHTTP returns the handler of /device/v1.
func NewPhoneHTTP(phones *Phones, apps *registry.Apps) http.Handler {
	h := &PhoneHTTP{phones: phones, apps: apps}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /device/v1/register", h.answer(h.register))
	mux.HandleFunc("GET /device/v1/pending", h.answer(h.pending))
	mux.HandleFunc("POST /device/v1/{method}", h.answer(h.call))
	mux.HandleFunc("/", h.answer(func(r *http.Request) ([]byte, error) {
		return nil, fault.NotFound("NO_SUCH_CALL", "there is no %s %s", r.Method, r.URL.Path)
	}))
	return mux
}

// answer writes what a handler returns: 200 with its JSON, or the error's HTTP code with {"error":{…}}.
func (h *PhoneHTTP) answer(handle func(*http.Request) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxPhoneBody)
		body, err := handle(r)
		httpCode := http.StatusOK
		if err != nil {
			s := toStatus(r.Context(), h.phones.log.With("path", r.URL.Path), err)
			if s.Code() == codes.Unauthenticated {
				w.Header().Set("WWW-Authenticate", `Basic realm="device token and secret"`)
			}
			if after := retryAfter(s); after != "" {
				w.Header().Set("Retry-After", after)
			}
			httpCode = runtime.HTTPStatusFromCode(s.Code())
			body = errorBody(s)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(httpCode)
		_, _ = w.Write(body) // fails only when the phone is gone
	}
}

func errorBody(s *status.Status) []byte { return fmt.Appendf(nil, `{"error":%s}`, encodeError(s)) }

func encodeError(s *status.Status) []byte {
	encoded, err := phonejson.Marshal(phoneError(s))
	if err != nil { // an Error holds only strings and a number
		panic(err)
	}
	return encoded
}

func codeName(c codes.Code) string { return code.Code(c).String() }

func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fault.Invalid("", "a body may have %d bytes", maxPhoneBody)
	}
	if err != nil {
		return nil, fault.Invalid("", "the body could not be read: %v", err)
	}
	return body, nil
}

func (h *PhoneHTTP) register(r *http.Request) ([]byte, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	var request devicev1.RegisterRequest
	if err := decode(body, &request); err != nil {
		return nil, err
	}
	c, err := h.phones.Register(r.Context(), &request, remoteIP(r))
	if err != nil {
		return nil, err
	}
	return phonejson.Marshal(&devicev1.RegisterResponse{Token: c.Token, Secret: c.Secret})
}

// remoteIP returns the address that the connection came from. Behind a proxy that is the proxy's: it belongs on the gateway
// of the deployment to limit registrations then, or to pass the address on (docs/operations.md).
func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// device returns the device that a request's Basic credentials prove.
func (h *PhoneHTTP) device(r *http.Request) (*registry.App, uint64, error) {
	wrong := errCredential(codes.Unauthenticated, "WRONG_SECRET", "HTTP Basic with the device's token and secret is needed")
	tok, secret, ok := r.BasicAuth()
	if !ok {
		return nil, 0, wrong
	}
	no, err := h.phones.locate(tok)
	if err != nil {
		return nil, 0, wrong
	}
	app, err := h.apps.ByNumber(r.Context(), no)
	if fault.Is(err, "APP_NOT_FOUND") {
		return nil, 0, wrong
	}
	if err != nil {
		return nil, 0, err
	}
	number, err := h.phones.devices.CheckSecret(r.Context(), app, tok, secret)
	return app, number, err
}

func (h *PhoneHTTP) call(r *http.Request) ([]byte, error) {
	app, number, err := h.device(r)
	if err != nil {
		return nil, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return h.phones.Call(r.Context(), app, number, r.PathValue("method"), body)
}

func (h *PhoneHTTP) pending(r *http.Request) ([]byte, error) {
	app, number, err := h.device(r)
	if err != nil {
		return nil, err
	}
	request := &devicev1.PendingRequest{}
	if text := r.URL.Query().Get("limit"); text != "" {
		limit, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return nil, fault.Invalid("limit", "must be a whole number")
		}
		request.Limit = int32(limit)
	}
	if err := validate(request); err != nil {
		return nil, err
	}
	kept, err := h.phones.Pending(r.Context(), app, number, pageSize(request.GetLimit(), 100))
	if err != nil {
		return nil, err
	}
	return h.encodePending(app, kept), nil
}

// encodePending joins the messages, each with the opaque id of the user it is for.
func (h *PhoneHTTP) encodePending(app *registry.App, kept []keep.Kept) []byte {
	out := []byte(`{"messages":[`)
	for i, k := range kept {
		if i > 0 {
			out = append(out, ',')
		}
		body := k.Push.Body().GetJson()
		out = append(out, body[:len(body)-1]...)
		if k.User != "" {
			out = fmt.Appendf(out, `,"user":%q`, h.phones.users.OpaqueID(app, k.User))
		}
		out = append(out, '}')
	}
	return append(out, `]}`...)
}
