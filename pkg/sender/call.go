package sender

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"
)

// maxAnswer bounds what is read of a vendor's answer: results for 1,000 targets are far smaller.
const maxAnswer = 4 << 20

// The media types of requests.
const (
	JSON = "application/json; charset=UTF-8"
	Form = "application/x-www-form-urlencoded; charset=UTF-8"
)

// Answer is a vendor's whole answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// RetryAfter returns how long the vendor asks to be left alone; 0: it does not say.
func (a *Answer) RetryAfter() time.Duration {
	text := a.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// Decode reads the answer's JSON into v. What is no JSON, such as a proxy's page, leaves v as it is.
func (a *Answer) Decode(v any) { _ = json.Unmarshal(a.Body, v) } // the status decides, then

// Post makes one request of a media type. headers are names and values in turn. Its errors do not name the URL.
func Post(ctx context.Context, client *http.Client, address, media string, body []byte, headers ...string) (*Answer, error) {
	return Do(ctx, client, http.MethodPost, address, body, append([]string{"Content-Type", media}, headers...)...)
}

// Do makes one request. headers are names and values in turn. Its errors do not name the URL.
func Do(ctx context.Context, client *http.Client, method, address string, body []byte, headers ...string) (*Answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the request cannot be made")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return &Answer{Status: response.StatusCode, Header: response.Header, Body: content}, nil
}

func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// NewClient returns an HTTP client for requests of one vendor, with connections kept for as many as run at a time. ca is a file
// with certificates that sign the vendor's, beside the system's; empty: only those. Redirects are not followed: they would
// take credentials elsewhere.
func NewClient(concurrency int, ca string) (*http.Client, error) {
	roots, err := Roots(ca)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, ForceAttemptHTTP2: true,
			MaxIdleConns: 4 * concurrency, MaxIdleConnsPerHost: concurrency, IdleConnTimeout: 90 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// Roots returns the certificates of a file beside the system's; nil, which is the system's, without a file.
func Roots(ca string) (*x509.CertPool, error) {
	if ca == "" {
		return nil, nil //nolint:nilnil // as crypto/tls has it
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca: %s holds no certificate", ca)
	}
	return roots, nil
}

// Failure is an error that says what it comes to for every target, such as a refused fetch of an access token.
type Failure struct{ Result Result }

func (f *Failure) Error() string { return f.Result.Code }

// ResultOf returns what an error comes to: that of its Failure; Retry for every other; Accepted for none.
func ResultOf(err error) Result {
	var f *Failure
	switch {
	case err == nil:
		return Result{Outcome: Accepted}
	case errors.As(err, &f):
		return f.Result
	default:
		return Result{Outcome: Retry, Code: short(err.Error())}
	}
}

// Checked returns what a Checker answers if its trial came to a result: only CredentialBad speaks against the credential, and
// who could not ask says so in the note.
func Checked(r Result) (note string, err error) {
	switch r.Outcome {
	case CredentialBad:
		return "", errors.New("the vendor refuses it: " + r.Code)
	case Retry, QuotaSpent:
		return "the vendor could not be asked (" + r.Code + "): only the form was checked", nil
	default:
		return "", nil
	}
}

// Try calls attempt with an access token. If attempt says that the vendor does not take the token any more, it is called once
// more with a fresh one, which all who noticed at the same time share.
func (s *TokenSource) Try(ctx context.Context, attempt func(token string) (refused bool)) error {
	for range 2 {
		token, err := s.Token(ctx)
		if err != nil {
			return err
		}
		if !attempt(token) {
			return nil
		}
		s.Void(token)
	}
	return nil
}
