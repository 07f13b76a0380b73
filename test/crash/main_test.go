//go:build crash

package crash

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "seed of what is random; 0: a new one")
	soakFlag    = flag.Duration("soak", 0, "go on with the mixed load, again and again, for so long")
	loadFlag    = flag.Int("load", 5000, "messages of the mixed load")
	limitsFlag  = flag.Int("limits", 20_000, "messages of the load on queues and flow keys")
	backlogFlag = flag.Int("backlog", 10_000, "messages that wait behind one key")
	strictFlag  = flag.Bool("strict", false, "judge speed, too, as nothing else runs on the machine")
	serverFlag  = flag.String("server", "", "the program to test, built with -tags crash; empty: it is built from the tree")
)

// binary is the server under test.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if *seedFlag == 0 {
		*seedFlag = uint64(time.Now().UnixNano())
	}
	if binary = *serverFlag; binary == "" {
		dir, err := os.MkdirTemp("", "posthaste-crash-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "posthaste")
		build := exec.Command("go", "build", "-tags", "crash", "-o", binary, "../../cmd/posthaste")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the server:", err)
			return 1
		}
	}
	return m.Run()
}

// newRand returns the source of what is random in a test. It depends on the seed and the test's name alone, so a test can be
// repeated without those before it.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	t.Logf("seed %d", *seedFlag)
	h := fnv.New64a()
	h.Write([]byte(t.Name()))
	return rand.New(rand.NewPCG(*seedFlag, h.Sum64()))
}
