package frame

import (
	"net/http"
	"strconv"
	"strings"
)

// Group is what a fact sheet says about a code: the heading that the sheet lists it under.
type Group string

// The groups of the sheets, in one set of words.
const (
	Success       Group = "success"
	RetryLater    Group = "retry later"
	Rate          Group = "rate"
	Quota         Group = "quota"         // spent until the next day
	Hours         Group = "hours"         // not at this time of day
	Refresh       Group = "refresh"       // a new token or JWT once, then it is the configuration
	Configuration Group = "configuration" // credential, rights, account: no retry, alarm
	TokenInvalid  Group = "token invalid" // remove the token
	TokenKeep     Group = "token keep"    // this token fails, and stays
	Payload       Group = "payload"       // this request can never succeed
	Delivered     Group = "delivered"     // receipts
	NotDelivered  Group = "not delivered" // receipts that do not speak about the token's life
)

// Place is where in the vendor's protocol a code stands.
type Place string

// The places.
const (
	InAnswer  Place = "answer"  // for the whole request
	InToken   Place = "token"   // for one token of a request that is accepted otherwise
	InAuth    Place = "auth"    // in the answer of the call that gives access tokens
	InReceipt Place = "receipt" // in a receipt that the vendor sends
)

// Code is one answer that a vendor documents.
type Code struct {
	Status  int    `json:"status"` // of HTTP; 0 in receipts
	Code    string `json:"code"`
	Meaning string `json:"meaning"`
	Group   Group  `json:"group"`
	Place   Place  `json:"place"`
}

// Find returns the code of that name in a place.
func Find(codes []Code, place Place, name string) (Code, bool) {
	for _, c := range codes {
		if c.Place == place && c.Code == name {
			return c, true
		}
	}
	return Code{}, false
}

// Wanted returns the code that a switch or directive asks for. It may also be one that no sheet knows, written as status/code.
func Wanted(codes []Code, place Place, name string) Code {
	if c, ok := Find(codes, place, name); ok {
		return c
	}
	if status, code, ok := strings.Cut(name, "/"); ok {
		if n, err := strconv.Atoi(status); err == nil && n >= http.StatusOK && n < 600 {
			return Code{Status: n, Code: code, Place: place}
		}
	}
	return Code{Status: http.StatusInternalServerError, Code: name, Place: place}
}
