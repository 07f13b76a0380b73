package driver

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// metric is a figure of a trial.
type metric struct {
	key    string
	label  string
	digits int
}

// metrics are all figures, in the order of the tables. Latencies are in milliseconds.
var metrics = []metric{
	{"rate", "delivered, messages/s", 0},
	{"relay_ratio", "  ratio to the relay", 3},
	{"stored_single", "stored, messages/s, a request each", 0},
	{"stored_batch", "stored, messages/s, in batches", 0},
	{"batch_ratio", "  ratio", 2},
	{"stored_single_cpu_us", "server CPU, µs/stored message, a request each", 1},
	{"stored_batch_cpu_us", "server CPU, µs/stored message, in batches", 1},
	{"delivered_single", "stored and delivered, messages/s, a request each", 0},
	{"delivered_batch", "stored and delivered, messages/s, in batches", 0},
	{"fill_rate", "filled, messages/s", 0},
	{"store_bytes", "store, bytes/waiting message", 0},
	{"rate_empty", "delivered, messages/s, an empty store beside it", 0},
	{"rate_full", "delivered, messages/s, with what waits", 0},
	{"full_ratio", "  ratio", 3},
	{"stop_ms", "stop, ms", 0},
	{"ready_ms", "start until ready, ms", 0},
	{"startup_ms", "start until the first delivery, ms", 0},
	{"drained_rate", "delivered of what waited after a resume, messages/s", 0},
	{"calm_p50_ms", "publish to delivery p50 while all hosts answer, ms", 3},
	{"calm_p99_ms", "publish to delivery p99 while all hosts answer, ms", 3},
	{"hang_p50_ms", "the same of the others while one hangs, p50, ms", 3},
	{"hang_p99_ms", "the same of the others while one hangs, p99, ms", 3},
	{"hang_ratio", "  ratio of the p99", 2},
	{"accepted_rate", "accepted, messages/s", 0},
	{"recovered_ms", "last delivery after the trouble, ms", 0},
	{"accept_p50_ms", "accept p50, ms", 3},
	{"accept_p99_ms", "accept p99, ms", 3},
	{"accept_p999_ms", "accept p99.9, ms", 3},
	{"delivery_p50_ms", "publish to delivery p50, ms", 3},
	{"delivery_p99_ms", "publish to delivery p99, ms", 3},
	{"delivery_p999_ms", "publish to delivery p99.9, ms", 3},
	{"synced_write_ms", "synced write of the disk, ms", 3},
	{"delivery_writes", "delivery p50, in synced writes", 2},
	{"delivery_writes_above_relay", "  the same, above the relay's", 2},
	{"late_p50_ms", "late p50, ms", 2},
	{"late_p99_ms", "late p99, ms", 2},
	{"late_max_ms", "late max, ms", 2},
	{"late_error_ms", "  known to within ± (p99), ms", 2},
	{"early", "delivered before due", 0},
	{"published_after_due", "published after due", 0},
	{"send_lag_p99_ms", "generator behind p99, ms", 3},
	{"server_cpu_us", "server CPU, µs/message", 1},
	{"store_cpu_us", "store CPU, µs/message", 1},
	{"both_cpu_us", "server and store CPU, µs/message", 1},
	{"cpu_ratio", "  ratio to the relay's", 2},
	{"load_cpu_us", "load and sink CPU, µs/message", 1},
	{"load_cpu_share", "  share of all CPU, %", 1},
	{"other_cpu_share", "machine taken by other processes, %", 1},
	{"peak_memory_mib", "peak memory, MiB", 1},
	{"restarted_peak_memory_mib", "peak memory after the restart, MiB", 1},
	{"store_peak_memory_mib", "peak memory of the store, MiB", 1},
	{"written_bytes", "written, bytes/message", 0},
	{"commits", "synced commits/message", 3},
	{"flushes", "flushes of the disk (by anybody)/message", 3},
	{"rejected", "refused for now (429, 503)", 0},
	{"silent", "  without Retry-After", 0},
	{"failed", "failed publishes", 0},
	{"strays", "unknown deliveries", 0},
	{"lost", "lost", 0},
	{"duplicated", "duplicated", 0},
}

// Values holds the figures of a trial by their key. A figure that was not to be had is absent.
type Values map[string]float64

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Trial is one run of one system.
type Trial struct {
	System string `json:"system"`
	Round  int    `json:"round"`
	Values Values `json:"values"`
}

// Spread is a figure over the rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Group is the trials that ran under the same conditions.
type Group struct {
	Title       string  `json:"title"`
	Mode        string  `json:"mode"`
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate,omitempty"`
	Messages    int     `json:"messages"`
	// Pending is the number of messages that wait meanwhile, and Queues in how many queues.
	Pending int     `json:"pending,omitempty"`
	Queues  int     `json:"queues,omitempty"`
	Trials  []Trial `json:"trials"`
	// Summary holds the spread of each figure by system and key.
	Summary map[string]map[string]Spread `json:"summary"`
}

