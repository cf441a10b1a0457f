package sender

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// early is how long before its end an OAuth token is fetched anew, with what TokenSource adds about five minutes: what is
// under way then still arrives with a token that holds.
const early = 4 * time.Minute

// hour is what a token holds if the server does not say.
const hour = time.Hour

// ClientCredentials returns a source of access tokens by OAuth 2's client credentials grant. A refused client is a Failure.
func ClientCredentials(client *http.Client, address, id, secret string) *TokenSource {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
	return &TokenSource{Fetch: func(ctx context.Context) (string, time.Duration, error) {
		return FetchToken(ctx, client, address, form)
	}}
}

// FetchToken gets an access token by one of OAuth 2's grants, and how long it may be used. A refused client is a Failure.
func FetchToken(ctx context.Context, client *http.Client, address string, grant url.Values) (token string, holds time.Duration, err error) {
	a, err := Post(ctx, client, address, Form, []byte(grant.Encode()))
	if err != nil {
		return "", 0, fmt.Errorf("access token: %w", err)
	}
	var answer struct {
		Token   string `json:"access_token"`
		Expires Text   `json:"expires_in"`
		Error   Text   `json:"error"`
	}
	a.Decode(&answer)
	if a.Status == http.StatusOK && answer.Token != "" {
		holds := hour
		if seconds, err := strconv.ParseInt(string(answer.Expires), 10, 32); err == nil && seconds > 0 {
			holds = time.Duration(seconds) * time.Second
		}
		return answer.Token, max(holds-early, holds/2), nil
	}
	r := Codes(nil).Judge(a, "", "", Retry)
	if r.Outcome == Rejected { // 400 is OAuth's way to refuse a client
		r.Outcome = CredentialBad
	}
	r.Code = short(fmt.Sprintf("access token: HTTP %d %s", a.Status, answer.Error))
	return "", 0, &Failure{r}
}
