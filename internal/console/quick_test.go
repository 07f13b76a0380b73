package console_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/console"
)

// TestPagesAreQuick: what a page costs does not depend on how much there is. POSTHASTE_LOG_ENTRIES chooses how much.
func TestPagesAreQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("it fills a store")
	}
	n := 20_000
	if v, err := strconv.Atoi(os.Getenv("POSTHASTE_LOG_ENTRIES")); err == nil {
		n = v
	}
	s := start(t)
	const batch = 500
	for i := 0; i < n; i += batch {
		var b strings.Builder
		b.WriteString("[")
		for j := range batch {
			if j > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, `{"destination":"https://example.com/hook/%d","headers":{"Upstash-Label":"l%d","Upstash-Delay":"30d"},"body":"{\"order\":%d}"}`, j, (i+j)%1000, i+j)
		}
		b.WriteString("]")
		s.api("POST", "/v2/batch", b.String())
	}
	page := s.get(console.Prefix + "logs")
	next := page[strings.Index(page, "cursor="):]
	next = next[:strings.Index(next, `"`)]
	first := page[strings.Index(page, "/messages/msg_"):]
	first = first[:strings.Index(first, `"`)]
	for _, path := range []string{
		"", "?range=week", "logs", "logs?view=entries", "logs?label=l7", "logs?state=FAILED", "logs?" + strings.ReplaceAll(next, "&amp;", "&"),
		"logs?order=earliestFirst", strings.TrimPrefix(first, "/"), "dlq", "queues", "flow", "schedules", "groups", "hosts", "tokens", "keys", "publish",
	} {
		var took []time.Duration
		for range 7 {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, console.Prefix+path, nil)
			r.AddCookie(s.session)
			w := httptest.NewRecorder()
			begin := time.Now()
			s.srv.Handler().ServeHTTP(w, r)
			took = append(took, time.Since(begin))
			if w.Code != http.StatusOK {
				t.Fatalf("%s: got status %d", path, w.Code)
			}
		}
		slices.Sort(took)
		t.Logf("%-40.40s median %v, most %v", path, took[len(took)/2], took[len(took)-1])
		// The least: others use the machine, too.
		if took[0] > 50*time.Millisecond {
			t.Errorf("%s with %d log entries: took %v at best, want less than 50 ms", path, n, took[0])
		}
	}
}

// BenchmarkLogs makes the page of the log, which an open one does at most once a second.
func BenchmarkLogs(b *testing.B) {
	s := start(b)
	for i := range 300 {
		s.api("POST", fmt.Sprintf("/v2/publish/https://example.com/hook/%d", i), `{"hello":"world"}`, "Upstash-Label: x")
	}
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, console.Prefix+"logs", nil)
		r.AddCookie(s.session)
		s.srv.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}
}
