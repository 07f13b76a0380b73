//go:build crash

package crash

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// A planted account is made by hand, as a server without faults would have left it: a life of ten seconds that was killed, a
// second one of ten that was killed, and a third one that runs.
type planted struct{ *account }

func newPlanted() planted {
	p := planted{&account{log: map[string][]logEntry{}, dead: map[string][]deadLetter{}}}
	for n := range 3 {
		p.lives = append(p.lives, plantedLife(n+1, int64(n)*10_000, int64(n)*10_000+9_000))
	}
	p.lives[2].done = make(chan struct{})
	return p
}

// publish adds an accepted message.
func (p planted) publish(change func(*spec)) *spec {
	n := len(p.specs)
	sp := &spec{
		place: place{kind: kindMessage, n: n}, method: http.MethodPost, body: fmt.Append(nil, "body ", n), retries: 3,
		outcome: accepted, id: fmt.Sprint("msg_", n), sent: time.UnixMilli(1000),
	}
	change(sp)
	p.specs = append(p.specs, sp)
	p.entry(sp.id, sp.place, 1000, "CREATED")
	return sp
}

func (p planted) entry(id string, pl place, at int64, states ...string) {
	for _, s := range states {
		p.log[id] = append(p.log[id], logEntry{Time: at, ID: id, State: s, URL: pl.url("http://receiver")})
	}
}

// attempt adds an attempt that began at a moment and ended 10 ms later.
func (p planted) attempt(sp *spec, at int64) *delivery {
	attempts, _ := sp.attempts()
	p.entry(sp.id, sp.place, at, "ACTIVE")
	d := p.deliver(sp, at)
	switch {
	case d.status == http.StatusOK:
		p.entry(sp.id, sp.place, at+10, "DELIVERED")
	case d.retried+1 < attempts:
		p.entry(sp.id, sp.place, at+10, "ERROR", "RETRY")
	default:
		p.entry(sp.id, sp.place, at+10, "ERROR", "FAILED")
		p.dead[sp.id] = []deadLetter{{DLQID: "dead-" + sp.id, ID: sp.id}}
	}
	return d
}

// deliver adds a delivery of the next attempt that is not in the log as ended.
func (p planted) deliver(sp *spec, at int64) *delivery {
	d := &delivery{
		place: sp.place, id: sp.id, life: p.lifeAt(at).n, method: sp.method, sum: sha256.Sum256(sp.body),
		arrived: time.UnixMilli(at + 1), answered: time.UnixMilli(at + 9),
	}
	for _, e := range p.log[sp.id] {
		if e.State == "ERROR" || e.State == "DELIVERED" {
			d.retried++
		}
	}
	d.status = d.place.status(d.retried)
	p.deliveries = append(p.deliveries, d)
	return d
}

// callback adds a callback that was delivered.
func (p planted) callback(kind string, about *spec, retried int, at int64) *delivery {
	cb := &spec{place: place{kind: kind, n: about.n}, id: fmt.Sprintf("msg_%s-%d-%d", kind, about.n, retried), method: http.MethodPost}
	p.entry(cb.id, cb.place, at, "CREATED")
	d := p.attempt(cb, at)
	d.report = report{Source: about.id, Retried: retried, Status: about.status(retried)}
	if kind == kindFailureCallback {
		d.report.DLQID = "dead-" + about.id
	}
	return d
}

// all returns every fault there is.
func (p planted) all() faults {
	f := p.faults()
	p.checkCancels(&f)
	p.checkOrder(&f, "q", 1)
	p.checkOpen(&f, "q", 1)
	p.checkOrder(&f, "r", 2)
	p.checkOpen(&f, "r", 2)
	return f
}

