package config

import (
	"fmt"
	"net"
)

// AddressError says that nothing can listen at the address that a key of the configuration holds: the port is taken, or the address
// is not this machine's.
type AddressError struct {
	Key string // in the file, such as telemetry.listen
	Env string // the variable, such as HALLEY_TELEMETRY_LISTEN
	Err error
}

// Error names what sets another address.
func (e *AddressError) Error() string {
	return fmt.Sprintf("%v; set another address with %s in the configuration file or %s", e.Err, e.Key, e.Env)
}

// Unwrap returns why it cannot.
func (e *AddressError) Unwrap() error { return e.Err }

// Listen listens on TCP at the address that a key holds. env is its variable, as in the env tag; the error is an AddressError.
func Listen(key, env, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, Unusable(key, env, err)
	}
	return l, nil
}

// Unusable returns the AddressError of a key and its variable, as in the env tag.
func Unusable(key, env string, err error) error {
	return &AddressError{Key: key, Env: Prefix + env, Err: err}
}
