package senders

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/bench/internal/crew"
)

// Role is the name of the bare loop's role.
const Role = "bare-client"

// tokenHere stands for the device's token in a Plan; for a batch, for all tokens.
const tokenHere = "{token}"

// apnsID is the header that every request to APNs has its own value of.
const apnsID = "Apns-Id"

// Plan is what the bare loop does.
type Plan struct {
	// URL, Headers and Body are those of a request.
	URL     string
	Headers map[string]string
	Body    string
	// CA is a file with the certificate that signs the server's.
	CA string
	// Concurrency is how many requests are under way, Batch how many tokens a request has.
	Concurrency, Batch int
	Tokens             []string
}

// Loop is what a sender is measured beside: goroutines that make one request after the other with net/http over HTTP/2, and look
// at nothing but the status. It takes no jobs, limits no rate, retries nothing, builds no message and reports nothing.
type Loop struct {
	plan   Plan
	client *http.Client
}

// Serve answers for the role until the input ends.
func Serve() error { return crew.Serve(&Loop{}) }

// Prepare is to be called before Run.
func (l *Loop) Prepare(plan Plan, _ *struct{}) error {
	pem, err := os.ReadFile(plan.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", plan.CA)
	}
	var only http.Protocols
	only.SetHTTP2(true)
	l.plan = plan
	l.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, Protocols: &only,
	}}
	return nil
}

// Run makes a request for each of the tokens, or for each batch of them.
func (l *Loop) Run(_ struct{}, _ *struct{}) error {
	group, ctx := errgroup.WithContext(context.Background())
	var next atomic.Int64
	for range l.plan.Concurrency {
		group.Go(func() error {
			for {
				first := int(next.Add(1)-1) * l.plan.Batch
				if first >= len(l.plan.Tokens) {
					return nil
				}
				if err := l.request(ctx, l.plan.Tokens[first:min(first+l.plan.Batch, len(l.plan.Tokens))]); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

func (l *Loop) request(ctx context.Context, tokens []string) error {
	token := strings.Join(tokens, `","`) // a list of them in JSON
	url, body := strings.Replace(l.plan.URL, tokenHere, token, 1), strings.Replace(l.plan.Body, tokenHere, token, 1)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return errors.New("the request cannot be made")
	}
	for name, value := range l.plan.Headers {
		if name == apnsID {
			value = uuid.NewString()
		}
		request.Header.Set(name, value)
	}
	response, err := l.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	return err
}
