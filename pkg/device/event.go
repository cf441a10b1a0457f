package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	// maxEvents and maxEventBytes bound one packet of events: the protocol's limit, and half of what servers take in a packet.
	maxEvents     = 100
	maxEventBytes = 8 << 10
)

// Shown tells that the message was shown. See Events.
func (d *member) Shown(ctx context.Context, pushID string) error {
	return d.Events(ctx, Event{PushID: pushID, Type: Shown})
}

// Clicked tells that the user tapped the message. See Events.
func (d *member) Clicked(ctx context.Context, pushID string) error {
	return d.Events(ctx, Event{PushID: pushID, Type: Clicked})
}

// Dismissed tells that the user put the message away. See Events.
func (d *member) Dismissed(ctx context.Context, pushID string) error {
	return d.Events(ctx, Event{PushID: pushID, Type: Dismissed})
}

// Events tells what happened to messages. When it returns nil the server has stored all of them; repeats change nothing. It
// waits for a connection and tries again until ctx ends; a refusal is an *Error. Events are not kept on the device: one whose
// ctx ended may be lost.
func (d *member) Events(ctx context.Context, events ...Event) error {
	now := Time{time.Now()}
	var packet []byte
	count := 0
	for _, e := range events {
		if e.At.IsZero() {
			e.At = now
		}
		text, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode an event: %w", err)
		}
		if count > 0 && (count == maxEvents || len(packet)+len(text)+2 > maxEventBytes) {
			if err := d.sendEvents(ctx, packet); err != nil {
				return err
			}
			packet, count = nil, 0
		}
		packet = append(append(packet, ','), text...)
		count++
	}
	if count == 0 {
		return nil
	}
	return d.sendEvents(ctx, packet)
}

// sendEvents sends one packet; items are its events, each behind a comma.
func (d *member) sendEvents(ctx context.Context, items []byte) error {
	payload := append([]byte{'['}, items[1:]...)
	payload = append(payload, ']')
	for attempt := 0; ; attempt++ {
		s, err := d.connected(ctx)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		if err = d.sendOnce(ctx, s, payload); err == nil {
			return nil
		}
		var refusal *Error
		if ctx.Err() != nil || errors.As(err, &refusal) && !refusal.temporary() {
			return fmt.Errorf("events: %w", err)
		}
		if err := sleep(ctx, d.backoff.after(attempt)); err != nil {
			return fmt.Errorf("events: %w", err)
		}
	}
}

// sendOnce sends one packet of events. A connection on which it is not acknowledged in time is given up: what was sent may be
// repeated on another one only.
func (d *member) sendOnce(ctx context.Context, s *session, payload []byte) error {
	within, cancel := context.WithTimeout(ctx, pubackWithin)
	defer cancel()
	err := s.publish(within, "event/"+d.app, payload)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		s.end(errNoPuback)
	}
	return err
}

var errNoPuback = errors.New("the server acknowledged no events in time")
