package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/server"
	"github.com/posthaste/posthaste/internal/store"
)

// A target is the store that a command opens itself.
type target struct {
	data, store, execMode string
}

func (t *target) bind(fs *pflag.FlagSet) {
	fs.StringVar(&t.data, "data", "", "the SQLite file (default posthaste.db)")
	t.bindDatabase(fs)
}

func (t *target) bindDatabase(fs *pflag.FlagSet) {
	fs.StringVar(&t.store, "store", "", "the PostgreSQL database; better given as POSTHASTE_STORE if it has a password")
	fs.StringVar(&t.execMode, "pg-exec-mode", "", "how statements are sent to the database")
}

// database returns the database of the flags or, without one and without a file among them, that of the environment.
func (a *app) database(t *target) server.Database {
	d := server.Database{URL: t.store, ExecMode: t.execMode}
	if d.URL == "" && t.data == "" {
		d.URL = a.env("POSTHASTE_STORE")
	}
	if d.ExecMode == "" {
		d.ExecMode = a.env("POSTHASTE_PG_EXEC_MODE")
	}
	return d
}

// open opens the store, beside running servers or without one.
func (a *app) open(ctx context.Context, t *target) (store.Engine, error) {
	d := a.database(t)
	switch {
	case d.URL != "" && t.data != "":
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "data and store are both set: name one of them")
	case d.URL != "":
		return server.OpenDatabase(ctx, d)
	}
	data := t.data
	if data == "" {
		if data = a.env("POSTHASTE_DATA"); data == "" {
			data = defaultData
		}
	}
	return server.OpenStore(ctx, data)
}

// withAdmin opens the store and runs f on it.
func (a *app) withAdmin(ctx context.Context, t *target, f func(*broker.Admin) error) error {
	engine, err := a.open(ctx, t)
	if err != nil {
		return err
	}
	defer engine.Close() //nolint:errcheck // what f did is committed
	return f(broker.NewAdmin(engine))
}

func (a *app) tenantCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "tenant", Short: "Create, list and change tenants, directly in the store"}
	var in target
	in.bind(cmd.PersistentFlags())
	var name, plan string
	create := &cobra.Command{
		Use: "create", Short: "Create a tenant with a token and signing keys, which are shown once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAdmin(cmd.Context(), &in, func(admin *broker.Admin) error {
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
			return a.withAdmin(cmd.Context(), &in, func(admin *broker.Admin) error {
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
			return a.withAdmin(cmd.Context(), &in, func(admin *broker.Admin) error {
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
	var in target
	in.bind(cmd.PersistentFlags())
	id := cmd.PersistentFlags().Int64("tenant", 1, "the tenant's number")
	var name, scope string
	create := &cobra.Command{
		Use: "create", Short: "Create a token, which is shown once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAdmin(cmd.Context(), &in, func(admin *broker.Admin) error {
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
			return a.withAdmin(cmd.Context(), &in, func(admin *broker.Admin) error {
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
			return a.withAdmin(cmd.Context(), &in, func(admin *broker.Admin) error {
				return admin.RevokeToken(cmd.Context(), posthaste.TenantID(*id), args[0])
			})
		},
	}
	cmd.AddCommand(create, list, revoke)
	return cmd
}

func (a *app) migrateCommand() *cobra.Command {
	var in target
	var shards int
	cmd := &cobra.Command{
		Use: "migrate", Short: "Create or upgrade the schema of a PostgreSQL database", Args: cobra.NoArgs,
		Long: "Create or upgrade the schema of a PostgreSQL database. Servers do so at their start unless they run with --no-migrate.\n" +
			"It may be done while servers of the release before run.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.database(&in)
			if d.URL == "" {
				return posthaste.Errorf(posthaste.CodeInvalid, "no database is named: give --store or POSTHASTE_STORE")
			}
			d.Shards = shards
			n, err := server.Migrate(cmd.Context(), d)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "The schema is up to date, with %d shards.\n", n)
			return err
		},
	}
	in.bindDatabase(cmd.Flags())
	cmd.Flags().IntVar(&shards, "shards", 0, "number of shards of a new schema, which never changes later (default 4)")
	return cmd
}

func (a *app) moveCommand() *cobra.Command {
	var from, to, mode string
	var shards int
	cmd := &cobra.Command{
		Use: "move --from FILE --to postgres://…", Short: "Copy everything from a data file into an empty PostgreSQL database", Args: cobra.NoArgs,
		Long: "Copy everything from a data file into an empty PostgreSQL database: tenants, tokens, schedules, what is pending, dead letters\n" +
			"and the log. Stop the server first; then start servers with --store. The file stays as it is.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || to == "" {
				return posthaste.Errorf(posthaste.CodeInvalid, "both --from and --to are needed")
			}
			n, err := server.Move(cmd.Context(), from, server.Database{URL: to, ExecMode: mode, Shards: shards})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "Moved %d tenants, %d messages of which %d are pending, and %d dead letters.\n", n.Tenants, n.Messages, n.Pending, n.DeadLetters)
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the SQLite file")
	cmd.Flags().StringVar(&to, "to", "", "the PostgreSQL database")
	cmd.Flags().StringVar(&mode, "pg-exec-mode", "", "how statements are sent to the database")
	cmd.Flags().IntVar(&shards, "shards", 0, "number of shards of a new schema, which never changes later (default 4)")
	return cmd
}
