package site

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/bench/internal/swarm"
)

// registrations is how many devices register at a time.
const registrations = 64

// Register registers n devices over HTTPS' path, and returns who they are.
func (s *Site) Register(ctx context.Context, n int) ([]swarm.Identity, error) {
	all := make([]swarm.Identity, n)
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: registrations}}
	defer web.CloseIdleConnections()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(registrations)
	for i := range all {
		group.Go(func() (err error) {
			all[i], err = s.register(ctx, web, i)
			return err
		})
	}
	return all, group.Wait()
}

func (s *Site) register(ctx context.Context, web *http.Client, i int) (swarm.Identity, error) {
	body := fmt.Sprintf(`{"app":%q,"client_key":%q,"install_id":"bench-installation-%022d","platform":"linux"}`, s.App, s.ClientKey, i)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/device/v1/register", bytes.NewReader([]byte(body)))
	if err != nil {
		return swarm.Identity{}, err
	}
	response, err := web.Do(request)
	if err != nil {
		return swarm.Identity{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return swarm.Identity{}, err
	}
	var answer struct{ Token, Secret string }
	if err := json.Unmarshal(text, &answer); err != nil || answer.Token == "" {
		return swarm.Identity{}, fmt.Errorf("register: %s: %s", response.Status, text)
	}
	return swarm.Identity{ClientID: answer.Token, Username: s.App, Password: answer.Secret}, nil
}
