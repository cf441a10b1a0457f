package frame

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxBody is the largest request that is read, in bytes: far above every vendor's limit, so that the vendor answers.
	maxBody = 8 << 20
	// stopWithin bounds how long a stop waits for requests that run.
	stopWithin = time.Second
	// maxStreams is what APNs commonly allows on a connection. The real one begins with one stream until the first push of a
	// connection is accepted (M), which net/http cannot do.
	maxStreams = 1000
)

// Serve answers a listener as a vendor until ctx ends. With a TLS configuration it offers HTTP/2 and HTTP/1.1, or what
// its NextProtos names; without, HTTP/1.1 and HTTP/2 with prior knowledge. It closes the listener.
func (f *Frame) Serve(ctx context.Context, listener net.Listener, config *tls.Config, v Vendor) error {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(config == nil)
	if config != nil && len(config.NextProtos) == 1 && config.NextProtos[0] == "h2" {
		protocols.SetHTTP1(false)
	}
	server := &http.Server{
		Handler: f.Handler(v), TLSConfig: config, Protocols: &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(f.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, &Conn{conn: c})
		},
	}
	ended := make(chan error, 1)
	go func() {
		if config != nil {
			ended <- server.ServeTLS(listener, "", "")
		} else {
			ended <- server.Serve(listener)
		}
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", f.Channel, err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", f.Channel, err)
	}
	return nil
}

// Handler returns the vendor behind the faults that the switches want.
func (f *Frame) Handler(v Vendor) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := f.Switches()
		if strings.HasPrefix(r.URL.Path, s.Latency.Path) {
			wait := time.Duration(s.Latency.Base)
			if s.Latency.Jitter > 0 {
				wait += rand.N(time.Duration(s.Latency.Jitter))
			}
			if !Pause(r.Context(), wait) {
				return
			}
		}
		f.goAway(w, r, s.GoAway)
		if o := s.Outage; o.Mode != "" && strings.HasPrefix(r.URL.Path, o.Path) && (o.Share == 0 || rand.Float64() < o.Share) {
			f.outage(w, r, v, o.Mode)
			return
		}
		v.ServeHTTP(w, r)
	})
}

func (f *Frame) outage(w http.ResponseWriter, r *http.Request, v Vendor, mode string) {
	f.Answered("outage", 1)
	switch mode {
	case OutageHang:
		<-r.Context().Done()
	case OutageClose:
		if c := ConnOf(r); c != nil {
			_ = c.conn.Close() // over HTTP/2 an aborted handler would end its stream only
		}
		panic(http.ErrAbortHandler)
	default:
		v.Unavailable(w)
	}
}

func (f *Frame) goAway(w http.ResponseWriter, r *http.Request, g GoAway) {
	c := ConnOf(r)
	if g.Mode == "" || c == nil || r.ProtoMajor < 2 || c.requests.Add(1)%int64(g.Every) != 0 {
		return
	}
	f.Answered("goaway", 1)
	if g.Mode == GoAwayDrop {
		_ = c.conn.Close()
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Connection", "close") // net/http sends GOAWAY for that, and answers the streams that are open
}

type connKey struct{}

// Conn is a client's connection.
type Conn struct {
	conn     net.Conn
	requests atomic.Int64

	mu   sync.Mutex
	data any
}

// ConnOf returns the connection of a request, or nil if Serve does not serve it.
func ConnOf(r *http.Request) *Conn {
	c, _ := r.Context().Value(connKey{}).(*Conn)
	return c
}

// Update changes what a vendor keeps with a connection; nil at first.
func (c *Conn) Update(change func(old any) any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = change(c.data)
}

// Pause waits, and returns false if ctx ended before.
func Pause(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ReadBody reads a request's body, at most 8 MiB.
func ReadBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	return body, nil
}

// WriteJSON writes an answer.
func WriteJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone, then
}

// RetryAfter writes the header Retry-After in seconds, rounded up, if there is a time to wait.
func RetryAfter(w http.ResponseWriter, wait Duration) {
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((time.Duration(wait)+time.Second-1)/time.Second), 10))
	}
}
