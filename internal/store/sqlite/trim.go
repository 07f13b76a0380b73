package sqlite

import (
	"context"

	"github.com/posthaste/posthaste/internal/store"
)

// Trim implements [store.Engine].
func (e *Engine) Trim(ctx context.Context, p store.TrimParams) (more bool, err error) {
	return false, nil
}
