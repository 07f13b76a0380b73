package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/devtools"
	"github.com/posthaste/posthaste/internal/wire"
)

// banner is what dev shows once it listens: the variables that client libraries read, where to look, and a first message whose
// delivery shows up in the terminal. JavaScript's library waits for the first line's words.
func banner(url string, console bool) string {
	see := ""
	if console {
		see = "Console  " + url + "/console/\n"
	}
	user := wire.DevUsers()[0]
	return fmt.Sprintf(`Posthaste is running at %[1]s

QSTASH_URL=%[1]s
QSTASH_TOKEN=%[2]s
QSTASH_CURRENT_SIGNING_KEY=%[3]s
QSTASH_NEXT_SIGNING_KEY=%[4]s

%[6]sAPI      %[1]s/docs

Copy the four lines above into a shell, or into your app's .env. Then try:

curl -d '{"hello":"world"}' -H "Authorization: Bearer $QSTASH_TOKEN" \
  $QSTASH_URL/v2/publish/$QSTASH_URL%[5]s

`, url, user.Token, user.Keys.Current, user.Keys.Next, devtools.InboxPath("hello"), see)
}

// addressInUse are the system's words for a port that another program listens at, on Unix and on Windows.
var addressInUse = []string{"address already in use", "Only one usage of each socket address"}

// explain adds to an error at start what can be done about it. option is the flag that says where to listen.
func explain(err error, listen, option string) error {
	if err == nil {
		return nil
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Addr != nil {
		listen = op.Addr.String() // of several
	}
	_, port, _ := net.SplitHostPort(listen)
	for _, words := range addressInUse {
		if strings.Contains(err.Error(), words) {
			other := option + " :" + "8081"
			if option == "--port" {
				other = "--port 8081"
				if n, err := strconv.Atoi(port); err == nil && n < 1<<16-1 {
					other = "--port " + strconv.Itoa(n+1)
				}
			}
			return fmt.Errorf("port %s is taken: another program listens there, perhaps a Posthaste that was started before. Stop it, or choose another port, "+
				"such as %s: address already in use :%s", port, other, port) //nolint:err113 // it ends the program
		}
	}
	if errors.Is(err, syscall.EACCES) && strings.Contains(err.Error(), "listen") {
		return fmt.Errorf("%w. Ports below 1024 are for privileged programs: choose another one with %s", err, option)
	}
	return err
}

// advanceCommand moves the clock of a running development server.
func (a *app) advanceCommand() *cobra.Command {
	var url string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "advance DURATION|MOMENT|next",
		Short: "Move the clock of the running development server forward, from one due moment to the next",
		Long: "Move the clock of the running development server forward. Everything that becomes due on the way happens, in order: retries,\n" +
			"delays, schedules, the ends of windows. The command ends when all of it was attempted.",
		Example: "  posthaste dev advance 6h\n  posthaste dev advance 2026-12-24T09:00:00Z\n  posthaste dev advance next",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := map[string]any{"timeout": timeout.String()}
			switch arg := args[0]; {
			case arg == "next":
				in["next"] = true
			case strings.Contains(arg, "T"):
				in["until"] = arg
			default:
				in["advance"] = arg
			}
			if url == "" {
				if url = a.env("QSTASH_URL"); url == "" {
					url = "http://127.0.0.1:8080"
				}
			}
			return a.moveClock(cmd.Context(), strings.TrimSuffix(url, "/"), in)
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "the server (default $QSTASH_URL, else http://127.0.0.1:8080)")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "time, of the real one, after which the clock stays where it is")
	return cmd
}

func (a *app) moveClock(ctx context.Context, url string, in any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/"+devtools.Prefix+"/clock", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w. Is posthaste dev running? Tell where with --url or QSTASH_URL", err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var out struct {
		Now     time.Time
		NextDue time.Time
		Error   string
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return fmt.Errorf("%s answered %s and no JSON: is it a Posthaste?", url, resp.Status)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return posthaste.Errorf(posthaste.CodeNotFound, "%s has no clock to move: only posthaste dev has one", url)
	case resp.StatusCode != http.StatusOK:
		return posthaste.Errorf(posthaste.CodeInvalid, "%s", out.Error)
	}
	next := "nothing is due later"
	if !out.NextDue.IsZero() {
		next = "due next: " + out.NextDue.Format(time.RFC3339)
	}
	_, err = fmt.Fprintf(a.out, "The clock shows %s; %s.\n", out.Now.Format(time.RFC3339), next)
	return err
}

// completeValues has a shell complete the values of flags that know theirs.
func completeValues(cmd *cobra.Command, values map[string][]string) {
	for flag, list := range values {
		if cmd.Flags().Lookup(flag) == nil {
			continue
		}
		err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
		if err != nil {
			panic(err) // the flag exists, and is registered once
		}
	}
}

// flagValues are the values that flags of dev and serve know.
var flagValues = map[string][]string{
	"preset":       {"standard", "hosted"},
	"quota":        {"payg", "pro", "free"},
	"missed-ticks": {skipMissed, fireMissed},
	"log-level":    {"debug", "info", "warn", "error"},
	"log-format":   {"text", "json"},
	"backoff":      {"standard", "hosted"},
}
