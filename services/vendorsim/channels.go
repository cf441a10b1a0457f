package vendorsim

import (
	"maps"
	"slices"

	"github.com/halleypush/halley/services/vendorsim/internal/apns"
	"github.com/halleypush/halley/services/vendorsim/internal/fcm"
	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/harmony"
	"github.com/halleypush/halley/services/vendorsim/internal/honor"
	"github.com/halleypush/halley/services/vendorsim/internal/huawei"
	"github.com/halleypush/halley/services/vendorsim/internal/meizu"
	"github.com/halleypush/halley/services/vendorsim/internal/oppo"
	"github.com/halleypush/halley/services/vendorsim/internal/vivo"
	"github.com/halleypush/halley/services/vendorsim/internal/webpush"
	"github.com/halleypush/halley/services/vendorsim/internal/xiaomi"
)

// vendor is how one simulator is made, and what it is documented to answer.
type vendor struct {
	make  func(*frame.Frame) frame.Vendor
	codes func() []Code
	tls   bool // always, with HTTP/2 alone
}

// vendors returns the simulators by channel. A new one is added here.
func vendors() map[string]vendor {
	return map[string]vendor{
		"apns": {
			make:  func(f *frame.Frame) frame.Vendor { return apns.New(f, apns.Production) },
			codes: apns.Codes, tls: true,
		},
		"apns_sandbox": {
			make:  func(f *frame.Frame) frame.Vendor { return apns.New(f, apns.Sandbox) },
			codes: apns.Codes, tls: true,
		},
		"fcm":     {make: func(f *frame.Frame) frame.Vendor { return fcm.New(f) }, codes: fcm.Codes},
		"harmony": {make: func(f *frame.Frame) frame.Vendor { return harmony.New(f) }, codes: harmony.Codes},
		"honor":   {make: func(f *frame.Frame) frame.Vendor { return honor.New(f) }, codes: honor.Codes},
		"huawei":  {make: func(f *frame.Frame) frame.Vendor { return huawei.New(f) }, codes: huawei.Codes},
		"meizu":   {make: func(f *frame.Frame) frame.Vendor { return meizu.New(f) }, codes: meizu.Codes},
		"oppo":    {make: func(f *frame.Frame) frame.Vendor { return oppo.New(f) }, codes: oppo.Codes},
		"vivo":    {make: func(f *frame.Frame) frame.Vendor { return vivo.New(f) }, codes: vivo.Codes},
		"webpush": {make: func(f *frame.Frame) frame.Vendor { return webpush.New(f) }, codes: webpush.Codes},
		"xiaomi":  {make: func(f *frame.Frame) frame.Vendor { return xiaomi.New(f) }, codes: xiaomi.Codes},
	}
}

// Channels lists the channels that can be simulated.
func Channels() []string { return slices.Sorted(maps.Keys(vendors())) }

// Codes lists every answer that a channel's fact sheet documents; nil for a channel that is not known.
func Codes(channel string) []Code {
	v, ok := vendors()[channel]
	if !ok {
		return nil
	}
	return v.codes()
}

// What tests and tools need to work with a simulator in their own process.
type (
	// Code is one answer that a vendor documents.
	Code = frame.Code
	// Frame holds a simulator's record, switches and counters.
	Frame = frame.Frame
	// Switches are the weather of a simulator.
	Switches = frame.Switches
	// Accepted is a request that a simulator has accepted.
	Accepted = frame.Accepted
	// Pair is how often a push was accepted for a token.
	Pair = frame.Pair
	// Stats are a simulator's counters.
	Stats = frame.Stats
)
