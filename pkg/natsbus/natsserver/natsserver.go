// Package natsserver runs a NATS server with JetStream inside a process, on the same configuration file as a stand-alone one.
package natsserver

import (
	_ "embed"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/config"
)

// Configuration is the configuration file, for a stand-alone nats-server. It takes the store folder and the passwords from
// the environment.
//
//go:embed nats.conf
var Configuration string

// startWithin bounds how long the server may take until it accepts connections: reading a large store takes seconds.
const startWithin = time.Minute

// Options are what is not in the configuration file.
type Options struct {
	// StoreDir is where JetStream keeps its data.
	StoreDir string
	// Listen is host:port to accept connections on; empty: only connections from inside the process.
	Listen string
	// Passwords are those of the users pushcore, gateway and sender.
	Passwords map[string]config.Secret
	// LogFile is where the server logs to; empty: nowhere.
	LogFile string
}

// Server is a running NATS server.
type Server struct{ server *server.Server }

// Start runs a server and waits until it accepts connections.
func Start(o Options) (*Server, error) {
	options, err := configure(o)
	if err != nil {
		return nil, err
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("nats server: %w", err)
	}
	s.ConfigureLogger()
	go s.Start()
	if !s.ReadyForConnections(startWithin) {
		s.Shutdown()
		return nil, fmt.Errorf("the nats server was not ready within %v", startWithin)
	}
	return &Server{server: s}, nil
}

func configure(o Options) (*server.Options, error) {
	text := strings.ReplaceAll(Configuration, "$HALLEY_NATS_STORE", strconv.Quote(o.StoreDir))
	for _, user := range []string{"pushcore", "gateway", "sender"} {
		password := o.Passwords[user]
		if password == "" {
			return nil, fmt.Errorf("nats user %s needs a password", user)
		}
		variable := "$HALLEY_NATS_" + strings.ToUpper(user) + "_PASSWORD"
		text = strings.ReplaceAll(text, variable, strconv.Quote(password.Reveal()))
	}
	options := &server.Options{}
	if err := options.ProcessConfigString(text); err != nil {
		return nil, fmt.Errorf("nats configuration: %w", err)
	}
	options.NoSigs = true
	options.NoLog = o.LogFile == ""
	options.LogFile = o.LogFile
	return options, listen(options, o.Listen)
}

func listen(options *server.Options, address string) error {
	if address == "" {
		options.DontListen = true
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("nats address: %w", err)
	}
	options.Host = host
	options.Port, err = strconv.Atoi(port)
	if options.Port == 0 {
		options.Port = server.RANDOM_PORT
	}
	return err
}

// URL returns the address that clients connect to.
func (s *Server) URL() string { return s.server.ClientURL() }

// InProcess returns the option that connects a client without a socket.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s.server) }

// Shutdown stops the server and waits until it has written its data.
func (s *Server) Shutdown() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}
