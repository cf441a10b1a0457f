package pushcore_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// setChannel asks for a credential to be set, in the background.
func setChannel(t *testing.T, app *pushcoretest.App, core *pushcoretest.Core, name, secret string) <-chan error {
	t.Helper()
	fields, err := structpb.NewStruct(map[string]any{"app_key": secret})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := core.Apps.SetChannel(pushcoretest.AsAdmin(t.Context()), &adminv1.SetChannelRequest{
			App: app.ID, Channel: name, Credential: fields,
		})
		done <- err
	}()
	return done
}

func TestACredentialIsTriedOutBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	config, err := site.Config()
	if err != nil {
		t.Fatal(err)
	}
	config.PublicURL = "https://push.example.com"
	core := site.StartWith(t, config)
	app := core.NewApp(t, nil)
	sender := core.Sender(t, "huawei")

	first := setChannel(t, app, core, "huawei", "secret-one")
	check := sender.NextCheck(t)
	candidate := &senderv1.GetCredentialRequest{App: check.GetApp(), Channel: "huawei", Candidate: true}
	got, err := sender.Credentials.GetCredential(sender.Auth(t.Context()), candidate)
	if err != nil || !strings.Contains(string(got.GetCredential()), "secret-one") || got.GetAppId() != app.ID {
		t.Fatalf("the candidate is %v, %v", got, err)
	}
	active := &senderv1.GetCredentialRequest{App: check.GetApp(), Channel: "huawei"}
	_, err = sender.Credentials.GetCredential(sender.Auth(t.Context()), active)
	wantError(t, err, codes.NotFound, "CHANNEL_NOT_SET", "")
	ends := time.Now().Add(90 * 24 * time.Hour)
	check.Answer(t, &senderv1.Checked{ExpiresAt: timestamppb.New(ends), Note: "no dry run"})
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	now, err := sender.Credentials.GetCredential(sender.Auth(t.Context()), active)
	if err != nil || now.GetVersion() != got.GetVersion() || now.GetReceiptSecret() != got.GetReceiptSecret() {
		t.Fatalf("in use is %v, %v", now, err)
	}

	second := setChannel(t, app, core, "huawei", "secret-two")
	sender.NextCheck(t).Answer(t, &senderv1.Checked{Error: "has another length", Field: "app_key"})
	wantError(t, <-second, codes.InvalidArgument, "INVALID_FIELD", "credential.app_key")
	if now, err = sender.Credentials.GetCredential(sender.Auth(t.Context()), active); err != nil || now.GetVersion() != got.GetVersion() {
		t.Errorf("a refused credential is in use: %v, %v", now, err)
	}
	third := setChannel(t, app, core, "huawei", "secret-three")
	sender.NextCheck(t).Answer(t, &senderv1.Checked{})
	if err := <-third; err != nil {
		t.Fatal(err)
	}
	now, err = sender.Credentials.GetCredential(sender.Auth(t.Context()), active)
	if err != nil || now.GetVersion() <= got.GetVersion() || now.GetReceiptSecret() != got.GetReceiptSecret() {
		t.Errorf("the next one: %v, %v", now, err)
	}

	shown := core.REST(t, "GET", "/admin/v1/apps/"+app.ID+"/channels", "", pushcoretest.Bearer(pushcoretest.AdminToken))
	url := "https://push.example.com/receipts/huawei/" + app.ID + "/" + got.GetReceiptSecret()
	if shown.Code != 200 || !strings.Contains(shown.Body, url) || strings.Contains(shown.Body, "secret-") {
		t.Errorf("shown: %d %s", shown.Code, shown.Body)
	}
	if dump := dumpDatabase(t, core.Site); strings.Contains(dump, "secret-three") {
		t.Error("a credential is in the database in the clear")
	}
	if strings.Contains(core.Logs.String(), "secret-") {
		t.Error("a credential is logged")
	}
	one, err := core.Apps.GetChannel(pushcoretest.AsAdmin(t.Context()), &adminv1.GetChannelRequest{App: app.ID, Channel: "huawei"})
	if err != nil || one.GetChannel().GetReceiptUrl() != url || one.GetChannel().GetUnchecked() {
		t.Errorf("shown: %v, %v", one, err)
	}
	if _, err := core.Apps.DeleteChannel(pushcoretest.AsAdmin(t.Context()), &adminv1.DeleteChannelRequest{App: app.ID, Channel: "huawei"}); err != nil {
		t.Fatal(err)
	}
	_, err = sender.Credentials.GetCredential(sender.Auth(t.Context()), active)
	wantError(t, err, codes.NotFound, "CHANNEL_NOT_SET", "")
}

