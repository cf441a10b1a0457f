package gateway_test

import (
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/device"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

func TestTheSDKsHeartbeatLearnsOnARealConnection(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	dir := t.TempDir()
	phone := newSDK(t, site, func(o *device.Options) {
		o.Store = device.FileStore(dir)
		o.Heartbeat = &device.Heartbeat{Min: time.Second, Max: 2 * time.Second, Step: time.Second, Good: 1}
	})
	if err := phone.Beat(t.Context()); err != nil {
		t.Errorf("a beat: %v", err)
	}
	kept := device.FileStore(dir).(device.RhythmStore)
	gatewaytest.Eventually(t, "a longer pause is known to be borne", func() bool {
		known, err := kept.LoadRhythms(t.Context())
		return err == nil && known[""].Pause == 2*time.Second
	})
	select {
	case s := <-phone.states:
		t.Errorf("the connection is %s: %v", s.Phase, s.Err)
	default:
	}
}
