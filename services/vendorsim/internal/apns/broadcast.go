package apns

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// maxChannels is how many an app may have (M).
const maxChannels = 10_000

// channel is a broadcast channel for live activities.
type channel struct {
	bundle string
	config channelConfig
}

// channelConfig is a channel in the management API.
type channelConfig struct {
	Storage  int    `json:"message-storage-policy"` // 0 none, 1 the latest
	PushType string `json:"push-type"`
}

// manage serves /1/apps/{bundle}/channels and /1/apps/{bundle}/all-channels, which Apple has on ports of their own.
func (s *Simulator) manage(w http.ResponseWriter, r *http.Request, path string) {
	bundle, what, _ := strings.Cut(path, "/")
	if what != "channels" && what != "all-channels" {
		s.fail(w, fault{reason: badPath})
		return
	}
	requestID(w, r)
	if f := s.mayBroadcast(r, bundle); !f.ok() {
		s.fail(w, f)
		return
	}
	switch {
	case what == "all-channels" && r.Method == http.MethodGet:
		frame.WriteJSON(w, http.StatusOK, map[string][]string{"channels": s.channelsOf(bundle)})
	case what == "channels" && r.Method == http.MethodPost:
		s.createChannel(w, r, bundle)
	case what == "channels" && (r.Method == http.MethodGet || r.Method == http.MethodDelete):
		id, c, f := s.channel(r, bundle)
		if !f.ok() {
			s.fail(w, f)
			return
		}
		if r.Method == http.MethodGet {
			frame.WriteJSON(w, http.StatusOK, c.config)
			return
		}
		s.mu.Lock()
		delete(s.channels, id)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		s.fail(w, fault{reason: methodNotAllowed})
	}
}

// requestID gives back the request's id, or makes one.
func requestID(w http.ResponseWriter, r *http.Request) string {
	id := r.Header.Get("apns-request-id")
	if id == "" {
		id = uuid.NewString()
	}
	w.Header().Set("apns-request-id", id)
	return id
}

// mayBroadcast checks credential and rights; broadcast needs a token.
func (s *Simulator) mayBroadcast(r *http.Request, bundle string) fault {
	from, f := s.authenticate(r)
	if !f.ok() {
		return f
	}
	a := s.bundle(bundle)
	switch {
	case from.key == nil:
		return fault{reason: missingProviderToken}
	case a == nil || a.TeamID != from.team:
		return fault{reason: topicDisallowed}
	case s.frame.Revoked(a.Name):
		return fault{reason: invalidProviderToken}
	case !a.Broadcast:
		return fault{reason: featureNotEnabled}
	}
	return fault{}
}

func (s *Simulator) channelsOf(bundle string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for id, c := range s.channels {
		if c.bundle == bundle {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (s *Simulator) createChannel(w http.ResponseWriter, r *http.Request, bundle string) {
	var config channelConfig
	body, err := frame.ReadBody(w, r)
	if err == nil {
		err = json.Unmarshal(body, &config)
	}
	switch {
	case err != nil || config.Storage < 0 || config.Storage > 1 || len(s.channelsOf(bundle)) >= maxChannels:
		s.fail(w, fault{reason: cannotCreateChannel})
		return
	case config.PushType != "LiveActivity":
		s.fail(w, fault{reason: invalidPushType})
		return
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	id := base64.StdEncoding.EncodeToString(random[:])
	s.mu.Lock()
	s.channels[id] = channel{bundle: bundle, config: config}
	s.mu.Unlock()
	w.Header().Set("apns-channel-id", id)
	w.WriteHeader(http.StatusCreated)
}

// channel finds the channel that a request names.
func (s *Simulator) channel(r *http.Request, bundle string) (string, channel, fault) {
	id := r.Header.Get("apns-channel-id")
	if id == "" {
		return "", channel{}, fault{reason: missingChannelID}
	}
	if _, err := base64.StdEncoding.DecodeString(id); err != nil {
		return "", channel{}, fault{reason: badChannelID}
	}
	s.mu.Lock()
	c, ok := s.channels[id]
	s.mu.Unlock()
	switch {
	case !ok:
		return "", channel{}, fault{reason: channelNotRegistered}
	case c.bundle != bundle:
		return "", channel{}, fault{reason: topicMismatch}
	}
	return id, c, fault{}
}

// broadcast accepts a notification for a channel.
func (s *Simulator) broadcast(w http.ResponseWriter, r *http.Request, bundle string) {
	request := requestID(w, r)
	body, err := frame.ReadBody(w, r)
	f := fault{reason: payloadTooLarge}
	var id string
	if err == nil {
		id, f = s.checkBroadcast(r, bundle, body)
	}
	if !f.ok() {
		s.fail(w, f)
		return
	}
	a := s.bundle(bundle)
	s.frame.Answered("200", 1)
	s.frame.Record.Accept(frame.Accepted{
		At: s.frame.Now(), App: a.Name, Tokens: []string{id}, PushID: frame.PushID(body), DedupID: request,
		Headers: frame.Headers(r), Body: string(body),
	})
	w.WriteHeader(http.StatusOK)
}

func (s *Simulator) checkBroadcast(r *http.Request, bundle string, body []byte) (string, fault) {
	if r.Method != http.MethodPost {
		return "", fault{reason: methodNotAllowed}
	}
	if f := s.mayBroadcast(r, bundle); !f.ok() {
		return "", f
	}
	id, c, f := s.channel(r, bundle)
	if !f.ok() {
		return "", f
	}
	if r.Header.Get("apns-push-type") != "liveactivity" {
		return "", fault{reason: invalidPushType}
	}
	at, err := strconv.ParseInt(r.Header.Get("apns-expiration"), 10, 64)
	if err != nil || at < 0 || at > 0 && c.config.Storage == 0 {
		return "", fault{reason: badExpirationDate}
	}
	var n notification
	if f := n.headers(r, "liveactivity", s.frame.Now()); !f.ok() {
		return "", f
	}
	if len(body) > maxPayloadAtAll {
		return "", fault{reason: payloadTooLarge}
	}
	root, ok := object(body)
	if !ok || len(root) == 0 {
		return "", fault{reason: payloadEmpty}
	}
	aps, _ := object(root["aps"])
	n.app, n.token, n.title = s.bundle(bundle), id, title(aps["alert"])
	return id, s.decide(r, n)
}
