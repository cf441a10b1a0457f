package peer

import (
	"bufio"
	"context"
	"io"
	"net"

	"github.com/halleypush/halley/bench/internal/swarm"
)

// Publisher is an MQTT 5 client that publishes at QoS 1.
type Publisher struct {
	conn net.Conn
	in   *bufio.Reader
	id   uint16
}

// NewPublisher connects a publisher to a broker. Close it.
func NewPublisher(ctx context.Context, address string) (*Publisher, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	p := &Publisher{conn: conn, in: bufio.NewReader(conn)}
	if _, err := conn.Write(swarm.ConnectPacket(swarm.Identity{ClientID: "bench-publisher"})); err != nil {
		p.Close()
		return nil, err
	}
	if err := p.read(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Publish publishes, and returns when the broker has acknowledged.
func (p *Publisher) Publish(topic string, payload []byte) error {
	p.id++
	if _, err := p.conn.Write(swarm.Publish(topic, p.id, payload)); err != nil {
		return err
	}
	return p.read()
}

// read reads one packet, all of which are short.
func (p *Publisher) read() error {
	if _, err := p.in.ReadByte(); err != nil {
		return err
	}
	length, err := p.in.ReadByte()
	if err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, p.in, int64(length))
	return err
}

// Close closes the connection.
func (p *Publisher) Close() { _ = p.conn.Close() }
