package wire

import (
	"time"

	"github.com/posthaste/posthaste"
)

// Words of paths that only this server has.
const (
	PathExt     = "ext"
	PathHosts   = "hosts"
	PathUnblock = "unblock"
	PathUsage   = "usage"
)

type hostJSON struct {
	Host      string `json:"host"`
	Blocked   bool   `json:"isBlocked"`
	InFlight  int    `json:"inFlight"`
	Waiting   int64  `json:"waitListSize"`
	Failures  int    `json:"failures"`
	LastError string `json:"lastError,omitempty"`
	NextProbe int64  `json:"nextProbeTime,omitempty"`
}

// AppendHosts appends a list of destination hosts.
func AppendHosts(dst []byte, hosts []posthaste.Host) []byte {
	return appendArray(dst, hosts, func(dst []byte, h posthaste.Host) []byte {
		j := hostJSON{
			Host: h.Name, Blocked: h.Blocked, InFlight: h.InFlight, Waiting: h.Waiting, Failures: h.Failures, LastError: h.LastError,
		}
		if !h.NextProbe.IsZero() {
			j.NextProbe = h.NextProbe.UnixMilli()
		}
		return appendJSON(dst, j)
	})
}

type usageJSON struct {
	Plan      string    `json:"plan"`
	Limit     int64     `json:"messagesPerDay,omitempty"`
	Reset     int64     `json:"resetTime"`
	Queues    int       `json:"queues"`
	Groups    int       `json:"topics"`
	Schedules int       `json:"schedules"`
	Days      []dayJSON `json:"days"`
}

type dayJSON struct {
	Day      string `json:"day"`
	Messages int64  `json:"messages"`
}

// AppendUsage appends what a tenant used of its plan.
func AppendUsage(dst []byte, u *posthaste.Usage) []byte {
	j := usageJSON{
		Plan: u.Plan, Limit: u.Limit, Reset: u.Reset.UnixMilli(), Queues: u.Queues, Groups: u.Groups, Schedules: u.Schedules,
		Days: make([]dayJSON, len(u.Days)),
	}
	for i, d := range u.Days {
		j.Days[i] = dayJSON{d.Day.Format(time.DateOnly), d.Messages}
	}
	return appendJSON(dst, j)
}
