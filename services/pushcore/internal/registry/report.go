package registry

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/ordinal"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// deviceReport is what one device said of itself.
type deviceReport struct {
	app     uint32
	ordinal uint64
	report  *devicev1.Report
}

// Report stores what a device says of itself; what the report leaves out stays. It returns whether the system shows the
// app's notifications now, and whether that changed.
func (d *Devices) Report(
	ctx context.Context, app *App, number uint64, report *devicev1.Report,
) (notifications, changed bool, err error) {
	err = storage.InTx(ctx, d.pool, func(tx pgx.Tx) error {
		var before bool
		err := tx.QueryRow(ctx, `
			SELECT notifications FROM device WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 AND state <> 3 FOR UPDATE`,
			ordinal.DeviceBucket(app.No, number), int32(app.No), int64(number)).Scan(&before)
		if err != nil {
			return errNoDevice(err)
		}
		notifications = before
		if report.Notifications != nil {
			notifications = report.GetNotifications()
		}
		changed = notifications != before
		return applyReports(ctx, tx, []deviceReport{{app: app.No, ordinal: number, report: report}})
	})
	if err != nil {
		return false, false, fmt.Errorf("report: %w", err)
	}
	return notifications, changed, nil
}

// ReportAll stores the reports that came with connects; devices that are gone are passed over.
func (d *Devices) ReportAll(ctx context.Context, apps []uint32, ordinals []uint64, reports []*devicev1.Report) error {
	all := make([]deviceReport, len(reports))
	for i := range reports {
		all[i] = deviceReport{app: apps[i], ordinal: ordinals[i], report: reports[i]}
	}
	if err := storage.InTx(ctx, d.pool, func(tx pgx.Tx) error { return applyReports(ctx, tx, all) }); err != nil {
		return fmt.Errorf("store reports: %w", err)
	}
	return nil
}

const updateReported = `
	UPDATE device d SET
		platform      = coalesce(i.platform, d.platform),
		brand         = coalesce(i.brand, d.brand),
		model         = coalesce(i.model, d.model),
		os_version    = coalesce(i.os_version, d.os_version),
		app_version   = coalesce(i.app_version, d.app_version),
		sdk_version   = coalesce(i.sdk_version, d.sdk_version),
		locale        = coalesce(i.locale, d.locale),
		time_zone     = coalesce(i.time_zone, d.time_zone),
		notifications = coalesce(i.notifications, d.notifications)
	FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
		$9::text[], $10::text[], $11::text[], $12::boolean[])
		AS i (bucket, app_no, ordinal, platform, brand, model, os_version, app_version, sdk_version, locale, time_zone,
			notifications)
	WHERE d.bucket = i.bucket AND d.app_no = i.app_no AND d.ordinal = i.ordinal AND d.state <> 3`

func applyReports(ctx context.Context, tx pgx.Tx, all []deviceReport) error {
	if len(all) == 0 {
		return nil
	}
	var k deviceKeys
	var text [8][]*string
	var notifications []*bool
	for _, r := range all {
		k.add(r.app, r.ordinal)
		for i, value := range []*string{
			r.report.Platform, r.report.Brand, r.report.Model, r.report.OsVersion, r.report.AppVersion, r.report.SdkVersion,
			r.report.Locale, r.report.TimeZone,
		} {
			text[i] = append(text[i], value)
		}
		notifications = append(notifications, r.report.Notifications)
	}
	_, err := tx.Exec(ctx, updateReported, k.buckets, k.apps, k.ordinals,
		text[0], text[1], text[2], text[3], text[4], text[5], text[6], text[7], notifications)
	if err != nil {
		return fmt.Errorf("store reports: %w", err)
	}
	return applyChannelTokens(ctx, tx, all)
}

func applyChannelTokens(ctx context.Context, tx pgx.Tx, all []deviceReport) error {
	b := &pgx.Batch{}
	for _, r := range all {
		bucket := ordinal.DeviceBucket(r.app, r.ordinal)
		for _, t := range r.report.GetChannelTokens() {
			if t.GetToken() == "" {
				b.Queue("DELETE FROM channel_token WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 AND channel = $4",
					bucket, int32(r.app), int64(r.ordinal), t.GetChannel())
				continue
			}
			environment := t.GetEnvironment()
			if environment == "" {
				environment = "production"
			}
			b.Queue(`
				INSERT INTO channel_token (bucket, app_no, ordinal, channel, token, app_package, environment)
				VALUES ($1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT (bucket, app_no, ordinal, channel) DO UPDATE
				SET token = excluded.token, app_package = excluded.app_package, environment = excluded.environment,
					updated_at = now(), gone_at = NULL`,
				bucket, int32(r.app), int64(r.ordinal), t.GetChannel(), t.GetToken(), t.GetAppPackage(), environment)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("store channel tokens: %w", err)
	}
	return nil
}
