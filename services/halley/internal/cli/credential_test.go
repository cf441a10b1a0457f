package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/sender"
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

func TestFlagsBecomeTheFieldsOfACredential(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		kind  fieldKind
		given string
		want  any
	}{
		"a text":                           {textField, "abc", "abc"},
		"yes":                              {boolField, "true", true},
		"the text of a file":               {fileField, write("p8", []byte("-----BEGIN")), "-----BEGIN"},
		"a file that is no text as base64": {fileField, write("p12", []byte{0xff, 0xfe, 0x00}), "//4A"},
	} {
		got, err := credentialField{kind: c.kind}.read(c.given)
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	object, err := credentialField{kind: jsonField}.read(write("json", []byte(`{"project_id": "7"}`)))
	if fields, ok := object.(map[string]any); err != nil || !ok || fields["project_id"] != "7" {
		t.Errorf("a JSON file: %v, %v", object, err)
	}
}

// vendor makes a sender's vendor with the default configuration.
func vendor[C any, V sender.Vendor](construct func(*C) (V, error)) func(*testing.T) sender.Vendor {
	return func(t *testing.T) sender.Vendor {
		t.Helper()
		c := new(C)
		if err := config.Defaults(c); err != nil {
			t.Fatal(err)
		}
		v, err := construct(c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Each flag is a field that the sender knows: it complains of what is in it, not of its name or kind.
func TestEveryFlagIsAFieldOfItsSender(t *testing.T) {
	t.Parallel()
	vendors := map[string]func(*testing.T) sender.Vendor{
		channel.APNs:    vendor(apns.New),
		channel.FCM:     vendor(fcm.New),
		channel.Harmony: vendor(harmony.New),
		channel.Honor:   vendor(honor.New),
		channel.Huawei:  vendor(huawei.New),
		channel.Meizu:   vendor(meizu.New),
		channel.OPPO:    vendor(oppo.New),
		channel.Vivo:    vendor(vivo.New),
		channel.WebPush: vendor(webpush.New),
		channel.Xiaomi:  vendor(xiaomi.New),
	}
	for _, name := range channel.Vendors() {
		for _, field := range credentialFields(name) {
			t.Run(name+" "+field.name, func(t *testing.T) {
				t.Parallel()
				if vendors[name] == nil {
					t.Fatal("this test does not know the sender")
				}
				value := map[fieldKind]any{textField: "", boolField: true, fileField: "", jsonField: map[string]any{}}[field.kind]
				text, err := json.Marshal(map[string]any{field.name: value})
				if err != nil {
					t.Fatal(err)
				}
				_, err = vendors[name](t).Parse(text)
				if err == nil || strings.Contains(err.Error(), "no such field") || strings.Contains(err.Error(), "must be a") ||
					strings.Contains(err.Error(), "not a JSON object") {
					t.Errorf("Parse(%s): %v", text, err)
				}
			})
		}
	}
}
