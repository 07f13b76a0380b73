package telemetry_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/telemetry"
)

func TestLoggerText(t *testing.T) {
	var b bytes.Buffer
	log := telemetry.NewLogger(&b, telemetry.LogConfig{})
	log.Debug("hidden")
	log.Info("message accepted", "message_id", "msg_1", "took", 1500*time.Millisecond, slog.Group("g", "time", time.Unix(0, 0).UTC()))
	want := regexp.MustCompile(`^time=\d\d:\d\d:\d\d\.\d{3} level=INFO msg="message accepted" message_id=msg_1 took=1.5s g.time=1970-\S+\n$`)
	if got := b.String(); !want.MatchString(got) {
		t.Errorf("got %q, want a match of %s", got, want)
	}
}

func TestLoggerJSON(t *testing.T) {
	var b bytes.Buffer
	log := telemetry.NewLogger(&b, telemetry.LogConfig{Level: slog.LevelWarn, Format: telemetry.FormatJSON})
	log.Info("hidden")
	log.Warn("slow commit", "took", 1500*time.Millisecond, "operations", 3)
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v: %q", err, b.String())
	}
	if _, err := time.Parse(time.RFC3339Nano, got["time"].(string)); err != nil {
		t.Error(err)
	}
	delete(got, "time")
	want := map[string]any{"level": "WARN", "msg": "slow commit", "took": "1.5s", "operations": 3.0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestFormat(t *testing.T) {
	var f telemetry.Format
	if err := f.UnmarshalText([]byte("json")); err != nil || f != telemetry.FormatJSON {
		t.Errorf("got %q, %v, want json", f, err)
	}
	if err := f.UnmarshalText([]byte("xml")); err == nil || f != telemetry.FormatJSON {
		t.Errorf("got %q, %v, want an error that changes nothing", f, err)
	}
}

// scrape returns the series of the project, without the buckets of histograms.
func scrape(t *testing.T, m *telemetry.Metrics) map[string]string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("got status %d, want 200: %s", rec.Code, rec.Body)
	}
	got := make(map[string]string)
	for line := range strings.Lines(rec.Body.String()) {
		i := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "posthaste_") && !strings.Contains(line, "_bucket{") {
			got[line[:i]] = strings.TrimSpace(line[i:])
		}
	}
	return got
}

func TestMetrics(t *testing.T) {
	m := telemetry.NewMetrics(telemetry.MetricsConfig{Version: "1.2.3", Outcomes: []string{"delivered", "timeout"}})
	m.Accepted(3)
	m.DeliveryStarted(250 * time.Millisecond)
	m.DeliveryStarted(-time.Second)
	m.DeliveryStarted(0)
	m.DeliveryEnded("delivered", time.Second)
	m.DeliveryEnded("surprise", time.Second)
	m.DeadLettered(2)
	m.Ticked(4)
	m.Committed(7, 2*time.Second)
	m.CommitFailed()
	m.RequestServed("POST /v2/publish/{destination...}", 200, time.Second)
	m.RequestServed("POST /v2/publish/{destination...}", 200, time.Second)
	m.RequestServed("POST /v2/publish/{destination...}", 400, time.Second)
	m.RequestServed("", 404, 0)
	m.Gauge("posthaste_body_bytes", "Bytes of request bodies in memory.", func() float64 { return 42 })

	got := scrape(t, m)
	for name := range got {
		if strings.HasPrefix(name, "posthaste_build_info") {
			if !strings.Contains(name, `version="1.2.3"`) {
				t.Errorf("got %s, want the version", name)
			}
			delete(got, name)
		}
	}
	want := map[string]string{
		`posthaste_accepted_total`:                        "3",
		`posthaste_in_flight`:                             "1",
		`posthaste_lateness_seconds_count`:                "3",
		`posthaste_lateness_seconds_sum`:                  "0.25",
		`posthaste_delivery_duration_seconds_count`:       "2",
		`posthaste_delivery_duration_seconds_sum`:         "2",
		`posthaste_deliveries_total{outcome="delivered"}`: "1",
		`posthaste_deliveries_total{outcome="timeout"}`:   "0",
		`posthaste_deliveries_total{outcome="other"}`:     "1",
		`posthaste_dead_letters_total`:                    "2",
		`posthaste_schedule_ticks_total`:                  "4",
		`posthaste_commits_total`:                         "1",
		`posthaste_commit_errors_total`:                   "1",
		`posthaste_commit_operations_count`:               "1",
		`posthaste_commit_operations_sum`:                 "7",
		`posthaste_commit_duration_seconds_count`:         "1",
		`posthaste_commit_duration_seconds_sum`:           "2",
		`posthaste_body_bytes`:                            "42",

		`posthaste_http_requests_total{code="200",route="POST /v2/publish/{destination...}"}`: "2",
		`posthaste_http_requests_total{code="400",route="POST /v2/publish/{destination...}"}`: "1",
		`posthaste_http_requests_total{code="404",route="other"}`:                             "1",

		`posthaste_http_request_duration_seconds_count{route="POST /v2/publish/{destination...}"}`: "3",
		`posthaste_http_request_duration_seconds_sum{route="POST /v2/publish/{destination...}"}`:   "3",
		`posthaste_http_request_duration_seconds_count{route="other"}`:                             "1",
		`posthaste_http_request_duration_seconds_sum{route="other"}`:                               "0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

func TestMetricsOfProcess(t *testing.T) {
	m := telemetry.NewMetrics(telemetry.MetricsConfig{})
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{"\nprocess_resident_memory_bytes ", "\ngo_goroutines "} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("metrics lack %q", strings.TrimSpace(want))
		}
	}
}

func TestRequestServedConcurrently(t *testing.T) {
	m := telemetry.NewMetrics(telemetry.MetricsConfig{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for code := 200; code < 300; code++ {
				m.RequestServed("GET /v2/logs", code, 0)
			}
		})
	}
	wg.Wait()
	got := scrape(t, m)
	if n := got[`posthaste_http_request_duration_seconds_count{route="GET /v2/logs"}`]; n != "800" {
		t.Errorf("got %s requests, want 800", n)
	}
	if n := got[`posthaste_http_requests_total{code="250",route="GET /v2/logs"}`]; n != "8" {
		t.Errorf("got %s requests of a code, want 8", n)
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	m := telemetry.NewMetrics(telemetry.MetricsConfig{Outcomes: []string{"delivered"}})
	got := testing.AllocsPerRun(100, func() {
		m.Accepted(1)
		m.DeliveryStarted(time.Millisecond)
		m.DeliveryEnded("delivered", time.Second)
		m.Committed(10, time.Millisecond)
		m.RequestServed("POST /v2/publish", 200, time.Millisecond)
	})
	if got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func TestProfiles(t *testing.T) {
	h := telemetry.Profiles()
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/heap?debug=1": 200, "/debug/pprof/cmdline": 200, "/debug/pprof/symbol": 200, "/": 404,
	} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		if rec.Code != want {
			t.Errorf("GET %s: got status %d, want %d", path, rec.Code, want)
		}
	}
}

func BenchmarkRequestServed(b *testing.B) {
	m := telemetry.NewMetrics(telemetry.MetricsConfig{})
	for b.Loop() {
		m.RequestServed("POST /v2/publish", 200, time.Millisecond)
	}
}
