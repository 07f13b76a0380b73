package telemetry

import (
	"maps"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// other is the label of whatever is outside a closed set, so that no caller can make the number of series grow.
const other = "other"

// MetricsConfig says what the metrics must know beforehand.
type MetricsConfig struct {
	// Version of the server, shown by posthaste_build_info.
	Version string
	// Outcomes are the values that the label outcome may take. Any other is counted as "other".
	Outcomes []string
}

// Metrics counts what the server does. Its methods are safe for concurrent use, and those called for every message or
// request neither look labels up in the library nor allocate.
type Metrics struct {
	registry *prometheus.Registry

	accepted         prometheus.Counter
	inFlight         prometheus.Gauge
	lateness         prometheus.Histogram
	deliveryDuration prometheus.Histogram
	deliveries       map[string]prometheus.Counter // by outcome; never written after NewMetrics
	deadLetters      prometheus.Counter
	ticks            prometheus.Counter
	commits          prometheus.Counter
	commitErrors     prometheus.Counter
	commitOperations prometheus.Histogram
	commitDuration   prometheus.Histogram

	requests        *prometheus.CounterVec
	requestDuration *prometheus.HistogramVec
	// resolved maps what was served to its series. A map in it is never written: a new series comes with a new map.
	resolved atomic.Pointer[map[served]requestSeries]
}

// served is the labels of a request.
type served struct {
	route string
	code  int
}

type requestSeries struct {
	count    prometheus.Counter
	duration prometheus.Observer
}

// NewMetrics returns metrics in a registry of their own, together with those of the process and the Go runtime.
func NewMetrics(cfg MetricsConfig) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthaste_accepted_total", Help: "Messages accepted.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "posthaste_in_flight", Help: "Delivery attempts that are running.",
		}),
		lateness: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthaste_lateness_seconds", Help: "Time from the moment a message was due to the start of its attempt.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200},
		}),
		deliveryDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthaste_delivery_duration_seconds", Help: "Duration of delivery attempts.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200},
		}),
		deliveries: make(map[string]prometheus.Counter),
		deadLetters: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthaste_dead_letters_total", Help: "Messages that went to the dead letter queue.",
		}),
		ticks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthaste_schedule_ticks_total", Help: "Ticks of schedules that fired.",
		}),
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthaste_commits_total", Help: "Commits of the store.",
		}),
		commitErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthaste_commit_errors_total", Help: "Commits of the store that failed.",
		}),
		commitOperations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthaste_commit_operations", Help: "Operations that shared a commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 12),
		}),
		commitDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "posthaste_commit_duration_seconds", Help: "Duration of commits, including the wait for the disk.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthaste_http_requests_total", Help: "Requests served, by route and status.",
		}, []string{"route", "code"}),
		requestDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "posthaste_http_request_duration_seconds", Help: "Duration of requests, by route.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
	}
	m.resolved.Store(&map[served]requestSeries{})

	deliveries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "posthaste_deliveries_total", Help: "Delivery attempts that ended, by outcome.",
	}, []string{"outcome"})
	for _, o := range append(cfg.Outcomes, other) {
		m.deliveries[o] = deliveries.WithLabelValues(o)
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "posthaste_build_info", Help: "Always 1; the labels tell what is running.",
	}, []string{"version", "go_version"})
	build.WithLabelValues(cfg.Version, runtime.Version()).Set(1)

	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build,
		m.accepted, m.inFlight, m.lateness, m.deliveryDuration, deliveries, m.deadLetters, m.ticks,
		m.commits, m.commitErrors, m.commitOperations, m.commitDuration, m.requests, m.requestDuration,
	)
	return m
}

// Accepted counts n messages that were accepted.
func (m *Metrics) Accepted(n int) { m.accepted.Add(float64(n)) }

// DeliveryStarted counts an attempt that starts, late after the moment its message was due.
func (m *Metrics) DeliveryStarted(late time.Duration) {
	m.inFlight.Inc()
	m.lateness.Observe(max(late, 0).Seconds())
}

// DeliveryEnded counts an attempt that ended. Every DeliveryStarted must be followed by one.
func (m *Metrics) DeliveryEnded(outcome string, took time.Duration) {
	m.inFlight.Dec()
	m.deliveryDuration.Observe(took.Seconds())
	c, ok := m.deliveries[outcome]
	if !ok {
		c = m.deliveries[other]
	}
	c.Inc()
}

// DeadLettered counts n messages that went to the dead letter queue.
func (m *Metrics) DeadLettered(n int) { m.deadLetters.Add(float64(n)) }

// Ticked counts n ticks of schedules that fired.
func (m *Metrics) Ticked(n int) { m.ticks.Add(float64(n)) }

// Committed counts a commit of the store, the operations it carried and how long it took.
func (m *Metrics) Committed(operations int, took time.Duration) {
	m.commits.Inc()
	m.commitOperations.Observe(float64(operations))
	m.commitDuration.Observe(took.Seconds())
}

// CommitFailed counts a commit that failed.
func (m *Metrics) CommitFailed() { m.commitErrors.Inc() }

// RequestServed counts a request. The route is the pattern that matched, never the path: each route costs series that
// stay for ever. The empty route is that of requests that matched none.
func (m *Metrics) RequestServed(route string, code int, took time.Duration) {
	if route == "" {
		route = other
	}
	key := served{route, code}
	s, ok := (*m.resolved.Load())[key]
	if !ok {
		s = m.resolve(key)
	}
	s.count.Inc()
	s.duration.Observe(took.Seconds())
}

func (m *Metrics) resolve(key served) requestSeries {
	s := requestSeries{
		count:    m.requests.WithLabelValues(key.route, strconv.Itoa(key.code)),
		duration: m.requestDuration.WithLabelValues(key.route),
	}
	for {
		old := m.resolved.Load()
		next := maps.Clone(*old)
		next[key] = s
		if m.resolved.CompareAndSwap(old, &next) {
			return s
		}
	}
}

// Gauge adds a metric whose value is read when the metrics are. It panics if there is one of that name.
func (m *Metrics) Gauge(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}
