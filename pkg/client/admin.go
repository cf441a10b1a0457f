package client

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
)

// Admin calls the admin API. It holds one connection, is safe for concurrent use, and is closed by its owner.
type Admin struct {
	adminv1.AdminServiceClient

	conn *grpc.ClientConn
}

// NewAdmin returns a client of the admin API for the server at addr, host:port, with an admin token (ak_…). It connects with the
// first call.
func NewAdmin(addr, token string, options ...Option) (*Admin, error) {
	conn, _, err := dial(addr, token, options)
	if err != nil {
		return nil, err
	}
	return &Admin{AdminServiceClient: adminv1.NewAdminServiceClient(conn), conn: conn}, nil
}

// Close closes the connection; calls under way fail.
func (a *Admin) Close() error { return a.conn.Close() }

// Apps iterates over the apps, by id, page by page. An error ends it.
func (a *Admin) Apps(ctx context.Context) iter.Seq2[*adminv1.App, error] {
	return pages(func(token string) ([]*adminv1.App, string, error) {
		r, err := a.ListApps(ctx, &adminv1.ListAppsRequest{PageToken: token})
		return r.GetApps(), r.GetNextPageToken(), err
	})
}
