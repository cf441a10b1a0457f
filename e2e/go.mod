module github.com/halleypush/halley/e2e

go 1.26.0

replace github.com/halleypush/halley/proto => ../proto
replace github.com/halleypush/halley/pkg => ../pkg
replace github.com/halleypush/halley/services/pushcore => ../services/pushcore
replace github.com/halleypush/halley/services/gateway => ../services/gateway
replace github.com/halleypush/halley/services/halley => ../services/halley
