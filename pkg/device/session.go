package device

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
)

const (
	// connectWithin bounds the time from the dial to the SUBACK.
	connectWithin = 30 * time.Second
	// receiveMaximum is how many messages may be unacknowledged on a connection: 16 for each of maxIdentities.
	receiveMaximum = 16 * maxIdentities
	// inboxSize is the room for messages that wait for OnMessage. Those of QoS 1 always fit, if the server keeps to
	// their 16; others are dropped, and counted, when it is full.
	inboxSize = 64
	// closeWithin bounds the farewell to a server that does not read any more.
	closeWithin = time.Second
	// pubackWithin is when a connection on which events or calls are not acknowledged is given up, longer than the minute
	// that a server may keep them.
	pubackWithin = 90 * time.Second
)

// ServerError is the server's word for refusing or ending a connection.
type ServerError struct {
	// Code is MQTT's reason code, and Text what the server said with it.
	Code byte
	Text string
	// Refused is true if the connection did not come about.
	Refused bool
	// RetryAfter is how long the server asks to stay away; 0 if it does not say.
	RetryAfter time.Duration
	// Reference is the host:port where the device shall go, with codes 0x9C and 0x9D.
	Reference string
}

func (e *ServerError) Error() string {
	what := "the server closed the connection"
	if e.Refused {
		what = "the server refused the connection"
	}
	return strings.TrimSuffix(fmt.Sprintf("%s: 0x%02X %s", what, e.Code, e.Text), " ")
}

func serverError(code byte, text, reference string, user paho.UserProperties, refused bool) *ServerError {
	ms, err := strconv.ParseInt(user.Get("retry_after_ms"), 10, 64)
	if err != nil || ms < 0 {
		ms = 0
	}
	after := min(time.Duration(min(ms, 1<<40))*time.Millisecond, maxRetryAfter)
	return &ServerError{Code: code, Text: text, Refused: refused, RetryAfter: after, Reference: reference}
}

// session is one connection that is subscribed.
type session struct {
	client *paho.Client
	state  *state.State
	// ctx ends with the connection; its cause is why.
	ctx context.Context //nolint:containedctx // it is the connection's lifetime
	end context.CancelCauseFunc
	// registered is true if the device has got a new token with this connection.
	registered bool
	conn       net.Conn

	mu    sync.Mutex
	calls map[string]chan<- reply // guarded by mu: by id
	seats map[string]*seat        // guarded by mu: by app
}

// lateAcks is the library's session state with two differences. It acknowledges nothing when the library's callbacks return:
// the device does that when the app has the message. (The library's own manual mode sends acknowledgements every 50 ms only,
// and none behind one that is missing.) And it notes why the server disconnects before anything fails for that reason.
type lateAcks struct {
	*state.State
	end context.CancelCauseFunc
}

func (lateAcks) Ack(*packets.Publish) error { return nil }

func (a lateAcks) ConnectionLost(p *packets.Disconnect) error {
	if p != nil {
		a.end(disconnected(paho.DisconnectFromPacketDisconnect(p)))
	}
	return a.State.ConnectionLost(p)
}

// connect opens a connection as planned, registers if that is due, and subscribes. A registration holds whatever becomes of the connection
// after it.
func (d *Device) connect(ctx context.Context, p *plan) (*session, error) {
	t, register := p.at, p.register
	packet, err := d.connectPacket(register)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	conn, err := d.dial(within, t)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(within, func() { conn.Close() }) // a blocked write heeds no context
	defer stop()
	s := &session{conn: conn, state: state.NewInMemory(), calls: map[string]chan<- reply{}, seats: map[string]*seat{}}
	s.ctx, s.end = context.WithCancelCause(ctx)
	s.client = paho.NewClient(paho.ClientConfig{
		Conn: conn, Session: lateAcks{s.state, s.end}, PingHandler: d.pinger(),
		PacketTimeout:     2 * pubackWithin, // our own time-outs come first
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){d.receive(s)}, OnClientError: s.end,
	})
	connack, err := s.client.Connect(within, packet)
	if err != nil {
		s.end(err)
		return nil, refused(t, connack, err)
	}
	if register {
		if err = d.registered(ctx, s, connack); err == nil {
			p.registered()
		}
	}
	if err == nil {
		place := s.sit(d.member)
		d.workers.Go(func() { d.handleAll(ctx, s, place, s.ctx.Done()) })
		err = d.subscribe(within, s, methodReport, methodBind, methodUnbind)
	}
	if err != nil {
		s.end(err)
		s.close()
		return nil, context.Cause(s.ctx)
	}
	return s, nil
}

