package chart_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/posthaste/posthaste/bench/internal/chart"
	"github.com/posthaste/posthaste/bench/internal/driver"
)

func TestWrite(t *testing.T) {
	r := &driver.Report{
		Rounds: 3, Machine: driver.Machine{CPU: "A <fast> one", Cores: 2},
		Systems: []driver.System{{Name: "relay"}, {Name: "posthaste"}, {Name: "river"}},
		Groups: []*driver.Group{{Mode: "closed", Connections: 64, Summary: map[string]map[string]driver.Spread{
			"relay":     {"rate": {Median: 1000, Min: 900, Max: 1100}, "server_cpu_us": {Median: 50}},
			"posthaste": {"rate": {Median: 800}, "relay_ratio": {Median: 0.8}, "server_cpu_us": {Median: 75}, "cpu_ratio": {Median: 1.5}},
			"river":     {"rate": {Median: 200}, "server_cpu_us": {Median: 100}, "store_cpu_us": {Median: 60}},
		}}, {Mode: "open"}},
	}
	var out bytes.Buffer
	if err := chart.Write(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"64 connections", "800 (0.80 of the relay)", "75 (1.5 × the relay)", "100 + 60", "A &lt;fast&gt; one"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the picture lacks %q:\n%s", want, &out)
		}
	}
	for d := xml.NewDecoder(&out); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
	if err := chart.Write(io.Discard, &driver.Report{}); err == nil {
		t.Error("an empty report: got no error")
	}
}
