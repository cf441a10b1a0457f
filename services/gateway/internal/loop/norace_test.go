//go:build !race

package loop

// tlsAllocates is how often an exchange over TLS allocates: crypto/tls makes a reader for each of its reads, the phone's, and two of the
// loop's, which reads until nothing is left.
const tlsAllocates = 3
