package pushcore_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestBroadcastsAreMadeByTheSenderAndItsAnswerIsTold(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	activities := pushv1.NewActivityServiceClient(core.Business)
	ctx := pushcoretest.As(t.Context(), app.ServerKey)
	broadcast := &pushv1.BroadcastActivityRequest{
		App: app.ID, Channel: "dGhlIGNoYW5uZWw=", Event: pushv1.BroadcastActivityRequest_END,
		ContentState: &structpb.Struct{Fields: map[string]*structpb.Value{"score": structpb.NewNumberValue(3)}},
	}
	_, err := activities.BroadcastActivity(ctx, broadcast)
	wantError(t, err, codes.FailedPrecondition, "NO_SENDER", "")
	_, err = activities.BroadcastActivity(ctx, &pushv1.BroadcastActivityRequest{App: app.ID, Channel: "a\nb"})
	wantError(t, err, codes.InvalidArgument, "INVALID_FIELD", "channel")
	_, err = activities.ListActivityChannels(ctx, &pushv1.ListActivityChannelsRequest{App: "another"})
	wantError(t, err, codes.PermissionDenied, "WRONG_APP", "")

	sender := core.Sender(t, "apns")
	for _, answered := range []struct {
		answer *senderv1.Checked
		code   codes.Code
		reason string
	}{
		{&senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_ACCEPTED, VendorId: "id"}, codes.OK, ""},
		{&senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_REJECTED, Code: "400 ChannelNotRegistered"}, codes.FailedPrecondition, "VENDOR_REFUSED"},
		{&senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_REJECTED, Field: "content_state", Code: "too long"}, codes.InvalidArgument, "INVALID_FIELD"},
		{&senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_CREDENTIAL_BAD, Code: "403"}, codes.FailedPrecondition, "CREDENTIAL_REFUSED"},
		{&senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_GIVEN_UP, Code: "503"}, codes.Unavailable, "VENDOR_UNAVAILABLE"},
		{&senderv1.Checked{Error: "the app has no candidate"}, codes.FailedPrecondition, "NO_SENDER"},
	} {
		done := make(chan error, 1)
		go func() {
			sent, err := activities.BroadcastActivity(ctx, broadcast)
			if err == nil && sent.GetRequestId() != "id" {
				t.Errorf("sent is %v", sent)
			}
			done <- err
		}()
		asked := sender.NextCheck(t)
		if asked.GetApp() == 0 || asked.GetBroadcast().GetContentState().GetFields()["score"].GetNumberValue() != 3 {
			t.Errorf("the sender was asked %v", asked)
		}
		asked.Answer(t, answered.answer)
		if err := <-done; answered.code == codes.OK && err != nil {
			t.Error(err)
		} else if answered.code != codes.OK {
			wantError(t, err, answered.code, answered.reason, answered.answer.GetField())
		}
	}
	made := make(chan *pushv1.CreateActivityChannelResponse, 1)
	go func() {
		response, err := activities.CreateActivityChannel(ctx, &pushv1.CreateActivityChannelRequest{App: app.ID, KeepLatest: true})
		if err != nil {
			t.Error(err)
		}
		made <- response
	}()
	asked := sender.NextCheck(t)
	if !asked.GetCreateChannel().GetKeepLatest() {
		t.Errorf("the sender was asked %v", asked)
	}
	asked.Answer(t, &senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_ACCEPTED, Channels: []string{"Y2g="}})
	if got := (<-made).GetChannel(); got != "Y2g=" {
		t.Errorf("the channel is %q", got)
	}
}
