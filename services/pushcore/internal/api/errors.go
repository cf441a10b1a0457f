package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/services/pushcore/internal/batch"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// toStatus returns the status that a caller sees for an error. It is the one place where errors become codes; what it
// does not know is INTERNAL, logged here and not shown.
func toStatus(ctx context.Context, log *slog.Logger, err error) *status.Status {
	var known *fault.Error
	switch {
	case errors.As(err, &known):
		return known.GRPCStatus()
	case errors.Is(err, batch.ErrFull):
		return fault.Exhausted("OVERLOADED", time.Second, "too many calls wait; try again").GRPCStatus()
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the call was cancelled")
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		return status.New(codes.DeadlineExceeded, "the call's deadline is over")
	case storage.Unavailable(err):
		log.WarnContext(ctx, "call failed: database unavailable", "error", err)
		return fault.Unavailable().GRPCStatus()
	}
	if s, ok := status.FromError(err); ok {
		return s
	}
	log.ErrorContext(ctx, "call failed", "error", err)
	return status.New(codes.Internal, "something is wrong inside the service; its log says what")
}

// Errors turns the errors of handlers into statuses.
func Errors(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		response, err := handler(ctx, request)
		if err != nil {
			return nil, toStatus(ctx, log.With("method", info.FullMethod), err).Err()
		}
		return response, nil
	}
}

// Validate refuses requests that break the rules on their fields, and names each field.
func Validate(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if m, ok := request.(proto.Message); ok {
		if err := validate(m); err != nil {
			return nil, err
		}
	}
	return handler(ctx, request)
}

// validate returns an INVALID_ARGUMENT status that lists every field that breaks a rule.
func validate(m proto.Message) error {
	err := protovalidate.Validate(m)
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return fmt.Errorf("validate: %w", err)
	}
	bad := &errdetails.BadRequest{}
	for _, v := range invalid.Violations {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: protovalidate.FieldPathString(v.Proto.GetField()), Description: v.Proto.GetMessage(), Reason: "INVALID_FIELD",
		})
	}
	first := bad.FieldViolations[0]
	message := first.GetDescription()
	if first.GetField() != "" {
		message = first.GetField() + ": " + message
	}
	s, err := status.New(codes.InvalidArgument, message).
		WithDetails(&errdetails.ErrorInfo{Reason: "INVALID_FIELD", Domain: fault.Domain}, bad)
	if err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	return s.Err()
}

var unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)

// tooLarge is how a body over the bound ends, in words.
var tooLarge = (&http.MaxBytesError{}).Error()

// explain adds details to the statuses that the REST layer makes itself, for JSON that is not what the method takes.
func explain(s *status.Status) *status.Status {
	if s.Code() != codes.InvalidArgument || len(s.Details()) > 0 {
		return s
	}
	if strings.HasSuffix(s.Message(), tooLarge) {
		f := &fault.Error{
			Code: codes.InvalidArgument, Reason: "BODY_TOO_LARGE", Message: fmt.Sprintf("the body has more than %d MiB", maxBody>>20),
		}
		return f.GRPCStatus()
	}
	f := &fault.Error{Code: s.Code(), Reason: "MALFORMED_JSON", Message: s.Message()}
	if match := unknownField.FindStringSubmatch(s.Message()); match != nil {
		f.Field, f.Message = match[1], "there is no such field"
	}
	return f.GRPCStatus()
}

// retryAfter returns the seconds for a Retry-After header, rounded up; empty if the status names no delay.
func retryAfter(s *status.Status) string {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			seconds := (info.GetRetryDelay().AsDuration() + time.Second - 1) / time.Second
			return strconv.Itoa(max(1, int(seconds)))
		}
	}
	return ""
}
