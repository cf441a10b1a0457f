// Package k8s holds the test of the Helm chart on a cluster: `make e2e-k8s`. It works as an operator does, with kubectl and helm, and as
// phones do, from outside the cluster through a node port. Its files need the build tag k8s.
package k8s
