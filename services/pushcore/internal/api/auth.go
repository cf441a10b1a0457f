// Package api serves pushcore's contracts: the business and admin APIs over gRPC and REST, the phones' HTTPS calls, and
// what gateways ask for.
package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
)

// inApp is a request that names the app it is about; all requests of the business API are.
type inApp interface{ GetApp() string }

// Auth decides who may call what: server keys the business API of their own app, the admin token the admin API.
type Auth struct {
	apps  *registry.Apps
	keys  *registry.Keys
	admin [sha256.Size]byte
}

// NewAuth returns the rules with the admin token that is valid.
func NewAuth(apps *registry.Apps, keys *registry.Keys, adminToken string) *Auth {
	return &Auth{apps: apps, keys: keys, admin: sha256.Sum256([]byte(adminToken))}
}

// Unary refuses calls whose credential does not fit the method. Calls of the business API run with their app in the context.
func (a *Auth) Unary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	switch {
	case strings.HasPrefix(info.FullMethod, "/halley.push.v1."):
		app, err := a.business(ctx, request)
		if err != nil {
			return nil, err
		}
		ctx = context.WithValue(ctx, appKey{}, app)
	case strings.HasPrefix(info.FullMethod, "/halley.admin.v1."):
		if err := a.administrator(ctx); err != nil {
			return nil, err
		}
	case strings.HasPrefix(info.FullMethod, "/grpc.health.v1."):
	default:
		return nil, errCredential(codes.Unauthenticated, "NO_CREDENTIAL", "no credential allows this method")
	}
	return handler(ctx, request)
}

// Stream refuses every stream but the health service's: the business and admin APIs have none.
func (a *Auth) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, "/grpc.health.v1.") || strings.HasPrefix(info.FullMethod, "/grpc.reflection.") {
		return handler(srv, stream)
	}
	return errCredential(codes.Unauthenticated, "NO_CREDENTIAL", "no credential allows this method")
}

type appKey struct{}

// appOf returns the app of a call of the business API.
func appOf(ctx context.Context) *registry.App {
	app, _ := ctx.Value(appKey{}).(*registry.App)
	return app
}

func errCredential(code codes.Code, reason, message string) error {
	return &fault.Error{Code: code, Reason: reason, Message: message}
}

func (a *Auth) business(ctx context.Context, request any) (*registry.App, error) {
	secret, err := bearer(ctx)
	if err != nil {
		return nil, err
	}
	key, err := a.keys.Check(ctx, secret)
	if err != nil {
		return nil, err
	}
	if key.Kind != adminv1.Key_SERVER {
		return nil, errCredential(codes.PermissionDenied, "WRONG_KEY_KIND", "the business API needs a server key (sk_…)")
	}
	app, err := a.apps.ByNumber(ctx, key.AppNo)
	if err != nil {
		return nil, err
	}
	named, ok := request.(inApp)
	// The same answer for another tenant's app and for one that is not there.
	if !ok || named.GetApp() != app.ID {
		return nil, errCredential(codes.PermissionDenied, "WRONG_APP", "the key is not one of the named app's")
	}
	return app, nil
}

func (a *Auth) administrator(ctx context.Context) error {
	secret, err := bearer(ctx)
	if err != nil {
		return err
	}
	given := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(given[:], a.admin[:]) != 1 {
		return errCredential(codes.Unauthenticated, "WRONG_KEY", "the admin API needs the admin token (ak_…)")
	}
	return nil
}

// bearer returns the credential of a call's authorization header.
func bearer(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", errCredential(codes.Unauthenticated, "NO_CREDENTIAL", "the authorization header is missing: Bearer <key>")
	}
	scheme, secret, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "bearer") || secret == "" {
		return "", errCredential(codes.Unauthenticated, "NO_CREDENTIAL", "the authorization header must read: Bearer <key>")
	}
	return secret, nil
}

// InternalAuth guards the internal contracts: a service token, or a client certificate that the server's TLS verified.
type InternalAuth struct{ token [sha256.Size]byte }

// NewInternalAuth returns the rules with the service token that is valid.
func NewInternalAuth(token string) *InternalAuth {
	return &InternalAuth{token: sha256.Sum256([]byte(token))}
}

// Unary refuses calls that do not come from one of our services.
func (a *InternalAuth) Unary(
	ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	if err := a.check(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// Stream refuses streams that do not come from one of our services.
func (a *InternalAuth) Stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := a.check(stream.Context()); err != nil {
		return err
	}
	return handler(srv, stream)
}

func (a *InternalAuth) check(ctx context.Context) error {
	if p, ok := peer.FromContext(ctx); ok {
		if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(tls.State.VerifiedChains) > 0 {
			return nil
		}
	}
	secret, err := bearer(ctx)
	if err != nil {
		return err
	}
	given := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(given[:], a.token[:]) != 1 {
		return errCredential(codes.Unauthenticated, "WRONG_KEY", "the internal API needs the service token")
	}
	return nil
}
