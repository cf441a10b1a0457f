package frame

import (
	"crypto/rand"
	"strings"
	"sync"
)

// maxDrafts bounds what is stored before it is sent; the oldest make room, and their ids are unknown then.
const maxDrafts = 10_000

// Drafts are messages that are stored first and sent by their id, by the app that stored them. Safe for use by many.
type Drafts struct {
	mu    sync.Mutex
	list  map[[2]string]any // by app and id
	order [][2]string       // oldest first
}

// NewDrafts returns no drafts.
func NewDrafts() *Drafts { return &Drafts{list: make(map[[2]string]any)} }

// Put stores an app's draft and returns its id.
func (d *Drafts) Put(app string, draft any) (id string) {
	id = strings.ToLower(rand.Text())
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.order) >= maxDrafts {
		delete(d.list, d.order[0])
		d.order = d.order[1:]
	}
	key := [2]string{app, id}
	d.list[key] = draft
	d.order = append(d.order, key)
	return id
}

// Get returns an app's draft; false if there is none of that id.
func (d *Drafts) Get(app, id string) (any, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	draft, ok := d.list[[2]string{app, id}]
	return draft, ok
}
