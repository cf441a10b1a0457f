package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
)

func newApp(g *globals) *cobra.Command {
	c := group("app", "Make and change apps (admin)")
	c.AddCommand(newAppCreate(g), newAppSet(g), &cobra.Command{
		Use: "list", Short: "List the apps", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := g.administrator()
			if err != nil {
				return err
			}
			defer admin.Close()
			apps, err := admin.ListApps(cmd.Context(), &adminv1.ListAppsRequest{PageSize: 1000})
			if err != nil {
				return err
			}
			return g.print(apps, func() {
				rows := [][]string{{"APP", "NAME", "BIND POLICY", "KEEP ALIVE", "CREATED"}}
				for _, a := range apps.GetApps() {
					rows = append(rows, []string{
						a.GetApp(), dash(a.GetName()), a.GetSettings().GetBindPolicy().String(),
						a.GetSettings().GetKeepAlive().AsDuration().String(), at(a.GetCreatedAt()),
					})
				}
				_ = table(g.out, rows) // a terminal that is gone cannot be told
			})
		},
	})
	return c
}

// settingFlags are the settings that the command line can change.
type settingFlags struct {
	name, bindPolicy                                  string
	keepAlive, keepAliveMin, keepAliveMax, ackTimeout time.Duration
	deviceCap                                         uint32
}

func (s *settingFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.name, "name", "", "name, for people")
	f.StringVar(&s.bindPolicy, "bind-policy", "", "server_only, proof or open")
	f.DurationVar(&s.keepAlive, "keep-alive", 0, "heartbeat asked of devices")
	f.DurationVar(&s.keepAliveMin, "keep-alive-min", 0, "shortest heartbeat a device may choose")
	f.DurationVar(&s.keepAliveMax, "keep-alive-max", 0, "longest heartbeat a device may choose")
	f.DurationVar(&s.ackTimeout, "ack-timeout", 0, "how long a device may take to confirm a message")
	f.Uint32Var(&s.deviceCap, "device-cap", 0, "how many pushes are kept for a device that is away")
}

func (s *settingFlags) settings() (*adminv1.Settings, error) {
	settings := &adminv1.Settings{DeviceCap: s.deviceCap}
	if s.bindPolicy != "" {
		policy, ok := adminv1.Settings_BindPolicy_value[strings.ToUpper(s.bindPolicy)]
		if !ok || policy == 0 {
			return nil, usageError{fmt.Errorf("--bind-policy must be server_only, proof or open, not %q", s.bindPolicy)}
		}
		settings.BindPolicy = adminv1.Settings_BindPolicy(policy)
	}
	for field, value := range map[**durationpb.Duration]time.Duration{
		&settings.KeepAlive: s.keepAlive, &settings.KeepAliveMin: s.keepAliveMin, &settings.KeepAliveMax: s.keepAliveMax,
		&settings.AckTimeout: s.ackTimeout,
	} {
		if value != 0 {
			*field = durationpb.New(value)
		}
	}
	return settings, nil
}

func newAppCreate(g *globals) *cobra.Command {
	s := &settingFlags{}
	c := &cobra.Command{
		Use: "create APP", Short: "Make an app; its first keys are shown this once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := g.administrator()
			if err != nil {
				return err
			}
			defer admin.Close()
			settings, err := s.settings()
			if err != nil {
				return err
			}
			created, err := admin.CreateApp(cmd.Context(), &adminv1.CreateAppRequest{
				App: args[0], Name: s.name, Settings: settings,
			})
			if err != nil {
				return err
			}
			return g.print(created, func() {
				fmt.Fprintf(g.out, "app         %s\nserver key  %s\nclient key  %s\n", created.GetApp().GetApp(), created.GetServerKey(),
					created.GetClientKey())
			})
		},
	}
	s.register(c)
	return c
}

func newAppSet(g *globals) *cobra.Command {
	s := &settingFlags{}
	c := &cobra.Command{
		Use: "set APP", Short: "Change an app's settings; what is not given stays", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := g.administrator()
			if err != nil {
				return err
			}
			defer admin.Close()
			settings, err := s.settings()
			if err != nil {
				return err
			}
			updated, err := admin.UpdateApp(cmd.Context(), &adminv1.UpdateAppRequest{
				App: args[0], Name: s.name, Settings: settings,
			})
			if err != nil {
				return err
			}
			return g.print(updated.GetApp(), func() { fmt.Fprintln(g.out, updated.GetApp().GetSettings()) })
		},
	}
	s.register(c)
	return c
}

func newKey(g *globals) *cobra.Command {
	c := group("key", "Make and revoke an app's keys (admin; --app names the app)")
	var kind, note string
	create := &cobra.Command{
		Use: "create", Short: "Make a key; it is shown this once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := g.administrator()
			if err != nil {
				return err
			}
			defer admin.Close()
			value, ok := adminv1.Key_Kind_value[strings.ToUpper(kind)]
			if !ok || value == 0 {
				return usageError{fmt.Errorf("--kind must be server or client, not %q", kind)}
			}
			created, err := admin.CreateKey(cmd.Context(), &adminv1.CreateKeyRequest{
				App: g.app, Kind: adminv1.Key_Kind(value), Note: note,
			})
			if err != nil {
				return err
			}
			return g.print(created, func() { fmt.Fprintln(g.out, created.GetSecret()) })
		},
	}
	create.Flags().StringVar(&kind, "kind", "server", "server or client")
	create.Flags().StringVar(&note, "note", "", "what it is for")
	c.AddCommand(create, &cobra.Command{
		Use: "list", Short: "List the keys, without the keys themselves", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := g.administrator()
			if err != nil {
				return err
			}
			defer admin.Close()
			keys, err := admin.ListKeys(cmd.Context(), &adminv1.ListKeysRequest{App: g.app})
			if err != nil {
				return err
			}
			return g.print(keys, func() {
				rows := [][]string{{"ID", "KIND", "PREFIX", "NOTE", "CREATED", "REVOKED"}}
				for _, k := range keys.GetKeys() {
					rows = append(rows, []string{
						k.GetKeyId(), k.GetKind().String(), k.GetPrefix() + "…", dash(k.GetNote()), at(k.GetCreatedAt()), at(k.GetRevokedAt()),
					})
				}
				_ = table(g.out, rows) // a terminal that is gone cannot be told
			})
		},
	}, &cobra.Command{
		Use: "revoke KEY_ID", Short: "Make a key void", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := g.administrator()
			if err != nil {
				return err
			}
			defer admin.Close()
			_, err = admin.RevokeKey(cmd.Context(), &adminv1.RevokeKeyRequest{App: g.app, KeyId: args[0]})
			return err
		},
	})
	return c
}
