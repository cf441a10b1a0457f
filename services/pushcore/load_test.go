package pushcore_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// load is many workers doing everything at once to the same few devices and users, through two replicas.
type load struct {
	cores  []*pushcoretest.Core
	app    *pushcoretest.App
	phones []*pushcoretest.Device

	audiences atomic.Int32

	mu  sync.Mutex
	ids []string // guarded by mu: the pushes
}

const loadUsers = 4

func (l *load) add(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ids = append(l.ids, ids...)
}

// some returns up to n random pushes.
func (l *load) some(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]string, 0, n)
	for range min(n, len(l.ids)) {
		ids = append(ids, l.ids[rand.IntN(len(l.ids))])
	}
	return ids
}

func (l *load) shuffled() []*pushcoretest.Device {
	phones := append([]*pushcoretest.Device{}, l.phones...)
	rand.Shuffle(len(phones), func(i, j int) { phones[i], phones[j] = phones[j], phones[i] })
	return phones
}

func user(n int) string { return fmt.Sprint("user", n) }

// step does one random thing.
func (l *load) step(t *testing.T, gateway *pushcoretest.Gateway) {
	t.Helper()
	app := l.app.On(l.cores[rand.IntN(len(l.cores))])
	phones := l.shuffled()
	phone := phones[0].On(l.cores[rand.IntN(len(l.cores))])
	switch rand.IntN(9) {
	case 0:
		l.add(app.Push(t, pushcoretest.ToDevices(phones...), pushcoretest.Collapse(fmt.Sprint(rand.IntN(3)))))
	case 1:
		l.add(app.Push(t, pushcoretest.ToUsers(user(rand.IntN(loadUsers)), user(rand.IntN(loadUsers)), "nobody")))
	case 2:
		if l.audiences.Add(1) < 150 { // below what may live at a time
			l.add(app.Push(t, pushcoretest.ToAll(), pushcoretest.Collapse(fmt.Sprint(rand.IntN(3)))))
		}
	case 3:
		key := fmt.Sprint("key", rand.IntN(20))
		l.add(app.Push(t, pushcoretest.ToUsers("nobody"), pushcoretest.Once(key)))
	case 4:
		l.bind(t, app, user(rand.IntN(loadUsers)), phone)
	case 5:
		app.Unbind(t, user(rand.IntN(loadUsers)), phone)
	case 6:
		l.events(t, phone)
	case 7:
		l.sessions(t, gateway, phones)
	case 8:
		l.receipts(t, gateway, phones)
	}
}

func (l *load) bind(t *testing.T, app *pushcoretest.App, user string, phone *pushcoretest.Device) {
	t.Helper()
	answer := l.cores[0].REST(t, "POST", "/v1/apps/"+app.ID+"/users/"+user+"/devices",
		fmt.Sprintf(`{"device":%q}`, phone.Token), pushcoretest.Bearer(app.ServerKey))
	if answer.Code != 200 {
		t.Errorf("bind: %d %s", answer.Code, answer.Body)
	}
}

func (l *load) events(t *testing.T, phone *pushcoretest.Device) {
	t.Helper()
	var events []string
	for _, id := range l.some(20) {
		kind := []string{"arrived", "shown", "clicked", "dismissed"}[rand.IntN(4)]
		events = append(events, fmt.Sprintf(`{"push_id":%q,"type":%q}`, id, kind))
	}
	if len(events) > 0 {
		phone.Call(t, "events", "["+strings.Join(events, ",")+"]")
	}
}

// sessions opens all devices in one batch, in a random order, and closes half of them.
func (l *load) sessions(t *testing.T, gateway *pushcoretest.Gateway, phones []*pushcoretest.Device) {
	t.Helper()
	opens, closes := &gatewayv1.SessionsRequest{}, &gatewayv1.SessionsRequest{}
	for i, phone := range phones {
		session := gateway.Connect(t, phone)
		opens.Opens = append(opens.Opens, session.OpenRequest())
		if i%2 == 0 {
			closes.Closes = append(closes.Closes, session.CloseRequest())
		}
	}
	for _, request := range []*gatewayv1.SessionsRequest{opens, closes} {
		if result := gateway.Send(t, request).Wait(t); result.Status != gatewayv1.SessionsResponse_OK {
			t.Errorf("the batch is %s", result.Status)
		}
	}
}

func (l *load) receipts(t *testing.T, gateway *pushcoretest.Gateway, phones []*pushcoretest.Device) {
	t.Helper()
	var receipts []*ledgerv1.DirectReceipt
	for i, id := range l.some(len(phones)) {
		session := gateway.Connect(t, phones[i])
		receipts = append(receipts, &ledgerv1.DirectReceipt{
			App: l.app.Number, Ordinal: session.Ordinal, PushId: pushcoretest.ID(t, id),
			Step: []ledgerv1.Step{ledgerv1.Step_STEP_SENT, ledgerv1.Step_STEP_ARRIVED}[rand.IntN(2)],
		})
	}
	if len(receipts) > 0 {
		gateway.Receipts(t, receipts...)
	}
}

// serve answers everything that a gateway is asked until ctx ends.
func serve(t *testing.T, gateway *pushcoretest.Gateway, stop <-chan struct{}) {
	t.Helper()
	for {
		select {
		case <-stop:
			return
		case d := <-gateway.Delivers():
			d.Take(t)
		case s := <-gateway.Slices():
			s.Answer(t)
		case p := <-gateway.Pokes():
			p.Answer(t)
		}
	}
}

func TestEverythingAtOnceDoesNotDeadlockAndAddsUp(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	l := &load{cores: []*pushcoretest.Core{site.Start(t), site.Start(t)}}
	l.app = l.cores[0].NewApp(t, nil)
	for range 30 {
		l.phones = append(l.phones, l.app.Register(t))
	}
	stop := make(chan struct{})
	var serving, working sync.WaitGroup
	for i := range 6 {
		gateway := l.cores[i%2].Gateway(t)
		serving.Go(func() { serve(t, gateway, stop) })
		working.Go(func() {
			for range 100 {
				l.step(t, gateway)
			}
		})
	}
	working.Wait()
	for _, id := range l.ids {
		push := l.app.Get(t, id)
		counts := push.GetCounts()
		if sum(counts) != counts.GetTargeted() {
			t.Errorf("%s: the counts do not add up: %v", id, counts)
		}
	}
	waitTargetedAll(t, l)
	for _, id := range l.ids {
		seen := map[string]bool{}
		for _, d := range l.app.Deliveries(t, id) {
			if name := d.GetDevice() + d.GetUser(); seen[name] {
				t.Errorf("%s: two deliveries for %s", id, name)
			} else {
				seen[name] = true
			}
		}
	}
	close(stop)
	serving.Wait()
	for _, core := range l.cores {
		core.Stop() // PostgreSQL counts what a connection saw when it ends
	}
	sql := site.SQL(t)
	var deadlocks int
	err := sql.QueryRow(t.Context(), "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&deadlocks)
	if err != nil || deadlocks > 0 {
		t.Errorf("%d deadlocks, %v", deadlocks, err)
	}
}

func waitTargetedAll(t *testing.T, l *load) {
	t.Helper()
	for _, id := range l.ids {
		waitTargeted(t, l.app, id)
	}
}
