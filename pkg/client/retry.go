package client

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// once are the calls whose repeat is not the same as one call: when it is not known what became of one, it is not tried again.
var once = map[string]bool{
	pushv1.DeviceService_DeleteDevice_FullMethodName: true, // the second finds no device
	pushv1.DeviceService_RotateSecret_FullMethodName: true, // the second makes the first's secret void
	adminv1.AdminService_CreateApp_FullMethodName:    true, // the second finds the app, and its keys are lost
	adminv1.AdminService_CreateKey_FullMethodName:    true, // the second makes another key
}

// retry says how calls are tried again.
type retry struct {
	attempts          int
	timeout           time.Duration // of each try
	shortest, longest time.Duration // pauses
}

// intercept is a grpc.UnaryClientInterceptor.
func (r retry) intercept(
	ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	for attempt := 1; ; attempt++ {
		err := r.try(ctx, func(ctx context.Context) error { return invoke(ctx, method, request, reply, conn, options...) })
		if err == nil || attempt >= r.attempts || !repeatable(method, err) || !r.pause(ctx, attempt, err) {
			return err
		}
	}
}

func (r retry) try(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return call(ctx)
}

// repeatable reports whether a call that failed may succeed if it is made again, and does no harm.
func repeatable(method string, err error) bool {
	switch status.Code(err) {
	case codes.ResourceExhausted: // nothing was done; without a RetryInfo waiting does not help
		_, told := retryDelay(err)
		return told
	case codes.Unavailable, codes.DeadlineExceeded:
		return !once[method]
	default:
		return false
	}
}

// pause waits before the next try. It reports false, at once, if ctx ends before that.
func (r retry) pause(ctx context.Context, attempt int, err error) bool {
	wait := min(r.shortest<<min(attempt-1, 30), r.longest)
	if wait <= 0 {
		wait = r.longest
	}
	wait = wait/2 + rand.N(wait/2+1)
	if told, ok := retryDelay(err); ok {
		wait = told + rand.N(told/10+1)
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
