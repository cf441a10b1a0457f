package device

import (
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// maxKeepAlive is the longest heartbeat that MQTT can say.
const maxKeepAlive = 65535 * time.Second

// heartbeat returns what keeps a connection alive: a ping when nothing was sent or received for as long as the CONNACK's
// Server Keep Alive says, and the end of the connection when a ping has no answer within that time. An adaptive heartbeat
// is another paho.Pinger here, and needs nothing else of the session.
func heartbeat() paho.Pinger { return paho.NewDefaultPinger() }
