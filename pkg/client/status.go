package client

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// Reason returns the reason of an error, such as IDEMPOTENCY_KEY_REUSED: the words of docs/errors.md. It is empty if the error
// has none.
func Reason(err error) string {
	info, _ := detail[*errdetails.ErrorInfo](err)
	return info.GetReason()
}

// Violation is one field of a request that breaks a rule.
type Violation struct {
	// Field is its path, such as policy.ttl.
	Field       string
	Description string
}

// Violations returns the fields at fault that an error names.
func Violations(err error) []Violation {
	request, _ := detail[*errdetails.BadRequest](err)
	var all []Violation
	for _, v := range request.GetFieldViolations() {
		all = append(all, Violation{v.GetField(), v.GetDescription()})
	}
	return all
}

// retryDelay returns how long an error asks to wait.
func retryDelay(err error) (time.Duration, bool) {
	info, ok := detail[*errdetails.RetryInfo](err)
	return max(info.GetRetryDelay().AsDuration(), 0), ok
}

// detail returns an error's detail of one type.
func detail[T any](err error) (found T, ok bool) {
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		if found, ok = d.(T); ok {
			return found, true
		}
	}
	return found, false
}
