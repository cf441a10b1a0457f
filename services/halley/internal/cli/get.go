package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

func newGet(g *globals) *cobra.Command {
	c := group("get", "Show a push, its deliveries, or a device")
	c.AddCommand(&cobra.Command{
		Use: "push PUSH_ID", Short: "Show a push and how far it has got", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			business, err := g.business()
			if err != nil {
				return err
			}
			defer business.Close()
			push, err := business.GetPush(cmd.Context(), g.app, args[0])
			if err != nil {
				return err
			}
			return g.print(push, func() { g.showPush(push) })
		},
	}, newGetDeliveries(g), newGetPushes(g), &cobra.Command{
		Use: "device TOKEN", Short: "Show a device", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			business, err := g.business()
			if err != nil {
				return err
			}
			defer business.Close()
			response, err := business.Devices().GetDevice(cmd.Context(), &pushv1.GetDeviceRequest{App: g.app, Device: args[0]})
			if err != nil {
				return err
			}
			return g.print(response.GetDevice(), func() { g.showDevice(response.GetDevice()) })
		},
	})
	return c
}

func newGetPushes(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "pushes", Short: "List the app's pushes, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			business, err := g.business()
			if err != nil {
				return err
			}
			defer business.Close()
			all := &pushv1.ListPushesResponse{}
			for p, err := range business.ListPushes(cmd.Context(), &pushv1.ListPushesRequest{App: g.app, PageSize: int32(min(limit, 100))}) {
				if err != nil {
					return err
				}
				if len(all.Pushes) == limit {
					break
				}
				all.Pushes = append(all.Pushes, p)
			}
			return g.print(all, func() {
				for _, p := range all.GetPushes() {
					fmt.Fprintf(g.out, "%s  %s  %-8s  %s  %s\n", p.GetPushId(), at(p.GetCreatedAt()), p.GetState(),
						funnel(p.GetCounts()), p.GetNotification().GetTitle())
				}
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 20, "at most so many")
	return c
}

func (g *globals) showPush(p *pushv1.Push) {
	fmt.Fprintf(g.out, "push      %s\nstate     %s\ncreated   %s\nexpires   %s\n", p.GetPushId(), p.GetState(), at(p.GetCreatedAt()),
		at(p.GetExpiresAt()))
	if n := p.GetNotification(); n != nil {
		fmt.Fprintf(g.out, "title     %s\nbody      %s\n", n.GetTitle(), n.GetBody())
	}
	for k, v := range p.GetData() {
		fmt.Fprintf(g.out, "data      %s=%s\n", k, v)
	}
	if p.GetPayload() != "" {
		fmt.Fprintf(g.out, "payload   %s\n", p.GetPayload())
	}
	fmt.Fprintf(g.out, "counts    %s\n", funnel(p.GetCounts()))
}

func newGetDeliveries(g *globals) *cobra.Command {
	var device, state string
	var limit int
	c := &cobra.Command{
		Use: "deliveries PUSH_ID", Short: "Show what became of a push, device by device", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			business, err := g.business()
			if err != nil {
				return err
			}
			defer business.Close()
			value, ok := pushv1.Delivery_State_value[strings.ToUpper(state)]
			if state != "" && !ok {
				return usageError{fmt.Errorf("--state: there is no state %q", state)}
			}
			all := &pushv1.ListDeliveriesResponse{}
			for d, err := range business.ListDeliveries(cmd.Context(), &pushv1.ListDeliveriesRequest{
				App: g.app, PushId: args[0], Device: device, State: pushv1.Delivery_State(value),
			}) {
				if err != nil {
					return err
				}
				if len(all.Deliveries) == limit {
					break
				}
				all.Deliveries = append(all.Deliveries, d)
			}
			return g.print(all, func() {
				rows := [][]string{{"DEVICE", "USER", "CHANNEL", "STATE", "REASON", "SENT", "ARRIVED", "ENDED", "ATTEMPTS"}}
				for _, d := range all.GetDeliveries() {
					reason := d.GetReason().String()
					if d.GetReason() == pushv1.Delivery_REASON_UNSPECIFIED {
						reason = ""
					}
					t := d.GetTimes()
					rows = append(rows, []string{
						dash(d.GetDevice()), dash(d.GetUser()), dash(d.GetChannel()), d.GetState().String(), dash(reason), at(t.GetSent()), at(t.GetArrived()),
						at(t.GetEnded()), dash(attempts(d)),
					})
				}
				_ = table(g.out, rows) // a terminal that is gone cannot be told
			})
		},
	}
	c.Flags().StringVar(&device, "device", "", "only this device")
	c.Flags().StringVar(&state, "state", "", "only this state, such as pending")
	c.Flags().IntVar(&limit, "limit", 1000, "at most so many")
	return c
}

