package sender

import (
	"net/http"
	"strconv"
	"strings"
)

// Code is one of a vendor's answers and what it comes to.
type Code struct {
	// Code is the vendor's business code, or a status such as "HTTP 503". A word before it says where it stands if the same
	// code means something else there, such as "target 110010".
	Code    string
	Outcome Outcome
	Meaning string
}

// Codes are all answers that a vendor documents.
type Codes []Code

// ReceiptCode is one of the states that a vendor's receipts tell of.
type ReceiptCode struct {
	Code    string
	What    ReceiptKind
	Meaning string
}

// KindOf returns what a receipt's state says, and the state with its meaning. A state that the list does not have is unknown.
func KindOf(known []ReceiptCode, state string) (what ReceiptKind, code string) {
	for _, k := range known {
		if k.Code == state {
			return k.What, state + " " + k.Meaning
		}
	}
	return ReceiptUnknown, short(state)
}

// Find returns a code's entry, and whether there is one.
func (c Codes) Find(code string) (Code, bool) {
	for _, known := range c {
		if known.Code == code {
			return known, true
		}
	}
	return Code{}, false
}

// Result returns the result of a code: its own outcome, or the given one if the list does not have it. text is what the
// vendor says of it, which is shown for codes that the list does not have; it must hold no token.
func (c Codes) Result(code, text string, unknown Outcome) Result {
	if known, ok := c.Find(code); ok {
		return Result{Outcome: known.Outcome, Code: short(code + " " + known.Meaning)}
	}
	return Result{Outcome: unknown, Code: short(code + " " + text)}
}

// Judge returns what a whole answer comes to: by its business code, if the list has it; otherwise by the HTTP status; and
// for an unknown code with 200 it is the given outcome. text is the vendor's, without the targets' tokens.
func (c Codes) Judge(a *Answer, code, text string, unknown Outcome) Result {
	_, known := c.Find(code)
	if !known && a.Status != http.StatusOK {
		code, text, unknown = "HTTP "+strconv.Itoa(a.Status), "", ofStatus(a.Status)
	}
	r := c.Result(code, text, unknown)
	if r.Outcome == Retry {
		r.After = a.RetryAfter()
	}
	return r
}

// ofStatus is what HTTP itself says of a status.
func ofStatus(status int) Outcome {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return CredentialBad
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500 || status < 400:
		return Retry
	default:
		return Rejected
	}
}

// longest is how much of a vendor's words is kept, in bytes.
const longest = 200

func short(text string) string {
	return Length{Bytes: longest}.cut(strings.TrimSpace(strings.ToValidUTF8(text, "")))
}

// Same returns one result for all targets.
func Same(m *Message, r Result) []Result {
	all := make([]Result, len(m.Targets))
	for i := range all {
		all[i] = r
	}
	return all
}

// Tokens returns the targets' tokens.
func (m *Message) Tokens() []string {
	tokens := make([]string, len(m.Targets))
	for i, t := range m.Targets {
		tokens[i] = t.Token
	}
	return tokens
}

// Scrub takes the targets' tokens out of a text of the vendor.
func (m *Message) Scrub(text string) string {
	for _, t := range m.Targets {
		text = strings.ReplaceAll(text, t.Token, "<token>")
	}
	return text
}