func TestWithoutASenderACredentialIsUsedOnlyUnchecked(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	wantError(t, <-setChannel(t, app, core, "apns", "x"), codes.FailedPrecondition, "NO_SENDER", "")
	path := "/admin/v1/apps/" + app.ID + "/channels/apns"
	admin := pushcoretest.Bearer(pushcoretest.AdminToken)
	if answer := core.REST(t, "GET", path, "", admin); answer.Code != 404 {
		t.Errorf("it is used: %d %s", answer.Code, answer.Body)
	}
	answer := core.REST(t, "PUT", path, `{"credential":{"key_id":"k"},"unchecked":true}`, admin)
	if answer.Code != 200 || answer.Decode(t)["unchecked"] != true || answer.Decode(t)["receipt_url"] != "" {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	if answer := core.REST(t, "PUT", path, `{"credential":{},"unchecked":true}`, admin); answer.Code != 400 {
		t.Errorf("an empty credential: %d %s", answer.Code, answer.Body)
	}
}

func TestSendersOfAllReplicasHearOfChanges(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	other := core.Site.Start(t)
	app := core.NewApp(t, nil)
	sender := other.Sender(t, "fcm")
	watch, err := sender.Credentials.WatchCredentials(sender.Auth(t.Context()), &senderv1.WatchCredentialsRequest{Channel: "fcm"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := watch.Recv()
	if err != nil || len(first.GetApps()) != 0 {
		t.Fatalf("the first answer is %v, %v", first, err)
	}
	done := setChannel(t, app, core, "fcm", "x")
	sender.NextCheck(t).Answer(t, &senderv1.Checked{})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for {
		changed, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(changed.GetApps()) == 1 && changed.GetApps()[0] == app.Number && changed.GetIds()[app.Number] == app.ID {
			return
		}
	}
}

func TestCredentialsAreSealedAgainWithANewKey(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	first := site.Start(t)
	app := first.NewApp(t, nil)
	app.SetChannel(t, "apns")
	first.Stop()
	content, err := os.ReadFile(site.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string][]map[string]any
	if err := json.Unmarshal(content, &keys); err != nil {
		t.Fatal(err)
	}
	keys["encryption_keys"] = append(keys["encryption_keys"], map[string]any{
		"id": 7, "key": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))),
	})
	if content, err = json.Marshal(keys); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(site.KeyFile, content, 0o600); err != nil {
		t.Fatal(err)
	}
	second := site.Start(t)
	sql := site.SQL(t)
	pushcoretest.Eventually(t, "the credential is sealed with the new key", func() bool {
		var id int64
		if err := sql.QueryRow(t.Context(), "SELECT key_id FROM channel_credential").Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id == 7
	})
	sender := second.Sender(t, "apns")
	got, err := sender.Credentials.GetCredential(sender.Auth(t.Context()), &senderv1.GetCredentialRequest{App: app.Number, Channel: "apns"})
	if err != nil || !strings.Contains(string(got.GetCredential()), "credential-of-apns") {
		t.Errorf("%v, %v", got, err)
	}
}

func TestSendersThatMayHaveMissedAChangeAreTold(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	core.ExpectErrors = true
	sender := core.Sender(t, "fcm")
	watch, err := sender.Credentials.WatchCredentials(sender.Auth(t.Context()), &senderv1.WatchCredentialsRequest{Channel: "fcm"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	core.NATS.Stop()
	core.NATS.Start(t)
	if again, err := watch.Recv(); err != nil || len(again.GetApps()) != 0 {
		t.Errorf("told %v, %v", again, err)
	}
}
