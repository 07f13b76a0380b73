package peer

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/posthaste/posthaste/bench/internal/hop"
)

const (
	// riverInserters is the number of goroutines that insert what has gathered, each in a transaction of its own.
	riverInserters = 4
	// riverBatch bounds the jobs of one insert.
	riverBatch = 256
	// riverConnections bounds the connections to PostgreSQL; more of them than processors wait for each other there.
	riverConnections = 24
	// riverLook is the least time between two looks for jobs; 100 ms by default.
	riverLook = 2 * time.Millisecond
)

// Kind implements river.JobArgs.
func (envelope) Kind() string { return kind }

// riverBackend keeps messages as jobs in PostgreSQL, and their results as completed jobs. River has an insert for many
// jobs by COPY; requests that arrive while one runs share the next, as in any server that is written for throughput.
type riverBackend struct {
	pool     *pgxpool.Pool
	client   *river.Client[pgx.Tx]
	most     int
	arrivals chan arrival
	stop     context.CancelFunc
	wg       sync.WaitGroup
}

// arrival is a job that waits for its insert.
type arrival struct {
	job  river.InsertManyParams
	done chan error
}

type riverWorker struct {
	river.WorkerDefaults[envelope]

	to deliver
}

// Work implements river.Worker.
func (w *riverWorker) Work(ctx context.Context, job *river.Job[envelope]) error {
	m, err := job.Args.open()
	if err != nil {
		return err
	}
	return w.to(ctx, m)
}

func openRiver(ctx context.Context, store string, to deliver) (backend, error) {
	return openRiverWith(ctx, store, to, riverBatch)
}

// openRiverWith inserts at most most jobs at a time; with 1 every request inserts its own.
func openRiverWith(ctx context.Context, store string, to deliver, most int) (backend, error) {
	cfg, err := pgxpool.ParseConfig(store)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = riverConnections
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b, err := newRiver(ctx, pool, to, most)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return b, nil
}

func newRiver(ctx context.Context, pool *pgxpool.Pool, to deliver, most int) (*riverBackend, error) {
	db := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(db, nil)
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &riverWorker{to: to}); err != nil {
		return nil, err
	}
	client, err := river.NewClient(db, &river.Config{
		FetchCooldown: riverLook,
		JobTimeout:    patience,
		MaxAttempts:   retries + 1,
		Logger:        slog.New(slog.DiscardHandler),
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: hop.Workers}},
		Workers:       workers,
	})
	if err != nil {
		return nil, err
	}
	// The workers end in close, after the requests.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	if err := client.Start(running); err != nil {
		stop()
		return nil, err
	}
	b := &riverBackend{pool: pool, client: client, most: most, arrivals: make(chan arrival, 4*riverBatch), stop: stop}
	for range riverInserters {
		b.wg.Go(func() { b.insertAll(running) })
	}
	return b, nil
}

func (b *riverBackend) accept(ctx context.Context, m hop.Message) (string, error) {
	m.ID = uuid.NewString()
	job := river.InsertManyParams{Args: seal(m)}
	if m.Delay > 0 {
		job.InsertOpts = &river.InsertOpts{ScheduledAt: time.Now().Add(m.Delay)}
	}
	if b.most == 1 {
		_, err := b.client.Insert(ctx, job.Args, job.InsertOpts)
		return m.ID, err
	}
	a := arrival{job, make(chan error, 1)}
	select {
	case b.arrivals <- a:
	case <-ctx.Done():
		return "", hop.ErrStopping
	}
	select {
	case err := <-a.done:
		return m.ID, err
	case <-ctx.Done():
		return "", hop.ErrStopping
	}
}

// insertAll inserts what has arrived, together, until ctx is done.
func (b *riverBackend) insertAll(ctx context.Context) {
	var waiting []arrival
	var jobs []river.InsertManyParams
	for {
		waiting, jobs = waiting[:0], jobs[:0]
		select {
		case a := <-b.arrivals:
			waiting, jobs = append(waiting, a), append(jobs, a.job)
		case <-ctx.Done():
			return
		}
	gather:
		for len(jobs) < b.most {
			select {
			case a := <-b.arrivals:
				waiting, jobs = append(waiting, a), append(jobs, a.job)
			default:
				break gather
			}
		}
		_, err := b.client.InsertManyFast(ctx, jobs)
		for _, a := range waiting {
			a.done <- err
		}
	}
}

func (b *riverBackend) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := b.client.Stop(ctx)
	b.stop()
	b.wg.Wait()
	b.pool.Close()
	return err
}
