package bus

import (
	"log/slog"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/loop"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// busy are loops that do not come to an end by themselves.
type busy struct {
	Loops
	begun chan func(loop.SliceResult)
}

func (l busy) Slice(_, _ uint32, _ *session.Message, _ *roaring.Bitmap, done func(loop.SliceResult)) {
	l.begun <- done
}

type oneApp struct{ Apps }

func (oneApp) App(uint32) *session.App { return &session.App{ID: "demo", Number: 7} }

func slice(t *testing.T) []byte {
	t.Helper()
	members, err := roaring.BitmapOf(1, 2, 3).ToBytes()
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	data, err := proto.Marshal(&gatewayv1.SliceRequest{App: 7, Ordinals: members, Body: &gatewayv1.Body{
		PushId: id[:], Json: []byte(`{"push_id":"x"}`), Qos: 1, ExpiresAt: time.Now().Add(time.Hour).UnixMilli(), Audience: true,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSlicesBeyondTheBoundAreRefusedUntilOneEnds(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(natsserver.Options{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Passwords: map[string]config.Secret{
		"pushcore": "p", "gateway": "g", "sender": "s",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	conn, err := nats.Connect(server.URL(), nats.UserInfo("gateway", "g"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	loops := busy{begun: make(chan func(loop.SliceResult), maxRunning+2)}
	b := New(conn, conn, oneApp{}, loops, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	for range maxRunning {
		b.slice(&nats.Msg{Data: slice(t), Reply: "answer"})
	}
	more := slice(t)
	b.slice(&nats.Msg{Data: more, Reply: "answer"})
	if n, refused := len(loops.begun), testutil.ToFloat64(b.refused); n != maxRunning || refused != 1 {
		t.Fatalf("%d begun and %v refused, want %d and 1", n, refused, maxRunning)
	}
	(<-loops.begun)(loop.SliceResult{})
	b.slice(&nats.Msg{Data: more, Reply: "answer"})
	if n, refused := len(loops.begun), testutil.ToFloat64(b.refused); n != maxRunning || refused != 1 {
		t.Errorf("after one ended %d are under way and %v refused, want %d and 1", n, refused, maxRunning)
	}
}
