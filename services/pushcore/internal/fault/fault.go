// Package fault is the one error type that callers of pushcore see: a gRPC code, a stable reason, and the field at fault.
package fault

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the ErrorInfo domain of every fault.
const Domain = "halley"

// Error is a fault as the caller sees it. Its text holds no secrets and no internals.
type Error struct {
	Code codes.Code
	// Reason is a stable word for programs, such as DEVICE_NOT_FOUND; documented in docs/errors.md.
	Reason string
	// Field is the request field at fault, empty if none is.
	Field string
	// Message says what is wrong and, where there is one, the limit.
	Message string
	// RetryAfter is how long to wait before the next try, 0 if waiting does not help.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	if e.Field != "" {
		return e.Field + ": " + e.Message
	}
	return e.Message
}

// GRPCStatus makes the error travel as google.rpc.Status with ErrorInfo, BadRequest and RetryInfo details.
func (e *Error) GRPCStatus() *status.Status {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: e.Reason, Domain: Domain}}
	if e.Field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: e.Field, Description: e.Message, Reason: e.Reason},
		}})
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	plain := status.New(e.Code, e.Error())
	with, err := plain.WithDetails(details...)
	if err != nil { // only for details that cannot be encoded; these can
		return plain
	}
	return with
}

// Invalid returns an INVALID_ARGUMENT fault of a field.
func Invalid(field, format string, args ...any) *Error {
	return &Error{Code: codes.InvalidArgument, Reason: "INVALID_FIELD", Field: field, Message: fmt.Sprintf(format, args...)}
}

// NotFound returns a NOT_FOUND fault with its reason.
func NotFound(reason, format string, args ...any) *Error {
	return &Error{Code: codes.NotFound, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Unimplemented returns an UNIMPLEMENTED fault of a field whose value is known but not built yet.
func Unimplemented(field, format string, args ...any) *Error {
	return &Error{Code: codes.Unimplemented, Reason: "NOT_BUILT", Field: field, Message: fmt.Sprintf(format, args...)}
}

// Exhausted returns a RESOURCE_EXHAUSTED fault; retryAfter 0 means that waiting does not help.
func Exhausted(reason string, retryAfter time.Duration, format string, args ...any) *Error {
	return &Error{
		Code: codes.ResourceExhausted, Reason: reason, RetryAfter: retryAfter, Message: fmt.Sprintf(format, args...),
	}
}

// Unavailable returns the fault that means: nothing was done, or nobody knows; try again.
func Unavailable() *Error {
	return &Error{
		Code: codes.Unavailable, Reason: "UNAVAILABLE", RetryAfter: time.Second,
		Message: "the service cannot reach its database right now; try again",
	}
}

// Is reports whether err is a fault with this reason.
func Is(err error, reason string) bool {
	var e *Error
	return errors.As(err, &e) && e.Reason == reason
}
