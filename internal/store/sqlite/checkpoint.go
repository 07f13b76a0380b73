package sqlite

import (
	"sync/atomic"
	"time"

	"zombiezen.com/go/sqlite"
)

// The WAL is copied into the data file ("checkpointed") by a connection of its own, so that the writer does not wait for it.
//
// A passive checkpoint runs when the WAL has grown by checkpointEvery, and when nothing was written for idleCheckpoint. It
// waits for nobody. When it has copied everything and no reader uses the WAL, the next commit begins the WAL again at its
// front. Under a steady load commits go on while a checkpoint copies, so its end is never reached; therefore, when the WAL
// is longer than walLimit, the writer itself copies the little that is left, between two batches, and begins it again. So
// the WAL is about as long as walLimit and what is committed during a checkpoint, unless another program reads for long.

const (
	pageSize        = 4096
	frameSize       = pageSize + 24
	checkpointEvery = 8 << 20 // bytes, as in a checkpointer
	walLimit        = 64 << 20
	idleCheckpoint  = time.Second
	// The writer waits so long for reads that still use the WAL, and then tries again after the next checkpoint. Reads that
	// begin meanwhile find everything copied and do not use it. A WAL of twice the limit is worth a longer wait.
	restartPatience, lastPatience = 50 * time.Millisecond, time.Second
)

// A checkpointer is what the writer and the checkpointing goroutine share.
type checkpointer struct {
	every, limit int64 // checkpointEvery and walLimit, but in tests

	grown chan struct{} // capacity 1: the WAL is longer than next
	wrote chan struct{} // capacity 1: it was written to, and nobody watched

	// next is the length of the WAL that is reason for a checkpoint. The writer sets it when it begins the WAL again, the
	// checkpointing goroutine after a checkpoint.
	next atomic.Int64
	// watching says that the goroutine waits for the end of writing.
	watching atomic.Bool
	// passed says that a checkpoint ended and left the WAL longer than walLimit.
	passed atomic.Bool
}

// afterCommit is called by the writer between batches.
func (w *writer) afterCommit() {
	c, end := &w.e.checkpoint, w.e.wal.end.Load()
	if end < w.lastEnd { // SQLite began the WAL again
		c.next.Store(c.every)
	}
	if end != w.lastEnd && !c.watching.Load() && c.watching.CompareAndSwap(false, true) {
		signal(c.wrote)
	}
	w.lastEnd = end
	if end < c.next.Load() {
		return
	}
	if end >= c.limit && c.passed.CompareAndSwap(true, false) {
		w.restartWAL()
		return
	}
	signal(c.grown)
}

// restartWAL copies the rest of the WAL, of which a checkpoint that just ended has copied most, and lets the next commit begin
// it again.
func (w *writer) restartWAL() {
	patience := restartPatience
	if w.lastEnd > 2*w.e.checkpoint.limit {
		patience = lastPatience
	}
	w.c.SetBusyTimeout(patience)
	defer w.c.SetBusyTimeout(busyTimeout)
	if _, _, err := runCheckpoint(w.restartLog); err != nil {
		w.e.log.Warn("begin the WAL again", "error", err)
		return
	}
	w.e.stats.restarts.Add(1)
}

// runCheckpoint runs a checkpoint and returns how long the WAL is, in bytes, and how much of it is copied.
func runCheckpoint(s stmt) (end, copied int64, err error) {
	_, err = first(s, func() error {
		end, copied = s.ColumnInt64(1)*frameSize, s.ColumnInt64(2)*frameSize
		return nil
	})
	return end, copied, err
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// checkpoints is the checkpointing goroutine.
func (e *Engine) checkpoints() {
	c := &e.checkpoint
	var conn *conn
	var passive stmt
	idle := time.NewTimer(idleCheckpoint)
	idle.Stop()
	defer idle.Stop()
	var commits int64
	for {
		select {
		case <-e.stopped:
			if conn != nil {
				if err := conn.Close(); err != nil {
					e.log.Warn("close the data file", "error", err)
				}
			}
			return
		case <-c.wrote:
			commits = e.stats.commits.Load()
			idle.Reset(idleCheckpoint)
			continue
		case <-idle.C:
			if n := e.stats.commits.Load(); n != commits {
				commits = n
				idle.Reset(idleCheckpoint)
				continue
			}
			c.watching.Store(false)
		case <-c.grown:
		}
		if conn == nil {
			var err error
			sync := "synchronous = FULL"
			if e.wal.noSync {
				sync = "synchronous = OFF"
			}
			if conn, err = e.connect(sqlite.OpenReadWrite, sync, "cache_size = 16"); err != nil {
				e.log.Warn("open the data file for checkpoints", "error", err)
				continue
			}
			passive = conn.prepare("PRAGMA wal_checkpoint(PASSIVE)")
		}
		end, _, err := runCheckpoint(passive)
		if err != nil {
			e.log.Warn("checkpoint the WAL", "error", err)
		}
		e.stats.checkpoints.Add(1)
		c.passed.Store(end >= c.limit)
		c.next.Store(end + c.every)
	}
}
