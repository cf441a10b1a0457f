// Package e2e_test shows what Halley promises on the built programs, from outside: third-party clients, faults, tenants,
// traces. `make e2e` runs it.
package e2e_test
