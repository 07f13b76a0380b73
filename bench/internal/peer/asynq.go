package peer

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/posthaste/posthaste/bench/internal/hop"
)

const (
	// asynqServers is the number of servers. Each takes tasks from Redis one by one, so that more of them take more.
	asynqServers = 8
	// asynqConnections bounds the connections to Redis, which answers what it has read together after one sync.
	asynqConnections = 512
	// asynqLook is how often an idle server looks for tasks; 1 s by default.
	asynqLook = 10 * time.Millisecond
	// kept is how long the record of a delivered message is kept.
	kept = 24 * time.Hour
	// patience bounds one delivery.
	patience = 30 * time.Second
	// retries is how often a delivery is tried again.
	retries = 3
	kind    = "deliver"
)

// envelope is a message as a job queue keeps it.
type envelope struct {
	ID          string `json:"id,omitempty"`
	Destination string `json:"to"`
	ContentType string `json:"type,omitempty"`
	Body        []byte `json:"body"`
}

func seal(m hop.Message) envelope {
	return envelope{ID: m.ID, Destination: m.Destination.String(), ContentType: m.ContentType, Body: m.Body}
}

func (e envelope) open() (hop.Message, error) {
	to, err := url.Parse(e.Destination)
	return hop.Message{ID: e.ID, Destination: to, ContentType: e.ContentType, Body: e.Body}, err
}

// asynqBackend keeps messages as tasks in Redis, and their results as completed tasks.
type asynqBackend struct {
	client  *asynq.Client
	servers []*asynq.Server
	redis   redis.UniversalClient
}

func openAsynq(_ context.Context, store string, to deliver) (backend, error) {
	b := &asynqBackend{redis: redis.NewClient(&redis.Options{
		Network: "unix", Addr: store, PoolSize: asynqConnections, ReadTimeout: patience, WriteTimeout: patience,
	})}
	b.client = asynq.NewClientFromRedisClient(b.redis)
	work := asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		var e envelope
		if err := json.Unmarshal(t.Payload(), &e); err != nil {
			return err
		}
		m, err := e.open()
		if err != nil {
			return err
		}
		m.ID = t.ResultWriter().TaskID()
		return to(ctx, m)
	})
	for range asynqServers {
		s := asynq.NewServerFromRedisClient(b.redis, asynq.Config{
			Concurrency:              hop.Workers / asynqServers,
			TaskCheckInterval:        asynqLook,
			DelayedTaskCheckInterval: asynqLook,
			ShutdownTimeout:          time.Second,
			LogLevel:                 asynq.ErrorLevel,
		})
		if err := s.Start(work); err != nil {
			return nil, errors.Join(err, b.close(context.Background()))
		}
		b.servers = append(b.servers, s)
	}
	return b, nil
}

func (b *asynqBackend) accept(ctx context.Context, m hop.Message) (string, error) {
	payload, err := json.Marshal(seal(m))
	if err != nil {
		return "", err
	}
	options := []asynq.Option{asynq.MaxRetry(retries), asynq.Timeout(patience), asynq.Retention(kept)}
	if m.Delay > 0 {
		options = append(options, asynq.ProcessIn(m.Delay))
	}
	info, err := b.client.EnqueueContext(ctx, asynq.NewTask(kind, payload), options...)
	if err != nil {
		return "", err
	}
	return info.ID, nil
}

func (b *asynqBackend) close(context.Context) error {
	for _, s := range b.servers {
		s.Shutdown()
	}
	return b.redis.Close()
}