// attempts tells of a delivery's attempts in one line, such as "fcm ACCEPTED 200, halley".
func attempts(d *pushv1.Delivery) string {
	var all []string
	for _, a := range d.GetAttempts() {
		one := []string{a.GetChannel()}
		if a.GetOutcome() != pushv1.Delivery_Attempt_OUTCOME_UNSPECIFIED {
			one = append(one, a.GetOutcome().String())
		}
		if a.GetCode() != "" {
			one = append(one, a.GetCode())
		}
		all = append(all, strings.Join(one, " "))
	}
	return strings.Join(all, ", ")
}

func newDevices(g *globals) *cobra.Command {
	var user string
	var limit int
	c := &cobra.Command{
		Use: "devices", Short: "List the app's devices, or a user's", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			business, err := g.business()
			if err != nil {
				return err
			}
			defer business.Close()
			all := &pushv1.ListDevicesResponse{}
			for d, err := range business.ListDevices(cmd.Context(), &pushv1.ListDevicesRequest{App: g.app, User: user}) {
				if err != nil {
					return err
				}
				if len(all.Devices) == limit {
					break
				}
				all.Devices = append(all.Devices, d)
			}
			return g.print(all, func() {
				rows := [][]string{{"TOKEN", "STATE", "ONLINE", "PLATFORM", "MODEL", "APP", "LAST SEEN"}}
				for _, d := range all.GetDevices() {
					rows = append(rows, []string{
						d.GetToken(), d.GetState().String(), yesNo(d.GetOnline()), dash(d.GetPlatform()), dash(d.GetModel()),
						dash(d.GetAppVersion()), at(d.GetLastSeenAt()),
					})
				}
				_ = table(g.out, rows) // a terminal that is gone cannot be told
			})
		},
	}
	c.Flags().StringVar(&user, "user", "", "only the devices of this user")
	c.Flags().IntVar(&limit, "limit", 1000, "at most so many")
	return c
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (g *globals) showDevice(d *pushv1.Device) {
	for _, line := range [][2]string{
		{"token", d.GetToken()},
		{"state", d.GetState().String()},
		{"online", yesNo(d.GetOnline())},
		{"notifications", yesNo(d.GetNotifications())},
		{"users", strings.Join(d.GetUsers(), ", ")},
		{"platform", d.GetPlatform() + " " + d.GetOsVersion()},
		{"model", d.GetBrand() + " " + d.GetModel()},
		{"app version", d.GetAppVersion()},
		{"registered", at(d.GetRegisteredAt())},
		{"last seen", at(d.GetLastSeenAt())},
	} {
		fmt.Fprintf(g.out, "%-14s %s\n", line[0], dash(strings.TrimSpace(line[1])))
	}
	for _, t := range d.GetChannelTokens() {
		fmt.Fprintf(g.out, "%-14s %s …%s (%s)\n", "channel", t.GetChannel(), t.GetTokenSuffix(), t.GetEnvironment())
	}
}

func newUser(g *globals) *cobra.Command {
	c := group("user", "Bind users to devices")
	c.AddCommand(&cobra.Command{
		Use: "bind USER TOKEN", Short: "Bind a device to a user", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			business, err := g.business()
			if err != nil {
				return err
			}
			defer business.Close()
			_, err = business.Users().Bind(cmd.Context(), &pushv1.BindRequest{App: g.app, User: args[0], Device: args[1]})
			return err
		},
	}, &cobra.Command{
		Use: "unbind USER TOKEN", Short: "End a binding", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			business, err := g.business()
			if err != nil {
				return err
			}
			defer business.Close()
			_, err = business.Users().Unbind(cmd.Context(), &pushv1.UnbindRequest{App: g.app, User: args[0], Device: args[1]})
			return err
		},
	})
	return c
}
