//go:build race

package loop

// tlsAllocates is how often an exchange over TLS allocates at the most: with the race detector sync.Pool forgets at random.
const tlsAllocates = 8
