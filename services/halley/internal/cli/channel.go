package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/client"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	"github.com/halleypush/halley/services/halley/internal/simulator"
)

func newChannel(g *globals) *cobra.Command {
	c := group("channel", "Set and show an app's credentials for phone makers' push services (admin; --app names the app)")
	set := group("set", "Give an app a credential for a channel")
	set.Long = `Gives the app a credential for a channel, in place of the one it has. A sender of the channel tries it out before it is
used, and says which field is wrong. docs/channels says where the fields of a credential are found with each vendor.`
	set.Example = `  halley channel set apns --app shop --bundle-id com.example.shop --key AuthKey.p8 --key-id ABCDE12345 --team-id TEAM123456
  halley channel set huawei --app shop --credential huawei.json`
	for _, name := range channel.Vendors() {
		set.AddCommand(newChannelSet(g, name))
	}
	list := &cobra.Command{
		Use: "list", Short: "List the app's channels, without their credentials", Args: cobra.NoArgs,
		RunE: g.ofApp(func(cmd *cobra.Command, admin *client.Admin, _ []string) error {
			all, err := admin.ListChannels(cmd.Context(), &adminv1.ListChannelsRequest{App: g.app})
			if err != nil {
				return err
			}
			return g.print(all, func() {
				rows := [][]string{{"CHANNEL", "SET", "EXPIRES", "CHECKED", "NOTE"}}
				for _, c := range all.GetChannels() {
					rows = append(rows, []string{c.GetChannel(), at(c.GetSetAt()), at(c.GetExpiresAt()), checked(c), dash(c.GetNote())})
				}
				_ = table(g.out, rows) // a terminal that is gone cannot be told
			})
		}),
	}
	get := &cobra.Command{
		Use: "get CHANNEL", Short: "Show one of the app's channels, without its credential", Args: cobra.ExactArgs(1),
		RunE: g.ofApp(func(cmd *cobra.Command, admin *client.Admin, args []string) error {
			got, err := admin.GetChannel(cmd.Context(), &adminv1.GetChannelRequest{App: g.app, Channel: args[0]})
			if err != nil {
				return err
			}
			return g.showChannel(got.GetChannel())
		}),
	}
	remove := &cobra.Command{
		Use: "delete CHANNEL", Short: "Take the app's credential for a channel away; what its sender has at hand fails", Args: cobra.ExactArgs(1),
		RunE: g.ofApp(func(cmd *cobra.Command, admin *client.Admin, args []string) error {
			_, err := admin.DeleteChannel(cmd.Context(), &adminv1.DeleteChannelRequest{App: g.app, Channel: args[0]})
			return err
		}),
	}
	c.AddCommand(set, get, list, remove)
	return c
}

// newChannelSet makes `halley channel set CHANNEL`, with a flag for each field of the channel's credential.
func newChannelSet(g *globals, name string) *cobra.Command {
	var (
		file, control, receipts string
		unchecked               bool
	)
	fields := credentialFields(name)
	c := &cobra.Command{Use: name, Short: "Give an app a credential for " + name, Args: cobra.NoArgs}
	f := c.Flags()
	for _, field := range fields {
		f.String(field.flag(), "", field.usage())
	}
	f.StringVar(&file, "credential", "", "`file` with the whole credential, a JSON object; other flags go before its fields")
	f.StringVar(&control, "simulator", "", "take what a vendor simulator's console gives out; the `URL` of the control API")
	f.StringVar(&receipts, "receipts", "", "with --simulator: the `URL` of the sender, for receipts (default: public_url, or HALLEY_URL)")
	f.BoolVar(&unchecked, "unchecked", false, "use it without a check, because no sender of the channel runs yet")
	c.RunE = g.ofApp(func(cmd *cobra.Command, admin *client.Admin, _ []string) error {
		credential, err := map[string]any{}, error(nil)
		switch {
		case file != "" && control != "":
			err = usageError{errors.New("--credential and --simulator: give one of them")}
		case file != "":
			credential, err = readCredential(file)
		case control != "":
			credential, err = simulator.At(control).Credential(cmd.Context(), name, g.app)
		}
		if err == nil {
			err = putFlags(credential, f, fields)
		}
		if err != nil {
			return err
		}
		if len(credential) == 0 {
			return usageError{fmt.Errorf("what is the credential? see %s --help", cmd.CommandPath())}
		}
		set, err := setChannel(cmd.Context(), admin, g.app, name, credential, unchecked)
		if err == nil && control != "" {
			err = sendReceipts(cmd.Context(), simulator.At(control), g.app, set, cmp.Or(receipts, g.http))
		}
		if err != nil {
			return err
		}
		return g.showChannel(set)
	})
	return c
}

// ofApp is what the channel commands have in common: they are an administrator's, and about one app.
func (g *globals) ofApp(run func(*cobra.Command, *client.Admin, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		admin, err := g.administrator()
		if err != nil {
			return err
		}
		defer admin.Close()
		if g.app == "" {
			return usageError{errors.New("an app is needed: --app, HALLEY_APP, or the data folder of a halley up")}
		}
		return run(cmd, admin, args)
	}
}

func setChannel(
	ctx context.Context, admin *client.Admin, app, name string, credential map[string]any, unchecked bool,
) (*adminv1.Channel, error) {
	fields, err := structpb.NewStruct(credential)
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	set, err := admin.SetChannel(ctx, &adminv1.SetChannelRequest{
		App: app, Channel: name, Credential: fields, Unchecked: unchecked,
	})
	return set.GetChannel(), err
}

// sendReceipts has a simulated vendor send its receipts, if it sends any. base goes before URLs that are only paths.
func sendReceipts(ctx context.Context, s *simulator.Simulators, app string, c *adminv1.Channel, base string) error {
	url := c.GetReceiptUrl()
	if strings.HasPrefix(url, "/") {
		url = strings.TrimSuffix(base, "/") + url
	}
	if !strings.Contains(url, "://") { // none are sent, or nobody says where to
		return nil
	}
	return s.SendReceipts(ctx, c.GetChannel(), app, url)
}

func (g *globals) showChannel(c *adminv1.Channel) error {
	return g.print(c, func() {
		fmt.Fprintf(g.out, "channel      %s\nset          %s\nexpires      %s\nchecked      %s\nnote         %s\nreceipt URL  %s\n",
			c.GetChannel(), at(c.GetSetAt()), at(c.GetExpiresAt()), checked(c), dash(c.GetNote()), dash(c.GetReceiptUrl()))
	})
}

func checked(c *adminv1.Channel) string {
	if c.GetUnchecked() {
		return "no"
	}
	return "yes"
}
