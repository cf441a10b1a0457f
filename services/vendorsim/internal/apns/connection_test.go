package apns_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/apns"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
)

// certificates are the credentials of an app with a client certificate.
type certificates struct {
	Certificate string `json:"certificate"`
	Key         string `json:"certificate_key"`
}

// show makes the rig's client show a certificate.
func (r *rig) show(c certificates) {
	r.t.Helper()
	pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
	frametest.Must(r.t, err)
	config := r.TLS.Clone()
	config.Certificates = []tls.Certificate{pair}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	r.t.Cleanup(transport.CloseIdleConnections)
	r.Client.Transport = transport
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	single := `{"app":"demo","bundle_id":"com.example.demo","with_certificate":true}`
	several := `{"app":"demo","bundle_id":"com.example.demo","with_certificate":true,"topics":["com.example.demo","com.example.demo.voip"]}`
	sandbox := `{"app":"demo","bundle_id":"com.example.demo","with_certificate":true,"certificate_environment":"sandbox"}`
	for _, c := range []struct {
		name, app, topic, pushType, reason string
	}{
		{"one topic needs no header", single, "", "alert", ""},
		{"its own topic", single, bundle, "alert", ""},
		{"another topic", single, "com.example.other", "alert", "TopicDisallowed"},
		{"several topics need the header", several, "", "alert", "MissingTopic"},
		{"one of several", several, bundle + ".voip", "voip", ""},
		{"no live activities", single, bundle + ".push-type.liveactivity", "liveactivity", "TopicDisallowed"},
		{"of the other environment", sandbox, "", "alert", "BadCertificateEnvironment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, apns.Production)
			var credentials certificates
			r.Register(c.app, &credentials)
			r.show(credentials)
			a := r.Do("POST", "/3/device/"+token, with([][2]string{{"apns-push-type", c.pushType}}, "apns-topic", c.topic), alert)
			if c.reason == "" && a.Status != 200 || c.reason != "" && a.Field(t, "reason") != c.reason {
				t.Errorf("answered %d %s, want %s", a.Status, a.Body, c.reason)
			}
		})
	}
}

func TestACertificateOfAnotherAuthorityIsBad(t *testing.T) {
	t.Parallel()
	r, other := start(t, apns.Production), start(t, apns.Production)
	var credentials certificates
	other.Register(`{"app":"demo","bundle_id":"com.example.demo","with_certificate":true}`, &credentials)
	r.show(credentials)
	a := r.Do("POST", "/3/device/"+token, [][2]string{{"apns-push-type", "alert"}}, alert)
	if a.Status != 403 || a.Field(t, "reason") != "BadCertificate" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
}

func TestOnlyHTTP2IsSpoken(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	transport := &http.Transport{TLSClientConfig: r.TLS} // with settings of its own it speaks HTTP/1.1
	t.Cleanup(transport.CloseIdleConnections)
	r.Client.Transport = transport
	if a, err := r.Try("POST", "/3/device/"+token, r.headers(), alert); err == nil {
		t.Errorf("HTTP/1.1 was answered with %d %s", a.Status, a.Body)
	}
}

// dials counts the connections that a client opens.
func (r *rig) dials() *atomic.Int64 {
	var n atomic.Int64
	transport := &http.Transport{TLSClientConfig: r.TLS, ForceAttemptHTTP2: true}
	r.t.Cleanup(transport.CloseIdleConnections)
	r.Client.Transport = counted{transport: transport, n: &n}
	return &n
}

type counted struct {
	transport *http.Transport
	n         *atomic.Int64
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			c.n.Add(1)
		}
	}}
	return c.transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
}

func TestGoAwayMakesTheClientConnectAnew(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	dials := r.dials()
	r.Patch(`{"goaway":{"mode":"graceful","every":2}}`)
	headers := r.headers()
	for range 6 {
		if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != 200 {
			t.Fatalf("answered %d %s", a.Status, a.Body)
		}
	}
	if n := dials.Load(); n < 3 {
		t.Errorf("%d connections for 6 requests, with GOAWAY after each second", n)
	}
}

func TestADroppedConnectionLeavesTheOutcomeUnknown(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	r.Patch(`{"goaway":{"mode":"drop","every":2}}`)
	headers := r.headers()
	if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != 200 {
		t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	if _, err := r.Try("POST", "/3/device/"+token, headers, alert); err == nil {
		t.Error("the second request was answered")
	}
}

func TestOutages(t *testing.T) {
	t.Parallel()
	r := start(t, apns.Production)
	r.Patch(`{"outage":{"mode":"503"}}`)
	headers := r.headers()
	if a := r.Do("POST", "/3/device/"+token, headers, alert); a.Status != 503 || a.Field(t, "reason") != "ServiceUnavailable" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	r.Patch(`{"outage":{"mode":"close"}}`)
	if _, err := r.Try("POST", "/3/device/"+token, headers, alert); err == nil {
		t.Error("a closed vendor answers")
	}
	r.Patch(`{"outage":{"mode":"hang"}}`)
	r.Client.Timeout = 50 * time.Millisecond
	_, err := r.Try("POST", "/3/device/"+token, headers, alert)
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("a hanging vendor: %v", err)
	}
}
