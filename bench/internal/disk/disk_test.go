package disk_test

import (
	"os"
	"testing"

	"github.com/posthaste/posthaste/bench/internal/disk"
)

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	p, err := disk.NewProbe(dir)
	if err != nil {
		t.Fatal(err)
	}
	times, err := p.Series(300) // more than the file has blocks
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range times {
		if d <= 0 {
			t.Errorf("write %d took %v", i, d)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
