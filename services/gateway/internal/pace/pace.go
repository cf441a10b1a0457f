// Package pace measures how fast something happens lately.
package pace

import (
	"math"
	"time"
)

// lately is the time over which events are averaged: older ones count less and less.
const lately = 10 * time.Second

// Meter counts events. The zero Meter has seen none. It is not safe for concurrent use.
type Meter struct {
	level float64 // events, older ones by less
	at    time.Duration
}

// Add notes n events at a time on a clock of the caller's.
func (m *Meter) Add(now time.Duration, n int) { m.level, m.at = m.fade(now)+float64(n), now }

// PerSecond returns how many events a second there are lately.
func (m *Meter) PerSecond(now time.Duration) float64 { return m.fade(now) / lately.Seconds() }

func (m *Meter) fade(now time.Duration) float64 {
	return m.level * math.Exp(-(now-m.at).Seconds()/lately.Seconds())
}
