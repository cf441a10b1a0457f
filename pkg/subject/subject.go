// Package subject names the NATS subjects, streams and consumers that pushcore, gateways and senders share.
package subject

import (
	"fmt"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

const (
	// AppChanged tells every process that an app's settings or keys changed; payload halley.gateway.v1.AppChanged.
	AppChanged = "app.changed"
	// ReceiptsDirect takes halley.ledger.v1.DirectReceipts.
	ReceiptsDirect = "receipt.d"
	// AllGateways is what a gateway subscribes to for audience slices of every app it has devices of.
	AllGateways = "slice.*"
)

// Names of the JetStream streams. Everything in them can be made again from PostgreSQL, or heals with the next Pull.
const (
	// StreamReceiptsDirect keeps receipt.d, a work queue.
	StreamReceiptsDirect = "RECEIPTS_DIRECT"
	// StreamReceiptsAudience keeps receipt.a.>, a work queue with a consumer per partition.
	StreamReceiptsAudience = "RECEIPTS_AUDIENCE"
	// StreamSlices keeps work.slice.>, a work queue of slices to fan out.
	StreamSlices = "SLICES"
	// StreamSend keeps send.>, a work queue with a consumer per channel.
	StreamSend = "SEND"
	// StreamRetries keeps retry.>: jobs that are to be tried again later, and then those whose time has come.
	StreamRetries = "RETRIES"
	// StreamReports keeps receipt.v.>, a work queue.
	StreamReports = "REPORTS"
)

// Lanes is how many subjects the jobs and reports of a channel are spread over, by app.
const Lanes = 16

// Lane returns the lane of an app.
func Lane(app uint32) int { return int(app % Lanes) }

// Send returns the subject of the jobs of one channel for an app; payload halley.sender.v1.Job.
func Send(channel string, app uint32) string { return fmt.Sprintf("send.%s.%d", channel, Lane(app)) }

// SendChannel returns the subjects of all jobs of one channel.
func SendChannel(channel string) string { return "send." + channel + ".*" }

// Retry returns the subject where one job waits until it is due.
func Retry(channel, id string) string { return "retry." + channel + ".at." + id }

// Due returns the subject of the jobs of one channel for an app that are due again.
func Due(channel string, app uint32) string {
	return fmt.Sprintf("retry.%s.due.%d", channel, Lane(app))
}

// DueChannel returns the subjects of all jobs of one channel that are due again.
func DueChannel(channel string) string { return "retry." + channel + ".due.*" }

// Report returns the subject of what became of an app's jobs; payload halley.sender.v1.Report.
func Report(app uint32) string { return fmt.Sprintf("receipt.v.%d", Lane(app)) }

// Check returns the subject on which the senders of a channel are asked about a credential; payload
// halley.sender.v1.Check, the answer halley.sender.v1.Checked.
func Check(channel string) string { return "check." + channel }

// ReceiptsAudience returns the subject of one receipt partition; payload halley.ledger.v1.SliceReceipts.
func ReceiptsAudience(partition int) string { return fmt.Sprintf("receipt.a.%d", partition) }

// Slice returns the subject on which every gateway with devices of an app hears its audience slices.
func Slice(app uint32) string { return fmt.Sprintf("slice.%d", app) }

// WorkSlice returns the subject that wakes a worker for slices of an app.
func WorkSlice(app uint32) string { return fmt.Sprintf("work.slice.%d", app) }

// Gateway returns the subject of one incarnation for one verb: deliver, slice, poke or ping.
func Gateway(incarnation *gatewayv1.Incarnation, verb string) string {
	return "gw." + Incarnation(incarnation) + "." + verb
}

// Incarnation returns an incarnation's name, as subjects and routes carry it.
func Incarnation(i *gatewayv1.Incarnation) string {
	return fmt.Sprintf("%s-%d", i.GetGateway(), i.GetNumber())
}
