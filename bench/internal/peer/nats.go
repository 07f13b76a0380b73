package peer

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthaste/posthaste/bench/internal/hop"
)

const (
	natsMessages = "messages"
	natsResults  = "results"
	// natsConnections is the number of connections within the process; the server reads each on a goroutine of its own.
	natsConnections = 4
	natsDestination = "Destination"
	natsContentType = "Content-Type"
	natsStarting    = 10 * time.Second
)

// natsBackend keeps messages in a work queue of an embedded JetStream, and their results in another stream.
type natsBackend struct {
	server    *server.Server
	conns     []*nats.Conn
	streams   []jetstream.JetStream
	consumers []jetstream.ConsumeContext
	to        deliver
	// room holds a token for each delivery that may begin.
	room chan struct{}
	wg   sync.WaitGroup
	// stopped ends the deliveries.
	ctx  context.Context //nolint:containedctx // it is the life of the backend, which outlasts the requests
	stop context.CancelFunc
}

func openNATS(dir string, always bool, to deliver) (backend, error) {
	ns, err := server.NewServer(&server.Options{
		DontListen: true, JetStream: true, StoreDir: dir, SyncAlways: always, NoSigs: true, NoLog: true,
		JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 1 << 30,
	})
	if err != nil {
		return nil, err
	}
	ns.Start()
	b := &natsBackend{server: ns, to: to, room: make(chan struct{}, hop.Workers)}
	b.ctx, b.stop = context.WithCancel(context.Background())
	if err := b.begin(); err != nil {
		return nil, errors.Join(err, b.close(b.ctx))
	}
	return b, nil
}

// begin makes the streams and takes from them.
func (b *natsBackend) begin() error {
	if !b.server.ReadyForConnections(natsStarting) {
		return errors.New("the embedded server did not start")
	}
	for range natsConnections {
		nc, err := nats.Connect("", nats.InProcessServer(b.server))
		if err != nil {
			return err
		}
		b.conns = append(b.conns, nc)
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		b.streams = append(b.streams, js)
	}
	js := b.streams[0]
	for _, s := range []jetstream.StreamConfig{
		{Name: natsMessages, Subjects: []string{natsMessages}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage},
		{Name: natsResults, Subjects: []string{natsResults}, MaxAge: kept, Storage: jetstream.FileStorage},
	} {
		if _, err := js.CreateStream(b.ctx, s); err != nil {
			return err
		}
	}
	for _, js := range b.streams {
		c, err := js.CreateOrUpdateConsumer(b.ctx, natsMessages, jetstream.ConsumerConfig{
			Durable: natsMessages, AckPolicy: jetstream.AckExplicitPolicy, AckWait: patience, MaxAckPending: 4 * hop.Workers,
			MaxDeliver: retries + 1,
		})
		if err != nil {
			return err
		}
		consumer, err := c.Consume(func(msg jetstream.Msg) {
			b.room <- struct{}{}
			b.wg.Go(func() {
				defer func() { <-b.room }()
				b.work(js, msg)
			})
		}, jetstream.PullMaxMessages(hop.Workers))
		if err != nil {
			return err
		}
		b.consumers = append(b.consumers, consumer)
	}
	return nil
}

func (b *natsBackend) accept(ctx context.Context, m hop.Message) (string, error) {
	if m.Delay > 0 {
		return "", errors.New("this adapter takes no delayed messages")
	}
	msg := nats.NewMsg(natsMessages)
	id := nats.NewInbox()[len("_INBOX."):]
	msg.Header[natsDestination] = []string{m.Destination.String()}
	msg.Header[natsContentType] = []string{m.ContentType}
	msg.Header["Id"] = []string{id}
	msg.Data = m.Body
	_, err := b.any(id).PublishMsg(ctx, msg)
	return id, err
}

// any spreads ids over the connections.
func (b *natsBackend) any(id string) jetstream.JetStream {
	return b.streams[int(id[len(id)-1])%len(b.streams)]
}

// work delivers a message, records that, and acknowledges it, which removes it.
func (b *natsBackend) work(js jetstream.JetStream, msg jetstream.Msg) {
	h := msg.Headers()
	to, err := url.Parse(h.Get(natsDestination))
	if err != nil {
		_ = msg.TermWithReason(err.Error())
		return
	}
	id := h.Get("Id")
	err = b.to(b.ctx, hop.Message{ID: id, Destination: to, ContentType: h.Get(natsContentType), Body: msg.Data()})
	if err == nil {
		_, err = js.Publish(b.ctx, natsResults, []byte(id+" delivered"))
	}
	if err != nil {
		_ = msg.NakWithDelay(time.Second)
		return
	}
	_ = msg.Ack()
}

func (b *natsBackend) close(context.Context) error {
	for _, c := range b.consumers {
		c.Stop()
	}
	b.stop()
	b.wg.Wait()
	for _, nc := range b.conns {
		nc.Close()
	}
	b.server.Shutdown()
	b.server.WaitForShutdown()
	return nil
}
