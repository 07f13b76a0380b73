//go:build crash

package crash

import (
	"bytes"
	"context"
	"fmt"
	"math/bits"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A backlog is the destination of very many messages: it counts them, and keeps the arrival of a few only.
type backlog struct {
	base    string // of the messages
	other   string // of the probes: the connections to a host are bounded, and whoever came first gets them first
	client  *client
	arrived *meter // in steps of arrivalStep
	count   atomic.Int64
	again   atomic.Int64    // arrivals of messages that had come before
	seen    []atomic.Uint64 // a bit for each
	probes  sync.Map        // number of a probe to the channel that its arrival goes to
}

const arrivalStep = 100

func newBacklog(t *testing.T, s *server, n int) *backlog {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	b := &backlog{base: "http://127.0.0.1:" + port, other: "http://localhost:" + port, client: newClient(s), arrived: newMeter(), seen: make([]atomic.Uint64, n/64+1)}
	srv := &http.Server{Handler: b}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return b
}

// ServeHTTP implements [http.Handler].
func (b *backlog) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	kind, number, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	n, err := strconv.Atoi(number)
	if err != nil {
		return
	}
	if kind == "probe" {
		if ch, ok := b.probes.Load(n); ok {
			ch.(chan time.Time) <- time.Now()
		}
		return
	}
	if old := b.seen[n/64].Or(1 << (n % 64)); old&(1<<(n%64)) != 0 {
		b.again.Add(1)
		return
	}
	if b.count.Add(1)%arrivalStep == 0 {
		b.arrived.add(arrivalStep)
	}
}

// missing returns how many of the messages from one number up to another did not arrive.
func (b *backlog) missing(from, to int) int {
	n := to - from
	for i := range b.seen {
		word := b.seen[i].Load()
		for word != 0 {
			if at := i*64 + bits.TrailingZeros64(word); at >= from && at < to {
				n--
			}
			word &= word - 1
		}
	}
	return n
}

