// Package cli is the command line: dev and serve run a server, token, tenant and migrate open the store themselves.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// app is one run of the program.
type app struct {
	out, err io.Writer
	environ  []string
	// hook is called at named points of the server; crash tests set it.
	hook func(point string)
}

// Main runs the command line and returns the exit status.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("GOGC") == "" {
		// A server holds little beside its caches, so that the collector would run after every few thousand messages.
		debug.SetGCPercent(400)
	}
	return Run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
}

// Run runs the command line with the given arguments and environment and returns the exit status.
func Run(ctx context.Context, args, environ []string, out, errOut io.Writer) int {
	a := &app{out: out, err: errOut, environ: environ, hook: testHook()}
	root := &cobra.Command{
		Use:   "posthaste",
		Short: "A self-hosted server for the QStash HTTP API",
		Long: "Posthaste is a self-hosted server for the QStash HTTP API: publish a message with one HTTP request; it is stored\n" +
			"durably and delivered by HTTP, signed, with retries. Client libraries for qstash run against it unmodified.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetArgs(normalize(args))
	root.AddCommand(a.devCommand(), a.serveCommand(), a.tokenCommand(), a.tenantCommand(), a.migrateCommand(), a.moveCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		for _, line := range lines(err) {
			fmt.Fprintln(errOut, "posthaste:", line) //nolint:errcheck // nothing can be told if this cannot
		}
		return 1
	}
	return 0
}

// lines splits joined errors.
func lines(err error) []string {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) && err.Error() == fmt.Sprint(joined) {
		var out []string
		for _, e := range joined.Unwrap() {
			out = append(out, lines(e)...)
		}
		return out
	}
	return []string{err.Error()}
}

var singleDash = regexp.MustCompile(`^-([a-z][a-z-]+)(=.*)?$`)

// normalize accepts the spelling of long flags with a single dash, as programs of Go's flag package have it.
func normalize(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		if singleDash.MatchString(arg) {
			arg = "-" + arg
		}
		out[i] = arg
	}
	return out
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "development"
}
