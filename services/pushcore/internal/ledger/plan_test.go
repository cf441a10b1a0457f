package ledger_test

import (
	"testing"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

// The statistics of the inbox are of another time: of many pushes to one device each. Then come pushes to a thousand, and
// their receipts must not read the rows of all devices for each one.
func TestReceiptsReadTheirOwnRowsWhateverTheStatisticsSay(t *testing.T) {
	t.Parallel()
	db := open(t)
	for range 300 {
		newPush(t, db.Ledger, 1)
	}
	if _, err := db.Ledger.Exec(t.Context(), "ANALYZE inbox"); err != nil {
		t.Fatal(err)
	}
	const devices = 1000
	var entries []ledger.Entry
	for range 5 {
		push := newPush(t, db.Ledger, devices)
		for n := range uint64(devices) {
			entries = append(entries, ledger.Entry{
				Key: message.Key{App: 1, Ordinal: n, Push: push.ID}, Step: ledgerv1.Step_STEP_ARRIVED,
			})
		}
	}
	tx, err := db.Ledger.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // nothing of it is wanted
	if err := ledger.ApplyFinal(t.Context(), tx, entries); err != nil {
		t.Fatal(err)
	}
	var read, gone int
	err = tx.QueryRow(t.Context(), `
		SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read, n_tup_del FROM pg_stat_xact_user_tables WHERE relname = 'inbox'`).Scan(&read, &gone)
	if err != nil {
		t.Fatal(err)
	}
	if gone != len(entries) || read > 2*len(entries) {
		t.Errorf("%d receipts ended %d deliveries and read %d rows", len(entries), gone, read)
	}
}