// publish publishes messages with numbers from one up to another, in batches, all with these headers.
func (b *backlog) publish(ctx context.Context, from, to int, header string) error {
	const size = 200
	var next atomic.Int64
	next.Store(int64(from))
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		wg.Go(func() {
			var body bytes.Buffer
			for {
				at := int(next.Add(size)) - size
				if at >= to {
					return
				}
				body.Reset()
				for n := at; n < min(at+size, to); n++ {
					fmt.Fprintf(&body, `,{"destination":"%s/m/%d","headers":{%s},"body":"message %d of the backlog"}`, b.base, n, header, n)
				}
				body.WriteByte(']')
				body.Bytes()[0] = '['
				status, answer, err := b.client.call(ctx, http.MethodPost, "/v2/batch", nil, body.Bytes())
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("a batch was answered %d: %s", status, answer)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// drain waits until the messages with numbers from one up to another have arrived and returns how many did in a second, without
// the first and the last tenth.
func (b *backlog) drain(ctx context.Context, from, to int) (perSecond float64, err error) {
	total := to - from
	var marks [2]time.Time
	for i, n := range []int{from + total/10, from + total*9/10, to - to%arrivalStep} {
		for last := -1; !b.arrived.wait(within(ctx, 30*time.Second), n); {
			if ctx.Err() != nil || b.arrived.count() == last {
				return 0, fmt.Errorf("%d of %d messages arrived, and for half a minute no more", b.arrived.count()-from, total)
			}
			last = b.arrived.count()
		}
		if i < len(marks) {
			marks[i] = time.Now()
		}
	}
	return float64(total*8/10) / marks[1].Sub(marks[0]).Seconds(), nil
}

// within returns a context that ends after a time.
func within(ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(ctx, cancel)
	return ctx
}

// probe publishes a message every few milliseconds until ctx ends or there were most, and returns how long they took from the
// call to their arrival, in order of that.
func (b *backlog) probe(ctx context.Context, c *client, first, most int, header http.Header) (took []time.Duration, err error) {
	for n := first; n < first+most && ctx.Err() == nil; n++ {
		arrived := make(chan time.Time, 4)
		b.probes.Store(n, arrived)
		begin := time.Now()
		status, answer, err := c.call(context.WithoutCancel(ctx), http.MethodPost, fmt.Sprintf("/v2/publish/%s/probe/%d", b.other, n), header, nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("a probe was answered %d: %s", status, answer)
		}
		if err != nil {
			return nil, err
		}
		select {
		case at := <-arrived:
			took = append(took, at.Sub(begin))
		case <-time.After(time.Minute):
			return nil, fmt.Errorf("probe %d did not arrive within a minute", n)
		}
		b.probes.Delete(n)
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	slices.Sort(took)
	return took, nil
}

// A latency is how long probes took, of another key of the same tenant and of another tenant.
type latency struct{ key, tenant []time.Duration }

// middle returns the median of all.
func (l latency) middle() time.Duration {
	all := slices.Sorted(slices.Values(append(slices.Clone(l.key), l.tenant...)))
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}

func (l latency) String() string {
	text := func(d []time.Duration) string {
		if len(d) == 0 {
			return "none"
		}
		at := func(p int) time.Duration { return d[min(len(d)-1, len(d)*p/100)].Round(10 * time.Microsecond) }
		return fmt.Sprintf("%d: %v %v %v", len(d), at(50), at(95), at(99))
	}
	return fmt.Sprintf("(number: median, 95 %%, 99 %%) another key %s; another tenant %s", text(l.key), text(l.tenant))
}

// probeAll probes another key and another tenant at the same time.
func (b *backlog) probeAll(ctx context.Context, other *client, first, most int) (l latency, err error) {
	var wg sync.WaitGroup
	var e [2]error
	wg.Go(func() {
		l.key, e[0] = b.probe(ctx, b.client, first, most, http.Header{
			"Upstash-Flow-Control-Key": {"another"}, "Upstash-Flow-Control-Value": {"parallelism=10"},
		})
	})
	wg.Go(func() { l.tenant, e[1] = b.probe(ctx, other, first+1<<20, most, nil) })
	wg.Wait()
	for _, err := range e {
		if err != nil {
			return l, err
		}
	}
	return l, nil
}

// memory returns the memory that a process has now and the most that it had, in MiB.
func memory(pid int) (now, most int) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		fmt.Sscanf(line, "VmRSS: %d", &now)
		fmt.Sscanf(line, "VmHWM: %d", &most)
	}
	return now / 1024, most / 1024
}

// TestBacklog has very many messages wait behind one paused key. The resume drains them as quickly as messages without a key,
// memory stays bounded, and others hardly notice.
func TestBacklog(t *testing.T) {
	total := *backlogFlag
	sample := min(total, 100_000) // without a key
	rng := newRand(t)
	s := newServer(t, rng, true, "--max-in-flight", "512")
	ctx := s.ctx
	b := newBacklog(t, s, total+sample)
	other := newClient(s)
	other.token = devTokens[1]
	life := s.start("")
	tell := func(what string, l latency) {
		now, most := memory(life.cmd.Process.Pid)
		t.Logf("%-9s %v; %d MiB, at most %d", what, l, now, most)
	}
	must := func(l latency, err error) latency {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	must(b.probeAll(ctx, other, 0, 100)) // everything is warm then
	idle := must(b.probeAll(ctx, other, 1000, 400))
	tell("idle", idle)

	// The same messages without a key, due at one moment.
	due := time.Now().Add(3*time.Second + time.Duration(sample)*time.Second/2000)
	if err := b.publish(ctx, 0, sample, fmt.Sprintf(`"Upstash-Not-Before":"%d"`, due.Unix())); err != nil {
		t.Fatal(err)
	}
	if time.Now().After(due) {
		t.Fatalf("%d messages could not be published by the time they were due", sample)
	}
	plain, err := b.drain(ctx, 0, sample)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages without a key: %.0f a second", sample, plain)

	post := func(path string) {
		t.Helper()
		if status, body, err := b.client.call(ctx, http.MethodPost, path, nil, nil); err != nil || status != http.StatusOK {
			t.Fatalf("POST %s was answered %d: %s, %v", path, status, body, err)
		}
	}
	post("/v2/flowControl/big/pause")
	begin := time.Now()
	const key = `"Upstash-Flow-Control-Key":"big","Upstash-Flow-Control-Value":"parallelism=100000"`
	if err := b.publish(ctx, sample, sample+total, key); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages with the key: accepted at %.0f a second", total, float64(total)/time.Since(begin).Seconds())
	if n := b.arrived.count(); n > sample {
		t.Errorf("%d messages were delivered although their key is paused", n-sample)
	}
	waiting := must(b.probeAll(ctx, other, 2000, 400))
	tell("waiting", waiting)

	post("/v2/flowControl/big/resume")
	draining, drained := context.WithCancel(ctx)
	defer drained()
	probed := make(chan latency, 1)
	failed := make(chan error, 1)
	go func() {
		l, err := b.probeAll(draining, other, 10_000, 1<<19)
		if err != nil {
			failed <- err
		}
		probed <- l
	}()
	rate, err := b.drain(ctx, sample, sample+total)
	drained()
	if err != nil {
		t.Fatal(err)
	}
	meanwhile := <-probed
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	tell("draining", meanwhile)
	t.Logf("%d messages with the key: %.0f a second, %.2f of those without", total, rate, rate/plain)
	if n := b.missing(0, sample+total); n > arrivalStep {
		t.Errorf("%d messages did not arrive", n)
	}
	if n := b.again.Load(); n > 0 {
		t.Errorf("%d messages came twice", n)
	}
	share, quiet := 1.0/3, time.Hour
	if *strictFlag {
		share, quiet = 0.8, 2*idle.middle()
	}
	if rate < share*plain {
		t.Errorf("it drained at %.0f a second, and messages without a key at %.0f", rate, plain)
	}
	// What a server needs does not grow with what waits.
	if _, most := memory(life.cmd.Process.Pid); most > 600 {
		t.Errorf("the server had %d MiB", most)
	}
	// Whoever had to wait for the end of the backlog would have been probed once or twice.
	if len(meanwhile.key) < 10 || len(meanwhile.tenant) < 10 {
		t.Errorf("while the backlog drained, %d messages of another key and %d of another tenant came through", len(meanwhile.key), len(meanwhile.tenant))
	}
	for what, l := range map[string]latency{"waited": waiting, "drained": meanwhile} {
		if l.middle() > quiet {
			t.Errorf("while the backlog %s, the median of others was %v, and %v before", what, l.middle(), idle.middle())
		}
	}
}
