package registry

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// cache remembers values for cacheFor at most, and up to cacheSize of them. It needs no goroutine: what is too old is not
// found, and goes when room is needed.
type cache[K comparable, V any] struct{ lru *lru.Cache[K, cached[V]] }

type cached[V any] struct {
	value  V
	loaded time.Time
}

func newCache[K comparable, V any]() *cache[K, V] {
	l, err := lru.New[K, cached[V]](cacheSize)
	if err != nil {
		panic(err) // only for a size of zero
	}
	return &cache[K, V]{lru: l}
}

func (c *cache[K, V]) get(key K) (value V, ok bool) {
	found, ok := c.lru.Get(key)
	if !ok || time.Since(found.loaded) > cacheFor {
		return value, false
	}
	return found.value, true
}

func (c *cache[K, V]) add(key K, value V) { c.lru.Add(key, cached[V]{value, time.Now()}) }
func (c *cache[K, V]) remove(key K)       { c.lru.Remove(key) }
func (c *cache[K, V]) purge()             { c.lru.Purge() }
