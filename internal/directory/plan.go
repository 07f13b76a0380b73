package directory

import (
	"slices"
	"strings"
	"time"
)

// Plan limits a tenant. Zero means unlimited. The limits of the server's preset apply beside it: the smaller one wins.
type Plan struct {
	Name             string
	MessagesPerDay   int64 // accepted, callbacks and copies included, by UTC day
	MaxBody          int64 // bytes of a message
	MaxDelay         time.Duration
	MaxTimeout       time.Duration
	MaxRetries       int
	URLGroups        int
	Endpoints        int // of a URL group
	Schedules        int
	Queues           int
	QueueParallelism int
	Parallelism      int // attempts in flight of the whole tenant
	RequestsPerSec   int // of the management routes; publishing is not counted
	Retention        time.Duration
	DeadRetention    time.Duration
}

const day = 24 * time.Hour

// plans are the hosted service's figures, but for unlimited, which has none.
var plans = []Plan{
	{Name: "unlimited"},
	{
		Name: "free", MessagesPerDay: 500, MaxBody: 1 << 20, MaxDelay: 7 * day, MaxTimeout: 15 * time.Minute, MaxRetries: 5,
		URLGroups: 1, Endpoints: 100, Schedules: 10, Queues: 10, QueueParallelism: 2, Parallelism: 10, RequestsPerSec: 100,
		Retention: 3 * day, DeadRetention: 3 * day,
	},
	{
		Name: "payg", MaxBody: 10 << 20, MaxDelay: 365 * day, MaxTimeout: 2 * time.Hour,
		URLGroups: 100, Endpoints: 100, Schedules: 1000, Queues: 100, QueueParallelism: 100, Parallelism: 100,
		RequestsPerSec: 100, Retention: 7 * day, DeadRetention: 7 * day,
	},
	{
		Name: "pro", MessagesPerDay: 1_000_000, MaxBody: 50 << 20, MaxTimeout: 12 * time.Hour,
		URLGroups: 1000, Endpoints: 1000, Schedules: 10_000, Queues: 1000, QueueParallelism: 200, Parallelism: 200,
		RequestsPerSec: 500, Retention: 30 * day, DeadRetention: 30 * day,
	},
}

// PlanByName returns a plan; ok is false if there is none of that name. The empty name is the unlimited plan.
func PlanByName(name string) (p Plan, ok bool) {
	if name == "" {
		name = plans[0].Name
	}
	i := slices.IndexFunc(plans, func(p Plan) bool { return p.Name == name })
	if i < 0 {
		return Plan{}, false
	}
	return plans[i], true
}

// PlanNames lists the plans, for messages.
func PlanNames() string {
	var names []string
	for _, p := range plans {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}