// plantAll fills an account with everything that is legal.
func plantAll() planted {
	p := newPlanted()
	p.attempt(p.publish(func(*spec) {}), 1000) // 0

	sp := p.publish(func(sp *spec) { sp.fail, sp.callback = 1, &place{kind: kindCallback} }) // 1
	p.attempt(sp, 1000)
	p.callback(kindCallback, sp, 0, 1020)
	p.deliver(sp, 8990) // cut off by the kill
	p.attempt(sp, 10_500)
	p.callback(kindCallback, sp, 1, 10_520)

	sp = p.publish(func(sp *spec) { // 2
		sp.fail, sp.retries, sp.failureCallback = always, 0, &place{kind: kindFailureCallback}
	})
	p.attempt(sp, 2000)
	p.callback(kindFailureCallback, sp, 0, 2020)

	sp = p.publish(func(sp *spec) { // 3
		sp.delay, sp.canceled = 5*time.Second, canceled{true, time.UnixMilli(3000)}
	})
	p.entry(sp.id, sp.place, 2990, "CANCEL_REQUESTED", "CANCELED")

	for range 2 {
		p.attempt(p.publish(func(sp *spec) { sp.batch = 1 }), 3000) // 4, 5
	}
	p.attempt(p.publish(func(sp *spec) { sp.dedup, sp.shared = "d", true }), 4000) // 6
	p.specs = append(p.specs, &spec{                                               // 7
		place: place{kind: kindMessage, n: 7}, dedup: "d", shared: true, duplicate: true, outcome: accepted, id: "msg_6",
	})
	for i := range 3 {
		p.attempt(p.publish(func(sp *spec) { sp.queue, sp.index = "q", i }), 5000+100*int64(i)) // 8, 9, 10
	}
	for i := range 3 {
		p.attempt(p.publish(func(sp *spec) { sp.queue, sp.index = "r", i }), 5000+5*int64(i)) // 11, 12, 13
	}
	p.specs = append(p.specs, // 14, 15
		&spec{place: place{kind: kindMessage, n: 14}, outcome: unknown},
		&spec{place: place{kind: kindMessage, n: 15}, outcome: refused},
	)
	p.attempt(p.publish(func(sp *spec) { sp.delay = time.Second }), 2000) // 16
	sp = p.publish(func(sp *spec) {                                       // 17, canceled in flight, and cut off
		sp.canceled = canceled{true, time.UnixMilli(8980)}
	})
	p.deliver(sp, 8950).answered = time.Time{}
	p.entry(sp.id, sp.place, 8970, "CANCEL_REQUESTED")
	p.entry(sp.id, sp.place, 10_100, "CANCELED")
	return p
}

