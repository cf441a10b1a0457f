package session

import (
	"errors"
	"strconv"
	"time"

	"github.com/halleypush/halley/pkg/token"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// ConnectWithin is how long a connection may take until its CONNECT is complete, TLS and the like included.
const ConnectWithin = 10 * time.Second

// Unidentified is a connection before its CONNECT has been believed. It can do nothing but say who it is.
type Unidentified struct {
	// Begun is when the connection came, on the host's clock.
	Begun time.Duration
	// version and maxPacket are what CONNECT said, 0 before.
	version   byte
	maxPacket uint32
}

// Input looks for the CONNECT at the beginning of what came from the peer. It returns nil and 0 while that is not complete,
// or if it has refused the connection; refused is then the code of the CONNACK, or Success if there is none. What stands
// behind the CONNECT is for the session that follows.
func (u *Unidentified) Input(out *Output, l Limits, input []byte) (c *mqtt.Connect, used int, refused mqtt.Code) {
	if len(input) > 0 && input[0]>>4 != mqtt.CONNECT {
		out.close(Malformed) // not MQTT: nothing is answered (3.1.4)
		return nil, 0, mqtt.Success
	}
	p, n, err := mqtt.Next(input, l.MaxPacket)
	if err == nil && n == 0 {
		return nil, 0, mqtt.Success
	}
	if err == nil {
		c, err = mqtt.DecodeConnect(p)
	}
	if c != nil {
		u.version, u.maxPacket = c.Version, c.MaximumPacketSize
	}
	if err == nil {
		err = acceptable(c)
	}
	if err == nil {
		return c, n, mqtt.Success
	}
	var e *mqtt.Error
	if !errors.As(err, &e) || e.Code == mqtt.MalformedPacket || c == nil {
		out.close(Malformed)
		return nil, 0, mqtt.Success
	}
	u.Refuse(out, e.Code, e.Reason, 0)
	return nil, 0, e.Code
}

// acceptable refuses what a CONNECT may ask for by the standard but not here.
func acceptable(c *mqtt.Connect) error {
	switch {
	case c.HasWill:
		return &mqtt.Error{Code: mqtt.NotAuthorized, Reason: "wills are not supported"}
	case c.AuthMethod != "":
		return &mqtt.Error{Code: mqtt.BadAuthenticationMethod, Reason: "enhanced authentication is not supported"}
	case c.Version == mqtt.V311 && c.ClientID == "":
		return &mqtt.Error{Code: mqtt.InvalidClientID, Reason: "a 3.1.1 client registers over HTTPS and sends its token as client id"}
	case c.Username == "" || c.Password == "":
		return &mqtt.Error{Code: mqtt.NotAuthorized, Reason: "the app id as user name and a key or secret as password are needed"}
	}
	return nil
}

// Refuse answers the CONNECT with a code and closes. An MQTT 5 client is told the reason, and when to come back if retryAfter
// is not 0, as far as it takes packets of that size.
func (u *Unidentified) Refuse(out *Output, code mqtt.Code, reason string, retryAfter time.Duration) {
	ack := mqtt.Connack{Code: code, Reason: reason}
	if retryAfter > 0 {
		ack.User = []mqtt.UserProperty{RetryAfter(retryAfter)}
	}
	version := mqtt.V5
	if u.version <= mqtt.V311 {
		version = mqtt.V311 // the form that older clients know, too
	}
	out.Bytes = ack.AppendUpTo(out.Bytes, version, u.maxPacket)
	out.close(Refused)
}

// Late reports whether the connection has taken too long to say who it is, and else how long it may take still.
func (u *Unidentified) Late(now Clock) (bool, time.Duration) {
	left := ConnectWithin - (now.Since - u.Begun)
	return left <= 0, left
}

// RetryAfter is the user property that tells a client when to come back.
func RetryAfter(d time.Duration) mqtt.UserProperty {
	return mqtt.UserProperty{Name: "retry_after_ms", Value: strconv.FormatInt(d.Milliseconds(), 10)}
}

// Verify checks the token and secret of a CONNECT, without asking anybody. The code is Success, or says why not.
func (a *App) Verify(c *mqtt.Connect) (ordinal uint64, generation uint32, code mqtt.Code) {
	ordinal, generation, err := a.Codec.Verify(c.ClientID, c.Password)
	switch {
	case errors.Is(err, token.ErrMalformed):
		return 0, 0, mqtt.InvalidClientID
	case err != nil:
		return 0, 0, mqtt.NotAuthorized
	}
	return ordinal, generation, mqtt.Success
}
