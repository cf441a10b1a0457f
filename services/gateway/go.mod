module github.com/halleypush/halley/services/gateway

go 1.26.0

replace github.com/halleypush/halley/proto => ../../proto
replace github.com/halleypush/halley/pkg => ../../pkg
