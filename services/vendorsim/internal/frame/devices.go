package frame

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
)

// maxTokenLength bounds a token, in bytes. No sheet has a limit; this keeps what is remembered small.
const maxTokenLength = 4096

// Devices makes the tokens of apps' devices, and knows them again by a mark of the app. Safe for use by many.
type Devices struct {
	prefix string

	mu   sync.Mutex
	apps map[string]string // by mark
}

// NewDevices returns devices whose tokens begin with a prefix; the mark follows.
func NewDevices(prefix string) *Devices {
	return &Devices{prefix: prefix, apps: make(map[string]string)}
}

// Know makes an app's name known.
func (d *Devices) Know(app string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.apps[Mark(app)] = app
}

// Tokens makes the tokens of n new devices of an app.
func (d *Devices) Tokens(app string, n int) ([]any, error) {
	d.mu.Lock()
	known := d.apps[Mark(app)] == app
	d.mu.Unlock()
	if !known {
		return nil, fmt.Errorf("app %q is not registered", app)
	}
	tokens := make([]any, n)
	for i := range tokens {
		tokens[i] = d.prefix + Mark(app) + rand.Text() + rand.Text()
	}
	return tokens, nil
}

// Legal says whether a token could be one of an app's.
func (d *Devices) Legal(token, app string) bool { return WellFormed(token) && !d.Foreign(token, app) }

// WellFormed says whether a token has the form of one.
func WellFormed(token string) bool {
	return token != "" && len(token) <= maxTokenLength &&
		(strings.HasPrefix(token, directivePrefix) || !strings.ContainsAny(token, " \t\r\n"))
}

// Foreign says whether a token was made for another app. Others than the simulator's own are good for every app.
func (d *Devices) Foreign(token, app string) bool {
	rest, own := strings.CutPrefix(token, d.prefix)
	if !own || len(rest) < MarkLength {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	owner, known := d.apps[rest[:MarkLength]]
	return known && owner != app
}

// Targets are the tokens of a request, and what is needed to sort them.
type Targets struct {
	App     string
	Tokens  []string
	Receipt string // what the request wants for all of them; empty: as usual
	Dead    string // the code of a dead token
	Foreign string // the code of a token that cannot be the app's
	Codes   []Code
}

// Target is one token of a request and what becomes of it.
type Target struct {
	Token   string
	Code    string // of InToken; empty: it is accepted
	Receipt string // the code of its receipt; empty: as usual
}

// Sort asks what becomes of each token, and waits where one wants that. A code that is not about single tokens answers the whole
// request, and the targets are void then. The error is that of ctx.
func (f *Frame) Sort(ctx context.Context, d *Devices, t Targets) (list Sorted, code string, err error) {
	list = make(Sorted, 0, len(t.Tokens))
	for _, token := range t.Tokens {
		v := f.ForToken(t.App, token)
		if !Pause(ctx, v.Delay) {
			return nil, "", ctx.Err()
		}
		target := Target{Token: token, Receipt: t.Receipt}
		if v.Receipt != "" {
			target.Receipt = v.Receipt
		}
		_, single := Find(t.Codes, InToken, v.Code)
		whole, _ := Find(t.Codes, InAnswer, v.Code)
		switch {
		case v.Invalid:
			target.Code = t.Dead
		case single:
			target.Code = v.Code
		case v.Code != "" && whole.Group != Success:
			return nil, v.Code, nil
		case !d.Legal(token, t.App):
			target.Code = t.Foreign
		}
		list = append(list, target)
	}
	return list, "", nil
}

// Decide is Sort after the question what the whole request, with its title, wants.
func (f *Frame) Decide(ctx context.Context, d *Devices, title string, t Targets) (list Sorted, code string, err error) {
	v := f.ForRequest(t.App, title)
	if !Pause(ctx, v.Delay) {
		return nil, "", ctx.Err()
	}
	if c, _ := Find(t.Codes, InAnswer, v.Code); v.Code != "" && c.Group != Success {
		return nil, v.Code, nil
	}
	t.Receipt = v.Receipt
	return f.Sort(ctx, d, t)
}

// Sorted are targets in the request's order.
type Sorted []Target

// Good returns the tokens that are accepted.
func (list Sorted) Good() []string {
	good := make([]string, 0, len(list))
	for _, t := range list {
		if t.Code == "" {
			good = append(good, t.Token)
		}
	}
	return good
}

// Bad returns the tokens that are not accepted, by code.
func (list Sorted) Bad() map[string][]string {
	bad := make(map[string][]string)
	for _, t := range list {
		if t.Code != "" {
			bad[t.Code] = append(bad[t.Code], t.Token)
		}
	}
	return bad
}
