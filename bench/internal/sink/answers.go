package sink

import (
	"context"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

var (
	_ gatewayv1.GatewayServiceServer = (*Sink)(nil)
	_ collector.TraceServiceServer   = (*Sink)(nil)
)

// RenewLease implements the contract.
func (s *Sink) RenewLease(_ context.Context, r *gatewayv1.RenewLeaseRequest) (*gatewayv1.RenewLeaseResponse, error) {
	response := &gatewayv1.RenewLeaseResponse{
		Status: gatewayv1.RenewLeaseResponse_LIVE, Lease: durationpb.New(lease), DatabaseIdentity: "bench",
	}
	if r.GetNatsRoundTripAge().AsDuration() > lease+5*time.Second {
		response.Status = gatewayv1.RenewLeaseResponse_NO_PROOF
	}
	return response, nil
}

// GetApp implements the contract.
func (s *Sink) GetApp(_ context.Context, r *gatewayv1.GetAppRequest) (*gatewayv1.GetAppResponse, error) {
	if r.GetApp() != app {
		return nil, status.Error(codes.NotFound, "there is one app")
	}
	return s.app, nil
}

// Calls implements the contract: all is well.
func (s *Sink) Calls(_ context.Context, r *gatewayv1.CallsRequest) (*gatewayv1.CallsResponse, error) {
	response := &gatewayv1.CallsResponse{}
	for range r.GetCalls() {
		response.Results = append(response.Results, &gatewayv1.CallsResponse_Result{Json: []byte("{}"), Ok: true})
	}
	return response, nil
}

// Sessions implements the contract: every session is opened, and nothing is kept for it.
func (s *Sink) Sessions(stream grpc.BidiStreamingServer[gatewayv1.SessionsRequest, gatewayv1.SessionsResponse]) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		response := &gatewayv1.SessionsResponse{Batch: r.GetBatch(), Status: gatewayv1.SessionsResponse_OK, Last: true}
		receiving := s.open(r, response)
		for _, p := range r.GetPulls() {
			response.Pulled = append(response.Pulled, &gatewayv1.Pulled{Session: p.GetSession(), Open: true})
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		s.opened.Add(receiving)
	}
}

// open keeps the routes of a batch, and returns how many of its sessions receive.
func (s *Sink) open(r *gatewayv1.SessionsRequest, response *gatewayv1.SessionsResponse) (receiving int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range r.GetOpens() {
		response.Opened = append(response.Opened, &gatewayv1.Opened{Session: o.GetSession(), Status: gatewayv1.Opened_OPEN})
		if o.GetReceiving() {
			s.routes[o.GetOrdinal()] = route{o.GetSession(), r.GetIncarnation()}
			receiving++
		}
	}
	return receiving
}

// Export implements OTLP.
func (s *Sink) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			s.spans.Add(int64(len(scope.GetSpans())))
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}
