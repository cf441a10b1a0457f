package senders_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/services/senders/apns"
	"github.com/halleypush/halley/services/senders/fcm"
	"github.com/halleypush/halley/services/senders/harmony"
	"github.com/halleypush/halley/services/senders/honor"
	"github.com/halleypush/halley/services/senders/huawei"
	"github.com/halleypush/halley/services/senders/meizu"
	"github.com/halleypush/halley/services/senders/oppo"
	"github.com/halleypush/halley/services/senders/vivo"
	"github.com/halleypush/halley/services/senders/webpush"
	"github.com/halleypush/halley/services/senders/xiaomi"
)

// A vendor's key that is one of the runtime's, too, makes every file unreadable.
func TestEveryServiceReadsAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sender.yaml")
	if err := os.WriteFile(path, []byte("pushcore: 127.0.0.1:9091\nservice_token: s\nbatch: 7\nmax_ttl: 1h\nca: ca.pem\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]any{
		channel.APNs: &apns.Config{}, channel.FCM: &fcm.Config{}, channel.Huawei: &huawei.Config{}, channel.Harmony: &harmony.Config{},
		channel.Honor: &honor.Config{}, channel.Xiaomi: &xiaomi.Config{}, channel.OPPO: &oppo.Config{}, channel.Vivo: &vivo.Config{},
		channel.Meizu: &meizu.Config{}, channel.WebPush: &webpush.Config{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := config.Load(path, c); err != nil {
				t.Error(err)
			}
		})
	}
}
