package cli

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/config"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/server"
	"github.com/posthaste/posthaste/internal/telemetry"
	"github.com/posthaste/posthaste/internal/wire"
)

// devSettings are those of dev.
type devSettings struct {
	settings

	Port  int    `config:"port" desc:"port to listen at, on the loopback interface"`
	Quota string `config:"quota" desc:"plan whose limits apply: payg, pro or free; empty for none"`
}

// serveSettings are those of serve.
type serveSettings struct {
	settings

	Listen string `config:"listen" desc:"addresses to listen at, separated by commas"`
}

// env returns a variable of the environment the program was started with.
func (a *app) env(name string) string {
	for _, kv := range a.environ {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}

func (a *app) devCommand() *cobra.Command {
	defaults := devSettings{Port: 8080}
	defaults.settings, _ = presetDefaults("standard", true)
	var file string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a server for development: known credentials, no set-up, in memory unless --data is given",
		Long: "Run a server for development. It has the credentials that qstash client libraries expect of a local server, keeps\n" +
			"everything in memory unless --data is given, and delivers to this machine. Never use it in production.",
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	fs.StringVar(&file, "config", "", "YAML file with settings")
	fs.Int("log-port", 0, "accepted and ignored")
	fs.MarkHidden("log-port") //nolint:errcheck // the flag exists
	config.Bind(fs, &defaults)
	completeValues(cmd, flagValues)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s := devSettings{Port: 8080}
		environ := a.environ
		for from, to := range map[string]string{"QSTASH_DEV_PORT": "POSTHASTE_PORT", "QSTASH_DEV_QUOTA": "POSTHASTE_QUOTA"} {
			if v := a.env(from); v != "" && a.env(to) == "" {
				environ = append(environ, to+"="+v)
			}
		}
		if err := load(&s.settings, &s, fs, file, environ, true); err != nil {
			return err
		}
		return a.dev(cmd.Context(), s)
	}
	cmd.AddCommand(a.advanceCommand())
	return cmd
}

// load fills v, of which common is a part: first the preset is found out, then the rest on top of its defaults.
func load(common *settings, v any, fs *pflag.FlagSet, file string, environ []string, dev bool) error {
	p := preset{Preset: "standard"}
	if err := config.Peek(&p, fs, file, environ); err != nil {
		return err
	}
	defaults, err := presetDefaults(p.Preset, dev)
	if err != nil {
		return err
	}
	*common = defaults
	return config.Load(v, fs, file, environ)
}

func (a *app) dev(ctx context.Context, s devSettings) error {
	if s.Port < 0 || s.Port >= 1<<16 {
		return posthaste.Errorf(posthaste.CodeInvalid, "port: %d is no port: 1 to 65535, or 0 for any that is free", s.Port)
	}
	if _, ok := directory.PlanByName(s.Quota); !ok {
		return posthaste.Errorf(posthaste.CodeInvalid, "quota: %q is none of %s", s.Quota, directory.PlanNames())
	}
	cfg, err := s.server(true)
	if err != nil {
		return err
	}
	cfg.Listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
	cfg.Logger = telemetry.NewLogger(a.err, s.Log)
	cfg.Hook = a.hook
	cfg.EnsureUsers = true // a start that was cut off may have made some of them only
	for i, u := range wire.DevUsers() {
		name := "defaultUser"
		if i > 0 {
			name = fmt.Sprintf("testUser%d", i)
		}
		cfg.Users = append(cfg.Users, broker.NewTenant{Name: name, Plan: s.Quota, Token: u.Token, Keys: u.Keys})
	}
	srv, err := server.New(ctx, cfg)
	if err != nil {
		return err
	}
	return explain(srv.Run(ctx, func() {
		fmt.Fprint(a.out, banner("http://"+srv.Addr().String(), cfg.Console)) //nolint:errcheck // the server runs all the same
	}), cfg.Listen, "--port")
}

func (a *app) serveCommand() *cobra.Command {
	defaults := serveSettings{Listen: ":8080"}
	defaults.settings, _ = presetDefaults("standard", false)
	defaults.Data = defaultData
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server for production",
		Long: "Run a server for production. At its first start it creates a tenant, a token (that of POSTHASTE_TOKEN, or one that is\n" +
			"printed once) and signing keys (those of POSTHASTE_CURRENT_SIGNING_KEY and POSTHASTE_NEXT_SIGNING_KEY, or new ones).",
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	fs.StringVar(&file, "config", "", "YAML file with settings")
	config.Bind(fs, &defaults)
	completeValues(cmd, flagValues)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s := serveSettings{Listen: ":8080"}
		if err := load(&s.settings, &s, fs, file, a.environ, false); err != nil {
			return err
		}
		if s.Store == "" && s.Data == "" {
			s.Data = defaults.Data
		}
		return a.serve(cmd.Context(), s)
	}
	return cmd
}

func (a *app) serve(ctx context.Context, s serveSettings) error {
	cfg, err := s.server(false)
	if err != nil {
		return err
	}
	cfg.Listen = s.Listen
	cfg.Logger = telemetry.NewLogger(a.err, s.Log)
	cfg.Hook = a.hook
	first := broker.NewTenant{
		Token: a.env("POSTHASTE_TOKEN"),
		Keys:  posthaste.SigningKeys{Current: a.env("POSTHASTE_CURRENT_SIGNING_KEY"), Next: a.env("POSTHASTE_NEXT_SIGNING_KEY")},
	}
	given := first.Token != ""
	for _, u := range wire.DevUsers() {
		cfg.Forbidden = append(cfg.Forbidden, u.Token)
		if first.Token == u.Token {
			return posthaste.Errorf(posthaste.CodeInvalid, "POSTHASTE_TOKEN is a token of the development server, which everybody knows: choose another one")
		}
		for _, known := range []string{u.Keys.Current, u.Keys.Next} {
			if first.Keys.Current == known || first.Keys.Next == known {
				return posthaste.Errorf(posthaste.CodeInvalid, "the signing keys are those of the development server, which everybody knows: choose others")
			}
		}
	}
	cfg.Users = []broker.NewTenant{first}
	srv, err := server.New(ctx, cfg)
	if err != nil {
		return err
	}
	for _, t := range srv.Created() {
		token := "the token is that of POSTHASTE_TOKEN"
		if !given {
			token = "QSTASH_TOKEN=" + t.Token
		}
		fmt.Fprintf(a.out, "Created tenant %d. This is shown once:\n%s\nQSTASH_CURRENT_SIGNING_KEY=%s\nQSTASH_NEXT_SIGNING_KEY=%s\n", //nolint:errcheck // the server runs all the same
			t.ID, token, t.Keys.Current, t.Keys.Next)
	}
	return explain(srv.Run(ctx, func() {
		fmt.Fprintf(a.out, "Posthaste is running at http://%s\n", srv.Addr()) //nolint:errcheck // the server runs all the same
	}), cfg.Listen, "--listen")
}