// TestFaultsAreFound plants faults into what a server without any left behind.
func TestFaultsAreFound(t *testing.T) {
	if f := plantAll().all(); len(f) > 0 {
		t.Fatalf("got faults %v where there is none", f)
	}
	drop := func(p planted, id string, states ...string) {
		p.log[id] = slices.DeleteFunc(p.log[id], func(e logEntry) bool { return slices.Contains(states, e.State) })
	}
	undeliver := func(p planted, id string) {
		p.deliveries = slices.DeleteFunc(p.deliveries, func(d *delivery) bool { return d.id == id })
	}
	of := func(p planted, id string) *delivery {
		return p.deliveries[slices.IndexFunc(p.deliveries, func(d *delivery) bool { return d.id == id })]
	}
	tests := []struct {
		name  string
		want  string
		plant func(p planted)
	}{
		{"forget a message", faultLost, func(p planted) { delete(p.log, "msg_0"); undeliver(p, "msg_0") }},
		{"forget a message of a batch", faultPartial, func(p planted) { delete(p.log, "msg_4"); undeliver(p, "msg_4") }},
		{"forget a claim", faultStuck, func(p planted) { drop(p, "msg_0", "DELIVERED") }},
		{"never try", faultStuck, func(p planted) { drop(p, "msg_0", "ACTIVE", "DELIVERED"); undeliver(p, "msg_0") }},
		{"deliver in the log only", faultUnsent, func(p planted) { undeliver(p, "msg_0") }},
		{"record an attempt without an answer", faultUnsent, func(p planted) { of(p, "msg_0").answered = time.Time{} }},
		{"deliver twice in a life", faultTwice, func(p planted) { d := *of(p, "msg_0"); p.deliveries = append(p.deliveries, &d) }},
		{"deliver again what is recorded", faultTwice, func(p planted) {
			d := *of(p, "msg_0")
			d.life = 2
			p.deliveries = append(p.deliveries, &d)
		}},
		{"deliver again after a stop in order", faultTwice, func(p planted) { p.lives[0].end, p.lives[0].mayCut = stopped, false }},
		{"accept twice", faultTwice, func(p planted) {
			p.entry("msg_x", p.specs[0].place, 1000, "CREATED")
			p.attempt(&spec{place: p.specs[0].place, id: "msg_x", method: http.MethodPost, body: p.specs[0].body}, 1000)
		}},
		{"accept what was refused", faultForeign, func(p planted) { p.entry("msg_x", p.specs[15].place, 1000, "CREATED") }},
		{"make a message up", faultForeign, func(p planted) { p.entry("msg_x", place{kind: kindMessage, n: 99}, 1000, "CREATED") }},
		{"deliver what the log does not know", faultForeign, func(p planted) {
			d := *of(p, "msg_0")
			d.id = "msg_x"
			p.deliveries = append(p.deliveries, &d)
		}},
		{"accept without an answer and stop in order", faultForeign, func(p planted) {
			p.lives[0].end = stopped
			p.specs[0].outcome = unknown
		}},
		{"lose an entry", faultLog, func(p planted) { drop(p, "msg_1", "RETRY") }},
		{"lose a start", faultLog, func(p planted) { drop(p, "msg_0", "ACTIVE") }},
		{"lose the beginning", faultLog, func(p planted) { drop(p, "msg_0", "CREATED") }},
		{"log an end twice", faultLog, func(p planted) { p.entry("msg_0", p.specs[0].place, 1020, "DELIVERED") }},
		{"log a start twice", faultLog, func(p planted) {
			p.log["msg_0"] = slices.Insert(p.log["msg_0"], 1, p.log["msg_0"][1])
		}},
		{"lose an attempt", faultLog, func(p planted) { p.log["msg_1"] = slices.Delete(p.log["msg_1"], 1, 4) }},
		{"go back in time", faultLog, func(p planted) { p.log["msg_0"][2].Time = 999 }},
		{"log while nobody runs", faultLog, func(p planted) { p.log["msg_0"][2].Time = 9500 }},
		{"lose a dead letter", faultDead, func(p planted) { delete(p.dead, "msg_2") }},
		{"make a dead letter twice", faultDead, func(p planted) { p.dead["msg_2"] = append(p.dead["msg_2"], deadLetter{ID: "msg_2"}) }},
		{"make a dead letter of a delivered message", faultDead, func(p planted) { p.dead["msg_0"] = []deadLetter{{ID: "msg_0"}} }},
		{"lose a callback", faultCallback, func(p planted) { delete(p.log, "msg_cb-1-0"); undeliver(p, "msg_cb-1-0") }},
		{"make a callback twice", faultCallback, func(p planted) { p.callback(kindCallback, p.specs[1], 2, 11_000).report.Retried = 1 }},
		{"report another answer", faultCallback, func(p planted) { of(p, "msg_cb-1-0").report.Status = 200 }},
		{"lose a failure callback", faultCallback, func(p planted) { delete(p.log, "msg_fcb-2-0"); undeliver(p, "msg_fcb-2-0") }},
		{"name another dead letter", faultCallback, func(p planted) { of(p, "msg_fcb-2-0").report.DLQID = "other" }},
		{"change a body", faultContent, func(p planted) { of(p, "msg_0").sum[0]++ }},
		{"change a method", faultContent, func(p planted) { of(p, "msg_0").method = http.MethodPut }},
		{"deliver early", faultEarly, func(p planted) { of(p, "msg_16").arrived = time.UnixMilli(1500) }},
		{"start early", faultEarly, func(p planted) { p.log["msg_16"][1].Time = 1500 }},
		{"retry early", faultEarly, func(p planted) { p.log["msg_1"][3].Next = 10_501 }},
		{"deliver what was canceled", faultCanceled, func(p planted) { p.deliver(p.specs[3], 6000) }},
		{"forget a cancel", faultCanceled, func(p planted) {
			p.log["msg_3"] = p.log["msg_3"][:1]
			p.attempt(p.specs[3], 6000)
		}},
		{"repeat what was canceled in flight", faultCanceled, func(p planted) { p.deliver(p.specs[17], 10_050) }},
		{"go on after a cancel", faultLog, func(p planted) {
			p.log["msg_17"] = p.log["msg_17"][:2]
			p.attempt(p.specs[17], 10_100)
		}},
		{"make a duplicate", faultDuplicate, func(p planted) {
			p.specs[7].id, p.specs[7].duplicate = "msg_7", false
			p.entry("msg_7", p.specs[7].place, 4000, "CREATED")
			p.attempt(p.specs[7], 4000)
		}},
		{"tell a duplicate another id", faultDuplicate, func(p planted) { p.specs[7].id = "msg_0" }},
		{"tell two that they are the first", faultDuplicate, func(p planted) { p.specs[7].duplicate = false }},
		{"answer wrongly", faultAnswer, func(p planted) { p.specs[0].fault = "the answer was 500" }},
		{"swap two of a queue", faultOrder, func(p planted) { p.specs[8].index, p.specs[9].index = 1, 0 }},
		{"repeat one of a queue late", faultOrder, func(p planted) {
			d := *of(p, "msg_8")
			d.life, d.arrived = 2, time.UnixMilli(10_500)
			p.deliveries = append(p.deliveries, &d)
		}},
		{"open two of a queue", faultOpen, func(p planted) { of(p, "msg_8").answered = time.UnixMilli(5150) }},
		{"go on before a callback is answered", faultOpen, func(p planted) { p.callback(kindCallback, p.specs[8], 0, 5095) }},
		{"open three of two", faultOpen, func(p planted) { of(p, "msg_11").answered = time.UnixMilli(5012) }},
		{"overtake two of two", faultOrder, func(p planted) { p.specs[11].index, p.specs[13].index = 2, 0 }},
	}
	for _, tt := range tests {
		p := plantAll()
		tt.plant(p)
		if f := p.all(); !f.has(tt.want) {
			t.Errorf("%s: got faults %v, want one of kind %q", tt.name, f, tt.want)
		}
	}
}

