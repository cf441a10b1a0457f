module github.com/halleypush/halley/services/halley

go 1.26.0

replace github.com/halleypush/halley/proto => ../../proto
replace github.com/halleypush/halley/pkg => ../../pkg
replace github.com/halleypush/halley/services/pushcore => ../pushcore
replace github.com/halleypush/halley/services/gateway => ../gateway
