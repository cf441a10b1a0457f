package senders

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/bench/internal/process"
	"github.com/halleypush/halley/bench/internal/site"
)

// startSender starts a vendor's sender as it is shipped, and returns its operators' port, too. Stop it.
func (b *bench) startSender(ctx context.Context, v vendor) (_ *process.Process, admin string, err error) {
	if admin, err = process.Address(); err != nil {
		return nil, "", err
	}
	name := "sender-" + v.channel
	config := strings.NewReplacer("{url}", b.sims.URLs[v.channel], "{ca}", b.sims.CA).Replace(v.config)
	err = os.WriteFile(filepath.Join(b.dir, name+".yaml"), fmt.Appendf(nil, `
pushcore: %s
service_token: %s
nats: {url: %q, user: sender, password: %s}
telemetry: {listen: %q, profiles: true}
%s`, b.office.address, site.ServiceToken, b.nats.URL, site.Password, admin, config), 0o600)
	if err != nil {
		return nil, "", err
	}
	p, err := process.Start(b.dir, name, nil, filepath.Join(b.Bin, name), "-config", name+".yaml")
	if err != nil {
		return nil, "", err
	}
	if err := p.Await(ctx, process.Ready(ctx, "http://"+admin+"/readyz")); err != nil {
		p.Stop()
		return nil, "", err
	}
	return p, admin, nil
}

// profile takes a profile of the sender in a round of its own, if profiles are wanted: it costs some of what is measured.
func (r *rounds) profile(ctx context.Context) error {
	if r.Profiles == "" {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.fetch(ctx, "profile?seconds=2", r.channel+".cpu.pprof") })
	group.Go(func() error { return r.bySender(ctx, r.tokens) })
	return group.Wait()
}

func (r *rounds) fetch(ctx context.Context, what, file string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin+"/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.Profiles, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.Profiles, file), text, 0o644) //nolint:gosec // profiles are for all to read
}
