package e2e_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// TestFirstStart starts `halley up` in an empty folder: nothing in its log is worth a warning.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	up := rig.StartUp(t)
	phone := connected(t, up.Demo(t))
	phone.awaitOnce(t, phone.app.Push(t, phone.token))
	up.Stop(t, 45*time.Second)
	for _, line := range up.Lines(t) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			t.Error(line)
		}
	}
}

// TestUpKilled kills `halley up` ten times. Each time its data is still there, and pushes to a phone that stays and to one
// that was away since before the kill arrive.
func TestUpKilled(t *testing.T) {
	t.Parallel()
	const kills = 10
	up := rig.StartUp(t)
	app := up.Demo(t)
	stays, away := connected(t, app), connected(t, app)
	pushes := []string{app.Push(t, stays.token)}
	stays.awaitOnce(t, pushes[0])
	var downs time.Duration
	for range kills {
		away.leave()
		kept := app.Push(t, away.token)
		up.Kill(t)
		begun := time.Now()
		up.Start(t)
		downs += time.Since(begun)
		for _, id := range pushes {
			if err := app.CheckCounts(t.Context(), id, &pushv1.Counts{Targeted: 1, Arrived: 1}); err != nil {
				t.Errorf("push %s from before: %v", id, err)
			}
		}
		if err := away.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		away.awaitOnce(t, kept)
		live := app.Push(t, stays.token)
		stays.awaitOnce(t, live)
		for _, id := range []string{kept, live} {
			app.AwaitCounts(t, id, 20*time.Second, &pushv1.Counts{Targeted: 1, Arrived: 1})
		}
		pushes = append(pushes, kept, live)
	}
	t.Logf("%d kills, %d pushes; ready again after %v on average", kills, len(pushes), (downs / kills).Round(time.Millisecond))
	took := up.Stop(t, 45*time.Second)
	t.Logf("graceful stop with two phones: %v", took.Round(time.Millisecond))
}

// TestDeviceCap pushes 150 times, one by one and to everyone in turn, to an app's only device, which is away and may have 100
// kept: the newest 100 come, in order; the others are evicted.
func TestDeviceCap(t *testing.T) {
	t.Parallel()
	const pushed, kept = 150, 100
	app := rig.StartUp(t).Demo(t)
	away := connected(t, app)
	away.leave()
	var ids []string
	for i := range pushed {
		if i%2 == 0 {
			ids = append(ids, app.Push(t, away.token))
		} else {
			ids = append(ids, app.Push(t))
		}
	}
	for _, id := range ids { // an audience is counted a moment after its push was accepted
		rig.Until(t, 30*time.Second, "the audience of "+id, func() error {
			if app.CheckCounts(t.Context(), id, &pushv1.Counts{Targeted: 1, Evicted: 1}) == nil {
				return nil
			}
			return app.CheckCounts(t.Context(), id, &pushv1.Counts{Targeted: 1, Pending: 1})
		})
	}
	if err := away.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	away.awaitOnce(t, ids[pushed-1])
	_, order := away.received()
	if !slices.Equal(order, ids[pushed-kept:]) {
		t.Errorf("%d came, not the newest %d in order:\n got %v\nwant %v", len(order), kept, order, ids[pushed-kept:])
	}
	for i, id := range ids {
		want := &pushv1.Counts{Targeted: 1, Arrived: 1}
		if i < pushed-kept {
			want = &pushv1.Counts{Targeted: 1, Evicted: 1}
		}
		app.AwaitCounts(t, id, 20*time.Second, want)
	}
	t.Logf("%d pushes: the newest %d arrived in order, %d evicted", pushed, len(order), pushed-kept)
}
