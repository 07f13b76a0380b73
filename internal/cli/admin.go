package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/server"
)

// withAdmin opens the store of a data file, beside a running server or without one, and runs f on it.
func (a *app) withAdmin(ctx context.Context, data string, f func(*broker.Admin) error) error {
	if data == "" {
		if data = a.env("POSTHASTE_DATA"); data == "" {
			data = defaultData
		}
	}
	engine, err := server.OpenStore(ctx, data)
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // what f did is committed
	return f(broker.NewAdmin(engine))
}

func (a *app) tenantCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "tenant", Short: "Create, list and change tenants, directly in the store"}
	data := cmd.PersistentFlags().String("data", "", "the SQLite file (default posthaste.db)")
	var name, plan string
	create := &cobra.Command{
		Use: "create", Short: "Create a tenant with a token and signing keys, which are shown once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAdmin(cmd.Context(), *data, func(admin *broker.Admin) error {
				t, err := admin.CreateTenant(cmd.Context(), broker.NewTenant{Name: name, Plan: plan})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(a.out, "Created tenant %d.\nQSTASH_TOKEN=%s\nQSTASH_CURRENT_SIGNING_KEY=%s\nQSTASH_NEXT_SIGNING_KEY=%s\n",
					t.ID, t.Token, t.Keys.Current, t.Keys.Next)
				return err
			})
		},
	}
	create.Flags().StringVar(&name, "name", "default", "name for people")
	create.Flags().StringVar(&plan, "plan", "unlimited", "plan: "+directory.PlanNames())
	list := &cobra.Command{
		Use: "list", Short: "List tenants", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAdmin(cmd.Context(), *data, func(admin *broker.Admin) error {
				tenants, err := admin.Tenants(cmd.Context())
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "ID\tNAME\tPLAN\tCREATED") //nolint:errcheck // Flush tells
				for _, t := range tenants {
					fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", t.ID, t.Name, t.Plan, t.CreatedAt.Format(time.RFC3339)) //nolint:errcheck // Flush tells
				}
				return w.Flush()
			})
		},
	}
	var id int64
	setPlan := &cobra.Command{
		Use: "set-plan PLAN", Short: "Give a tenant another plan: " + directory.PlanNames(), Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withAdmin(cmd.Context(), *data, func(admin *broker.Admin) error {
				return admin.SetPlan(cmd.Context(), posthaste.TenantID(id), args[0])
			})
		},
	}
	setPlan.Flags().Int64Var(&id, "tenant", 1, "the tenant's number")
	cmd.AddCommand(create, list, setPlan)
	return cmd
}

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Create, list and revoke tokens, directly in the store"}
	data := cmd.PersistentFlags().String("data", "", "the SQLite file (default posthaste.db)")
	id := cmd.PersistentFlags().Int64("tenant", 1, "the tenant's number")
	var name, scope string
	create := &cobra.Command{
		Use: "create", Short: "Create a token, which is shown once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAdmin(cmd.Context(), *data, func(admin *broker.Admin) error {
				token, err := admin.CreateToken(cmd.Context(), posthaste.TenantID(*id), name, directory.Scope(scope), "")
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(a.out, "QSTASH_TOKEN=%s\n", token)
				return err
			})
		},
	}
	create.Flags().StringVar(&name, "name", "token", "name for people")
	create.Flags().StringVar(&scope, "scope", string(directory.ScopeFull), "what it allows: full, read or publish")
	list := &cobra.Command{
		Use: "list", Short: "List tokens by the beginnings of their hashes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAdmin(cmd.Context(), *data, func(admin *broker.Admin) error {
				tokens, err := admin.Tokens(cmd.Context(), posthaste.TenantID(*id))
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "HASH\tNAME\tSCOPE\tCREATED") //nolint:errcheck // Flush tells
				for _, t := range tokens {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Hash[:12], t.Name, t.Scope, t.CreatedAt.Format(time.RFC3339)) //nolint:errcheck // Flush tells
				}
				return w.Flush()
			})
		},
	}
	revoke := &cobra.Command{
		Use: "revoke HASH", Short: "Revoke the token whose hash begins so", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withAdmin(cmd.Context(), *data, func(admin *broker.Admin) error {
				return admin.RevokeToken(cmd.Context(), posthaste.TenantID(*id), args[0])
			})
		},
	}
	cmd.AddCommand(create, list, revoke)
	return cmd
}