// TestLossIsNoticed shows that the tests would notice a server that answers before it has stored: the data file is set back to
// what it was before messages were accepted, which is what a kill would leave of them then.
func TestLossIsNoticed(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, true)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	next := mix(rand.New(rand.NewPCG(rng.Uint64(), 0)), 200)
	s.start("")
	l.start(ctx, 8, func(n int) []*spec {
		if n >= 100 {
			return nil
		}
		return next(n)
	})
	l.wait()
	kept := len(l.all())
	if _, err := l.settle(ctx, patience); err != nil {
		t.Fatal(err)
	}
	s.stop()
	files := s.files(t)
	s.start("")
	l.start(ctx, 8, next)
	l.wait()
	s.kill()
	for name := range s.files(t) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range files {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start("")
	a, err := l.settle(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	f := a.faults()
	lost := 0
	for _, one := range f {
		if one.kind == faultLost {
			lost++
		}
	}
	if want := len(a.specs) - kept; lost != want {
		t.Errorf("got %d messages noticed as lost, want %d", lost, want)
	}
}

// files reads the data file and those beside it.
func (s *server) files(t *testing.T) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, e := range entries {
		name := s.dir + string(os.PathSeparator) + e.Name()
		if !strings.HasPrefix(name, s.data) {
			continue
		}
		if files[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}