func refused(t target, connack *paho.Connack, err error) error {
	if connack == nil || connack.ReasonCode < firstErrorCode {
		return fmt.Errorf("connect to %s: %w", t.address, err)
	}
	p := connack.Properties
	if p == nil {
		p = &paho.ConnackProperties{}
	}
	return serverError(connack.ReasonCode, p.ReasonString, p.ServerReference, p.User, true)
}

func disconnected(p *paho.Disconnect) error {
	properties := p.Properties
	if properties == nil {
		properties = &paho.DisconnectProperties{}
	}
	return serverError(p.ReasonCode, properties.ReasonString, properties.ServerReference, properties.User, false)
}

// connectPacket says who the device is, or that it wants to become one.
func (d *Device) connectPacket(register bool) (*paho.Connect, error) {
	d.mu.Lock()
	identity, report := d.identity, d.report
	d.mu.Unlock()
	c := &paho.Connect{
		ClientID: identity.Token, Username: d.app, UsernameFlag: true, Password: []byte(identity.Secret), PasswordFlag: true,
		CleanStart: true, KeepAlive: uint16(d.options.KeepAlive / time.Second),
		Properties: &paho.ConnectProperties{ReceiveMaximum: paho.Uint16(receiveMaximum), RequestProblemInfo: true},
	}
	if !register {
		return c, nil
	}
	c.ClientID, c.Password = "", []byte(d.options.ClientKey)
	fields, err := report.plain()
	if err != nil {
		return nil, fmt.Errorf("encode the report: %w", err)
	}
	c.Properties.User.Add("install_id", identity.InstallID)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		c.Properties.User.Add(name, fields[name])
	}
	return c, nil
}

// registered stores the new identity, before anything else is done with it.
func (d *Device) registered(ctx context.Context, s *session, connack *paho.Connack) error {
	p := connack.Properties
	if p == nil || p.AssignedClientID == "" || p.User.Get("secret") == "" {
		return errors.New("the server accepted the registration without a token and a secret")
	}
	d.mu.Lock()
	report := d.report
	d.mu.Unlock()
	return d.update(ctx, func(i *Identity) {
		s.registered = i.become(p.AssignedClientID, p.User.Get("secret"))
		if len(report.ChannelTokens) == 0 { // then the registration carried all of it
			i.Reported = report.digest()
		}
	})
}

// subscribe asks for the answers to some calls, and for messages; these begin to come at once.
func (d *member) subscribe(ctx context.Context, s *session, methods ...string) error {
	return s.subscribe(ctx, append(d.replyTopics(methods...), "push/"+d.app))
}

// replyTopics names the topics one by one: the CONNACK forbids wildcards.
func (d *member) replyTopics(methods ...string) (topics []string) {
	for _, method := range methods {
		topics = append(topics, "reply/"+d.app+"/"+method)
	}
	return topics
}

func (s *session) subscribe(ctx context.Context, topics []string) error {
	packet := &paho.Subscribe{}
	for _, topic := range topics {
		packet.Subscriptions = append(packet.Subscriptions, paho.SubscribeOptions{Topic: topic, QoS: 1})
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	suback, err := s.client.Subscribe(ctx, packet)
	if err != nil && suback != nil {
		return fmt.Errorf("subscribe: %w: % x", err, suback.Reasons)
	}
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// within returns a context that ends with ctx and with the connection: the library does not tell those who wait for an answer
// that the connection is lost.
func (s *session) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// close says farewell, if the connection is still there, and waits until it is closed.
func (s *session) close() {
	s.end(nil)
	// Errors say that the connection is gone already, which is what is wanted.
	_ = s.conn.SetDeadline(time.Now().Add(closeWithin))
	_ = s.client.Disconnect(&paho.Disconnect{})
	_ = s.state.Close()
}
