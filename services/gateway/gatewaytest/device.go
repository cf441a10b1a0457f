package gatewaytest

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

// Device is a registered device of the app.
type Device struct {
	Token, Secret string
	Ordinal       uint64
	Generation    uint32
	App           uint32 // its number; 0: AppNumber
}

// NewDevice registers a device behind the gateway's back.
func (c *Core) NewDevice(t testing.TB) Device {
	t.Helper()
	c.mu.Lock()
	c.last++
	number := c.last
	c.mu.Unlock()
	d, err := c.Device(number)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Device returns the device with an ordinal.
func (c *Core) Device(number uint64) (d Device, err error) {
	d = Device{Ordinal: number, Generation: 1}
	if d.Token, err = c.codec.Token('a', number); err != nil {
		return d, err
	}
	d.Secret, err = c.codec.Secret(d.Token, d.Generation)
	return d, err
}

// Register implements the contract.
func (c *Core) Register(ctx context.Context, r *gatewayv1.RegisterRequest) (*gatewayv1.RegisterResponse, error) {
	if err := authenticate(ctx); err != nil {
		return nil, err
	}
	c.Saw.Registers.add(r)
	if answer := c.scripted().Register; answer != nil {
		return answer(r)
	}
	if r.GetDevice().GetClientKey() != ClientKey {
		return nil, status.Error(codes.Unauthenticated, "wrong client key")
	}
	c.mu.Lock()
	number, again := c.installs[r.GetDevice().GetInstallId()]
	if !again {
		c.last++
		number = c.last
	}
	if id := r.GetDevice().GetInstallId(); id != "" {
		c.installs[id] = number
	}
	c.mu.Unlock()
	d, err := c.Device(number)
	if err != nil {
		return nil, err
	}
	return &gatewayv1.RegisterResponse{Token: d.Token, Secret: d.Secret, Ordinal: number, Generation: d.Generation}, nil
}
