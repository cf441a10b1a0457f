// Package pushkit is what the simulators of Huawei and HarmonyOS share, because the vendor's services do: the form of answers,
// and signed receipts.
package pushkit

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// Answers writes the answers to sends.
type Answers struct {
	frame *frame.Frame
	codes []frame.Code
}

// NewAnswers returns answers with the codes of a vendor.
func NewAnswers(f *frame.Frame, codes []frame.Code) Answers { return Answers{frame: f, codes: codes} }

// Write answers with a code and counts it. A code of three digits is an HTTP status without a code of the push service.
func (a Answers) Write(w http.ResponseWriter, name string) {
	code := frame.Wanted(a.codes, frame.InAnswer, name)
	if code.Status == http.StatusServiceUnavailable {
		frame.RetryAfter(w, a.frame.Switches().Limit.RetryAfter)
	}
	if len(code.Code) == 3 {
		a.frame.Answered(code.Code, 1)
		http.Error(w, http.StatusText(code.Status), code.Status)
		return
	}
	a.Message(w, name, RequestID(a.frame.Now()), code.Meaning)
}

// Message answers with a code, a request id and a text, and counts it.
func (a Answers) Message(w http.ResponseWriter, name, id, message string) {
	code := frame.Wanted(a.codes, frame.InAnswer, name)
	a.frame.Answered(code.Code, 1)
	frame.WriteJSON(w, code.Status, map[string]string{"code": code.Code, "msg": message, "requestId": id})
}

// RequestID makes an id of a request.
func RequestID(now time.Time) string {
	return fmt.Sprintf("%d%s", now.UnixMilli(), strings.ToLower(rand.Text()[:10]))
}
