// Command posthaste is a self-hosted server for the QStash HTTP API.
package main

import (
	"os"
	_ "time/tzdata" // schedules name time zones, and a small image may have no files of them

	"github.com/posthaste/posthaste/internal/cli"
)

func main() { os.Exit(cli.Main()) }
