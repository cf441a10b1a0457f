package sender_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/sender"
)

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		answer string
		holds  time.Duration
		want   sender.Outcome
	}{
		{200, `{"access_token":"a\/b","expires_in":3600,"token_type":"Bearer"}`, 56 * time.Minute, sender.Accepted},
		{200, `{"access_token":"a\/b","expires_in":"10"}`, 5 * time.Second, sender.Accepted},
		{200, `{"access_token":"a\/b"}`, 56 * time.Minute, sender.Accepted},
		{200, `<html>`, 0, sender.Retry},
		{400, `{"error":1101,"sub_error":20001,"error_description":"invalid client_secret"}`, 0, sender.CredentialBad},
		{401, `{"error":"invalid_client"}`, 0, sender.CredentialBad},
		{429, ``, 0, sender.Retry},
		{503, `{"error":"busy"}`, 0, sender.Retry},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("grant_type") != "client_credentials" || r.FormValue("client_id") != "id" || r.FormValue("client_secret") != "hunter2" {
				t.Errorf("asked with %v", r.Form)
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.answer)
		}))
		token, holds, err := sender.ClientCredentials(server.Client(), server.URL, "id", "hunter2").Fetch(t.Context())
		server.Close()
		var failure *sender.Failure
		switch {
		case c.want == sender.Accepted && (err != nil || token != "a/b" || holds != c.holds):
			t.Errorf("%s: %s, %v, %v", c.answer, token, holds, err)
		case c.want != sender.Accepted && (!errors.As(err, &failure) || failure.Result.Outcome != c.want):
			t.Errorf("%d %s: %v", c.status, c.answer, err)
		}
	}
}
