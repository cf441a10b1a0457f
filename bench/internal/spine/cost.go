package spine

import (
	"fmt"
	"syscall"
	"time"

	"github.com/halleypush/halley/bench/internal/process"
)

// costs are processor times so far: of the parts, and of the bench itself.
type costs struct{ pushcore, gateway, nats, postgres, bench time.Duration }

func (b *bench) costs() (c costs, err error) {
	for _, p := range []struct {
		of *process.Process
		to *time.Duration
	}{{b.site.Pushcore, &c.pushcore}, {b.site.Gateway, &c.gateway}, {b.site.NATS, &c.nats}} {
		if *p.to, err = p.of.CPU(); err != nil {
			return c, err
		}
	}
	c.postgres = b.site.Postgres()
	c.bench, err = process.CPU(syscall.Getpid())
	return c, err
}

func (c costs) since(o costs) costs {
	return costs{c.pushcore - o.pushcore, c.gateway - o.gateway, c.nats - o.nats, c.postgres - o.postgres, c.bench - o.bench}
}

// per tells what each of n deliveries cost.
func (c costs) per(n int64) string {
	us := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(max(n, 1)) }
	return fmt.Sprintf("CPU µs each: pushcore %.1f, gateway %.1f, PostgreSQL %.1f, NATS %.1f, bench %.1f",
		us(c.pushcore), us(c.gateway), us(c.postgres), us(c.nats), us(c.bench))
}
