package vendorsim

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"slices"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// maxTokens bounds how many tokens a call makes.
const maxTokens = 1_000_000

// handler returns the control API. Streams end with ctx.
func (s *Simulators) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/channels", func(w http.ResponseWriter, _ *http.Request) {
		urls := make(map[string]string)
		for name := range s.channels {
			urls[name] = s.URL(name)
		}
		frame.WriteJSON(w, http.StatusOK, map[string]any{"channels": urls, "ca_file": s.CAFile()})
	})
	handle := func(pattern string, serve func(*channel, http.ResponseWriter, *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			c := s.channels[r.PathValue("channel")]
			if c == nil {
				refuse(w, http.StatusNotFound, errors.New("this channel is not simulated"))
				return
			}
			serve(c, w, r)
		})
	}
	handle("GET /v1/{channel}/codes", func(c *channel, w http.ResponseWriter, _ *http.Request) {
		frame.WriteJSON(w, http.StatusOK, c.vendor.Codes())
	})
	handle("GET /v1/{channel}/stats", func(c *channel, w http.ResponseWriter, _ *http.Request) {
		frame.WriteJSON(w, http.StatusOK, c.frame.Stats())
	})
	handle("GET /v1/{channel}/accepted", func(c *channel, w http.ResponseWriter, r *http.Request) { c.accepted(ctx, w, r) })
	handle("GET /v1/{channel}/pairs", func(c *channel, w http.ResponseWriter, _ *http.Request) {
		stream(w, false, slices.Values(c.frame.Record.Pairs()))
	})
	handle("DELETE /v1/{channel}/accepted", func(c *channel, w http.ResponseWriter, _ *http.Request) {
		c.frame.ResetAccepted()
		w.WriteHeader(http.StatusNoContent)
	})
	handle("GET /v1/{channel}/switches", func(c *channel, w http.ResponseWriter, _ *http.Request) {
		frame.WriteJSON(w, http.StatusOK, c.frame.Switches())
	})
	handle("POST /v1/{channel}/switches", (*channel).patchSwitches)
	handle("DELETE /v1/{channel}/switches", func(c *channel, w http.ResponseWriter, _ *http.Request) {
		_ = c.frame.Set(Switches{}) // always valid
		w.WriteHeader(http.StatusNoContent)
	})
	handle("POST /v1/{channel}/expire", (*channel).expire)
	handle("GET /v1/{channel}/apps", func(c *channel, w http.ResponseWriter, _ *http.Request) {
		frame.WriteJSON(w, http.StatusOK, c.registered())
	})
	handle("POST /v1/{channel}/apps", (*channel).postApp)
	handle("POST /v1/{channel}/tokens", (*channel).postTokens)
	return mux
}

// accepted streams the requests that are kept; with ?follow=true also those that come, until the client goes.
func (c *channel) accepted(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if r.FormValue("follow") != "true" {
		stream(w, false, slices.Values(c.frame.Record.After(0)))
		return
	}
	following, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	stream(w, true, c.frame.Record.Follow(following))
}

func (c *channel) patchSwitches(w http.ResponseWriter, r *http.Request) {
	body, err := frame.ReadBody(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	switches, err := c.frame.Patch(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	frame.WriteJSON(w, http.StatusOK, switches)
}

// expire ends the access tokens that an app (without one: every app) has shown until now.
func (c *channel) expire(w http.ResponseWriter, r *http.Request) {
	frame.WriteJSON(w, http.StatusOK, map[string]int{"expired": c.frame.Sessions.Expire(r.FormValue("app"))})
}

func (c *channel) postApp(w http.ResponseWriter, r *http.Request) {
	body, err := frame.ReadBody(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	credentials, err := c.register(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	frame.WriteJSON(w, http.StatusOK, credentials)
}

func (c *channel) postTokens(w http.ResponseWriter, r *http.Request) {
	var wanted struct {
		App   string
		Count int
	}
	body, err := frame.ReadBody(w, r)
	if err == nil {
		err = json.Unmarshal(body, &wanted)
	}
	if err == nil && (wanted.Count < 1 || wanted.Count > maxTokens) {
		err = errors.New("count must be between 1 and 1000000")
	}
	var tokens []any
	if err == nil {
		tokens, err = c.vendor.Tokens(wanted.App, wanted.Count)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	stream(w, false, slices.Values(tokens))
}

// stream writes a JSON document a line; at once, if the client follows.
func stream[T any](w http.ResponseWriter, atOnce bool, lines iter.Seq[T]) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	if atOnce {
		_ = control.Flush() // the client sees that it is heard
	}
	encoder := json.NewEncoder(w)
	for line := range lines {
		if encoder.Encode(line) != nil || atOnce && control.Flush() != nil {
			return
		}
	}
}

func refuse(w http.ResponseWriter, status int, err error) {
	frame.WriteJSON(w, status, map[string]string{"error": err.Error()})
}
