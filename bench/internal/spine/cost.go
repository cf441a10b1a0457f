package spine

import (
	"fmt"
	"runtime"
	"syscall"
	"time"

	"github.com/halleypush/halley/bench/internal/process"
)

// costs are processor times so far: of the parts, of the bench itself, and of the whole machine.
type costs struct {
	at                                                time.Time
	pushcore, gateway, nats, postgres, bench, machine time.Duration
}

func (b *bench) costs() (c costs, err error) {
	for _, p := range []struct {
		of *process.Process
		to *time.Duration
	}{{b.site.Pushcore, &c.pushcore}, {b.site.Gateway, &c.gateway}, {b.site.NATS, &c.nats}} {
		if *p.to, err = p.of.CPU(); err != nil {
			return c, err
		}
	}
	c.postgres, c.at = b.site.Postgres(), time.Now()
	if c.bench, err = process.CPU(syscall.Getpid()); err != nil {
		return c, err
	}
	c.machine, err = process.Busy()
	return c, err
}

// spent is what was spent in a time.
type spent struct {
	costs
	took time.Duration
}

func (c costs) since(o costs) spent {
	return spent{costs{
		pushcore: c.pushcore - o.pushcore, gateway: c.gateway - o.gateway, nats: c.nats - o.nats,
		postgres: c.postgres - o.postgres, bench: c.bench - o.bench, machine: c.machine - o.machine,
	}, c.at.Sub(o.at)}
}

// others tells what share of the machine went to none of us: a figure that was measured beside much else is too low.
func (s spent) others() string {
	rest := s.machine - s.pushcore - s.gateway - s.nats - s.postgres - s.bench
	return fmt.Sprintf("other work took %.0f %% of the machine", 100*max(0, rest.Seconds())/s.took.Seconds()/float64(runtime.NumCPU()))
}

// per tells what each of n deliveries cost.
func (s spent) per(n int64) string {
	us := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(max(n, 1)) }
	return fmt.Sprintf("CPU µs each: pushcore %.1f, gateway %.1f, PostgreSQL %.1f, NATS %.1f, bench %.1f; %s",
		us(s.pushcore), us(s.gateway), us(s.postgres), us(s.nats), us(s.bench), s.others())
}