// System is a compared system.
type System struct {
	Name       string `json:"name"`
	Version    string `json:"version,omitempty"`
	Durability string `json:"durability"`
}

// Machine says where the figures are from.
type Machine struct {
	OS     string `json:"os"`
	Kernel string `json:"kernel,omitempty"`
	Arch   string `json:"arch"`
	CPU    string `json:"cpu,omitempty"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"`
}

// Disk is the probe of the data directory: a 4 KiB write and fdatasync.
type Disk struct {
	Dir    string  `json:"dir"`
	Writes int     `json:"writes"`
	P50    float64 `json:"syncedWriteP50Ms"`
	P99    float64 `json:"syncedWriteP99Ms"`
	// Rounds holds the median of each reading.
	Rounds []float64 `json:"readingsP50Ms"`
}

// Report is everything a run found out.
type Report struct {
	Started   time.Time `json:"started"`
	Seconds   float64   `json:"seconds"`
	Machine   Machine   `json:"machine"`
	BodyBytes int       `json:"bodyBytes"`
	Rounds    int       `json:"rounds"`
	Systems   []System  `json:"systems"`
	Disk      Disk      `json:"disk"`
	Groups    []*Group  `json:"groups"`
	// Faults are the losses, duplicates and other things that must not happen.
	Faults []string `json:"faults"`
}

// WriteJSON writes the report to a file.
func (r *Report) WriteJSON(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// summarize fills g.Summary.
func (g *Group) summarize() {
	all := map[string]map[string][]float64{}
	for _, t := range g.Trials {
		if all[t.System] == nil {
			all[t.System] = map[string][]float64{}
		}
		for k, v := range t.Values {
			all[t.System][k] = append(all[t.System][k], v)
		}
	}
	g.Summary = map[string]map[string]Spread{}
	for s, keys := range all {
		g.Summary[s] = map[string]Spread{}
		for k, v := range keys {
			g.Summary[s][k] = Spread{Median: median(v), Min: slices.Min(v), Max: slices.Max(v)}
		}
	}
}

// relate gives each trial of the last round its relation to the relay's trial of that round.
func (g *Group) relate(relay string, round int) {
	var base Values
	for _, t := range g.Trials {
		if t.Round == round && t.System == relay {
			base = t.Values
		}
	}
	for _, t := range g.Trials {
		if t.Round != round || t.System == relay || base == nil {
			continue
		}
		if b := base["rate"]; g.Mode == modeClosed && b > 0 {
			t.Values["relay_ratio"] = t.Values["rate"] / b
		}
		cpu, ok := t.Values["both_cpu_us"]
		if !ok {
			cpu = t.Values["server_cpu_us"]
		}
		if b := base["server_cpu_us"]; g.Mode == modeClosed && b > 0 {
			t.Values["cpu_ratio"] = cpu / b
		}
		if unit := t.Values["synced_write_ms"]; g.Mode == modeLatency && unit > 0 {
			t.Values["delivery_writes_above_relay"] = (t.Values["delivery_p50_ms"] - base["delivery_p50_ms"]) / unit
		}
	}
}

// write prints the group as a table: a row for each figure, a column for each system.
func (g *Group) write(w io.Writer, systems []System) {
	rounds := 0
	for _, t := range g.Trials {
		rounds = max(rounds, t.Round)
	}
	rows := [][]string{{""}}
	for _, s := range systems {
		rows[0] = append(rows[0], s.Name)
	}
	for _, m := range metrics {
		row, found := []string{m.label}, false
		for _, s := range systems {
			spread, ok := g.Summary[s.Name][m.key]
			found = found || ok
			cell := "–"
			if ok {
				cell = format(spread.Median, m.digits)
				if rounds > 1 && spread.Min != spread.Max {
					cell += " [" + format(spread.Min, m.digits) + "–" + format(spread.Max, m.digits) + "]"
				}
			}
			row = append(row, cell)
		}
		if found {
			rows = append(rows, row)
		}
	}
	_, _ = fmt.Fprintf(w, "\n%s\n", g.Title)
	writeRows(w, rows)
}

// writeRows prints rows with aligned columns, the first to the left and the others to the right.
func writeRows(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 0 {
				b.WriteString("  " + cell + pad)
			} else {
				b.WriteString("   " + pad + cell)
			}
		}
		_, _ = fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

func format(v float64, digits int) string {
	if v != 0 && math.Abs(v) < 10 && digits == 0 && v != math.Trunc(v) {
		digits = 1
	}
	return fmt.Sprintf("%.*f", digits, v)
}

// thisMachine describes the machine, as far as the system tells.
func thisMachine() Machine {
	m := Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	return m
}
