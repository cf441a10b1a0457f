package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// idLength is that of team and key ids.
const idLength = 10

// app is a registered app, with the credentials that Apple's console would give out.
type app struct {
	Name     string `json:"app"`
	BundleID string `json:"bundle_id"`
	TeamID   string `json:"team_id"`
	KeyID    string `json:"key_id"`
	Key      string `json:"key"` // the .p8 file

	// KeyEnvironment limits the key to an environment, KeyTopics to topics; newer keys can be.
	KeyEnvironment Environment `json:"key_environment,omitempty"`
	KeyTopics      []string    `json:"key_topics,omitempty"`

	// Certificate is asked for with WithCertificate. Its topics are the bundle id unless there are others; with several,
	// apns-topic is needed.
	WithCertificate bool        `json:"with_certificate,omitempty"`
	Certificate     string      `json:"certificate,omitempty"`
	CertificateKey  string      `json:"certificate_key,omitempty"`
	CertificateEnv  Environment `json:"certificate_environment,omitempty"`
	Topics          []string    `json:"topics,omitempty"`

	// Broadcast says whether the app may use broadcast channels.
	Broadcast bool `json:"broadcast,omitempty"`
}

// key is a provider token signing key.
type key struct {
	app         string // that registered it last
	team        string
	public      *ecdsa.PublicKey
	environment Environment
	topics      []string
}

// Register makes an app known; see app for its document.
func (s *Simulator) Register(document json.RawMessage) (any, error) {
	var a app
	if err := json.Unmarshal(document, &a); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	if a.Name == "" || a.BundleID == "" {
		return nil, errors.New("app and bundle_id are needed")
	}
	if a.TeamID == "" {
		a.TeamID = rand.Text()[:idLength]
	}
	if a.KeyID == "" {
		a.KeyID = rand.Text()[:idLength]
	}
	if len(a.TeamID) != idLength || len(a.KeyID) != idLength {
		return nil, errors.New("team_id and key_id have 10 characters")
	}
	public, err := a.readKey()
	if err != nil {
		return nil, err
	}
	if a.WithCertificate && a.Certificate == "" {
		if a.CertificateEnv == "" {
			a.CertificateEnv = s.environment
		}
		subject := frame.Subject{UserID: a.BundleID, Name: "Apple Push Services: " + a.BundleID, Unit: string(a.CertificateEnv)}
		certificate, private, err := s.frame.Authority.Client(subject)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		a.Certificate, a.CertificateKey = string(certificate), string(private)
	}
	if len(a.Topics) == 0 {
		a.Topics = []string{a.BundleID}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[a.BundleID] = &a
	maps.DeleteFunc(s.keys, func(_ string, old *key) bool { return old.app == a.Name }) // a new key takes the old one's place
	s.keys[a.KeyID] = &key{
		app: a.Name, team: a.TeamID, public: public, environment: a.KeyEnvironment, topics: a.KeyTopics,
	}
	return a, nil
}

// readKey parses the .p8 file, or makes one.
func (a *app) readKey() (*ecdsa.PublicKey, error) {
	if a.Key == "" {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			return nil, fmt.Errorf("encode the key: %w", err)
		}
		a.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	block, _ := pem.Decode([]byte(a.Key))
	if block == nil {
		return nil, errors.New("key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("key is not an EC key on P-256")
	}
	return &private.PublicKey, nil
}

// named returns the app of a name.
func (s *Simulator) named(name string) (*app, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.apps {
		if a.Name == name {
			return a, nil
		}
	}
	return nil, fmt.Errorf("app %q is not registered", name)
}

func (s *Simulator) bundle(id string) *app {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apps[id]
}

func (s *Simulator) key(id string) *key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[id]
}

// mark begins the tokens that the simulator makes: it tells app and environment, as Apple knows them of its own. Tokens that
// begin otherwise are taken by every app.
func mark(e Environment, bundle string) string {
	return frame.Mark(string(e) + ":" + bundle)
}

// owner checks that a token is not known to be of another app or environment.
func (s *Simulator) owner(token string, a *app) fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	other := Production
	if s.environment == Production {
		other = Sandbox
	}
	for id := range s.apps {
		switch token[:frame.MarkLength] {
		case mark(other, id):
			return fault{reason: badDeviceToken}
		case mark(s.environment, id):
			if id != a.BundleID {
				return fault{reason: deviceTokenNotForTopic}
			}
		}
	}
	return fault{}
}

func (a *app) hasTopic(topic string) bool { return slices.Contains(a.Topics, topic) }
