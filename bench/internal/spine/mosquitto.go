package spine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/halleypush/halley/bench/internal/process"
	"github.com/halleypush/halley/bench/internal/swarm"
)

const topic = "broadcast"

// PeerCommand is the word on the command line that makes the program a peer: mosquitto with as many clients as Halley has.
// One process cannot have the sockets of both.
const PeerCommand = "peer"

// peer is such a process.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// answer is what a peer says: once when it is ready, then after each payload.
type answer struct {
	Cost  float64 // µs of processor time per message
	Took  time.Duration
	Error string
}

func startPeer(ctx context.Context, sessions int) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &peer{cmd: exec.CommandContext(ctx, self, PeerCommand, fmt.Sprint(sessions))}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := p.answer(); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *peer) answer() (a answer, err error) {
	if err := p.out.Decode(&a); err != nil {
		return a, fmt.Errorf("peer: %w", err)
	}
	if a.Error != "" {
		return a, errors.New("peer: " + a.Error)
	}
	return a, nil
}

// broadcast has the peer publish to all of its clients.
func (p *peer) broadcast(payload []byte) (cost float64, took time.Duration, err error) {
	if err := json.NewEncoder(p.in).Encode(payload); err != nil {
		return 0, 0, err
	}
	a, err := p.answer()
	return a.Cost, a.Took, err
}

func (p *peer) stop() {
	_ = p.in.Close() // it ends then
	_ = p.cmd.Wait()
}

// Peer is what a peer process does: it reads payloads and answers what a broadcast of each cost, until in ends.
func Peer(ctx context.Context, in io.Reader, out io.Writer, sessions int) error {
	answers := json.NewEncoder(out)
	m, err := startMosquitto(ctx, sessions)
	if err != nil {
		return errors.Join(err, answers.Encode(answer{Error: err.Error()}))
	}
	defer m.close()
	if err := answers.Encode(answer{}); err != nil {
		return err
	}
	for payloads := json.NewDecoder(in); ; {
		var payload []byte
		if err := payloads.Decode(&payload); err != nil {
			return nil //nolint:nilerr // the end
		}
		var a answer
		a.Cost, a.Took, err = measure(ctx, m.process, m.swarm, sessions, func() error { return m.publish(payload) })
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// mosquitto is a broker with as many sessions.
type mosquitto struct {
	process *process.Process
	swarm   *swarm.Swarm
	conn    net.Conn
	in      *bufio.Reader
	dir     string
	id      uint16
}

func startMosquitto(ctx context.Context, sessions int) (_ *mosquitto, err error) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	m := &mosquitto{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.dir, err = os.MkdirTemp("", "halley-mosquitto-*"); err != nil {
		return nil, err
	}
	address, err := process.Address()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	configuration := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\nset_tcp_nodelay true\n", port)
	if err := os.WriteFile(filepath.Join(m.dir, "mosquitto.conf"), []byte(configuration), 0o600); err != nil {
		return nil, err
	}
	if m.process, err = process.Start(m.dir, "mosquitto", nil, path, "-c", "mosquitto.conf"); err != nil {
		return nil, err
	}
	if err := m.process.Await(ctx, process.Accepts(ctx, address)); err != nil {
		return nil, err
	}
	who := make([]swarm.Identity, sessions)
	for i := range who {
		who[i].ClientID = fmt.Sprintf("bench-%d", i)
	}
	if m.swarm, err = swarm.Connect(ctx, swarm.Options{Address: address, Topic: topic}, who); err != nil {
		return nil, err
	}
	if m.conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address); err != nil {
		return nil, err
	}
	m.in = bufio.NewReader(m.conn)
	if _, err := m.conn.Write(swarm.ConnectPacket(swarm.Identity{ClientID: "bench-publisher"})); err != nil {
		return nil, err
	}
	return m, m.read()
}

// publish publishes to everybody.
func (m *mosquitto) publish(payload []byte) error {
	m.id++
	if _, err := m.conn.Write(swarm.Publish(topic, m.id, payload)); err != nil {
		return err
	}
	return m.read()
}

// read reads one packet, all of which are short.
func (m *mosquitto) read() error {
	if _, err := m.in.ReadByte(); err != nil {
		return err
	}
	length, err := m.in.ReadByte()
	if err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, m.in, int64(length))
	return err
}

func (m *mosquitto) close() {
	if m.conn != nil {
		_ = m.conn.Close()
	}
	if m.swarm != nil {
		_ = m.swarm.Close()
	}
	if m.process != nil {
		m.process.Stop()
	}
	_ = os.RemoveAll(m.dir)
}
