package doctor_test

import (
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/services/pushcore/doctor"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestWhomPostgreSQLDoesNotLetIn(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	dsn, err := url.Parse(site.DSN)
	if err != nil {
		t.Fatal(err)
	}
	c := configOf(t, site)
	missing := *dsn
	missing.Path = "/not_made_yet"
	c.DatabaseURL = config.Secret(missing.String())
	want(t, examine(t, c), "postgresql", doctor.Failed, "createdb -h "+dsn.Query().Get("host")+" -p "+dsn.Query().Get("port")+" -O "+dsn.User.Username()+" not_made_yet")

	stranger := *dsn
	stranger.User = url.User("stranger")
	c.DatabaseURL = config.Secret(stranger.String())
	want(t, examine(t, c), "postgresql", doctor.Failed, "--pwprompt stranger")

	address := refusing(t, "28P01")
	c.DatabaseURL, c.DatabaseURLFile = config.Secret("postgres://halley@"+address+"/halley?sslmode=disable"), "/etc/halley/url"
	want(t, examine(t, c), "postgresql", doctor.Failed,
		"put the password of the user halley into database_url, in /etc/halley/url: postgres://halley:password@"+address+"/halley")
}

// refusing returns the address of a PostgreSQL that lets nobody in, with an SQLSTATE.
func refusing(t *testing.T, code string) string {
	t.Helper()
	l := listener(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil { // the test has ended
				return
			}
			server := pgproto3.NewBackend(conn, conn)
			if _, err := server.ReceiveStartupMessage(); err == nil {
				server.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: "no"})
				_ = server.Flush() // the client says so if it does not come
			}
			_ = conn.Close() // all is said
		}
	}()
	return l.Addr().String()
}
