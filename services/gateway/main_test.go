package gateway_test

import (
	"testing"

	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

func TestMain(m *testing.M) { gatewaytest.Main(m) }
