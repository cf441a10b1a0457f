package keep

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

// id returns the id of the nth push, in the order of time.
func id(n byte) uuid.UUID { return uuid.UUID{6: 0x70, 15: n} }

func TestChoose(t *testing.T) {
	t.Parallel()
	const (
		unbound   = "failed unbound"
		off       = "failed permission off"
		collapsed = "collapsed"
		evicted   = "evicted"
	)
	for name, c := range map[string]struct {
		all   []candidate
		want  Want
		limit int
		left  []byte
		ended map[byte]string
	}{
		"oldest first": {
			all: []candidate{{id: id(3)}, {id: id(1), audience: true}, {id: id(2)}}, limit: 10, left: []byte{1, 2, 3},
		},
		"the newest up to the cap": {
			all: []candidate{{id: id(1)}, {id: id(2), audience: true}, {id: id(3)}, {id: id(4)}}, limit: 2, left: []byte{3, 4},
			ended: map[byte]string{1: evicted, 2: evicted},
		},
		"one of each collapse key": {
			all: []candidate{
				{id: id(1), collapseKey: "k"}, {id: id(2), collapseKey: "l"}, {id: id(3), collapseKey: "k", audience: true}, {id: id(4)}, {id: id(5)},
			},
			limit: 10, left: []byte{2, 3, 4, 5}, ended: map[byte]string{1: collapsed},
		},
		"collapse before the cap": {
			all:   []candidate{{id: id(1)}, {id: id(2), collapseKey: "k"}, {id: id(3), collapseKey: "k"}},
			limit: 2, left: []byte{1, 3}, ended: map[byte]string{2: collapsed},
		},
		"what is over hides nothing": {
			all: []candidate{
				{id: id(1), collapseKey: "k"}, {id: id(2), collapseKey: "k", user: "u", unbound: true}, {id: id(3)},
			},
			limit: 2, left: []byte{1, 3}, ended: map[byte]string{2: unbound},
		},
		"notifications off": {
			all:  []candidate{{id: id(1), show: true}, {id: id(2)}, {id: id(3), show: true, audience: true}},
			want: Want{PermissionOff: true}, limit: 10, left: []byte{2}, ended: map[byte]string{1: off, 3: off},
		},
		"after a push": {
			all:  []candidate{{id: id(1)}, {id: id(2)}, {id: id(3)}, {id: id(4)}},
			want: Want{After: id(2)}, limit: 3, left: []byte{3, 4}, ended: map[byte]string{1: evicted},
		},
		"nothing": {limit: 10},
	} {
		over := &endingsOf{slices: map[ledger.SliceKey]map[ledgerv1.Step]*ledger.SliceChange{}}
		c.want.Device = route.Device{App: 1, Ordinal: 7}
		audience := map[uuid.UUID]bool{}
		for _, x := range c.all {
			audience[x.id] = x.audience
		}
		var left []byte
		for _, x := range choose(c.want, c.all, c.limit, over) {
			left = append(left, x.id[15])
		}
		if !slices.Equal(left, c.left) {
			t.Errorf("%s: %v is handed over, want %v", name, left, c.left)
		}
		words := map[ledgerv1.Reason]string{
			ledgerv1.Reason_REASON_UNBOUND: unbound, ledgerv1.Reason_REASON_PERMISSION_OFF: off,
			ledgerv1.Reason_REASON_NEWER_PUSH: collapsed, ledgerv1.Reason_REASON_OVER_CAP: evicted,
		}
		ended := map[byte]string{}
		for _, e := range over.direct {
			ended[e.Push[15]] = words[e.Reason]
			if audience[e.Push] || e.Ordinal != 7 {
				t.Errorf("%s: %v ended as a direct one", name, e)
			}
		}
		for key, steps := range over.slices {
			for _, change := range steps {
				ended[key.Push[15]] = words[change.Reason]
				if !audience[key.Push] || !slices.Equal(change.Bits.ToArray(), []uint32{7}) || change.Among != ledger.NotFinal {
					t.Errorf("%s: %v ended", name, change)
				}
			}
		}
		if len(ended) != len(c.ended) {
			t.Errorf("%s: ended are %v, want %v", name, ended, c.ended)
		}
		for n, want := range c.ended {
			if ended[n] != want {
				t.Errorf("%s: %d is %q, want %q", name, n, ended[n], want)
			}
		}
	}
}
