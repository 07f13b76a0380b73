//go:build compat

package compat

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDescription has schemathesis make requests of all kinds by the description of the API, valid and invalid ones: none may be
// answered with 5xx, and every answer must be one that the description knows. The seed is fixed, so that a run can be
// repeated; another one comes from SCHEMATHESIS_SEED.
func TestDescription(t *testing.T) {
	t.Parallel() // with others of its kind, after the tests that look at the time
	path, err := exec.LookPath("schemathesis")
	if err != nil {
		missing(t, "the packages of test/compat/openapi/requirements.txt are not installed: %v", err)
	}
	requirements, err := os.ReadFile("openapi/requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "version ")
	if !strings.Contains(string(requirements), "schemathesis=="+version+"\n") {
		missing(t, "got version %q of schemathesis, want that of test/compat/openapi/requirements.txt", version)
	}

	srv := start(t)
	resp, err := http.Get(srv.url + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	description, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d, %v", resp.StatusCode, err)
	}
	// What is published goes to this machine, as examples of the description do not. And the clock is not sent years ahead: with a
	// schedule of every second that takes as long as a request may.
	description = bytes.ReplaceAll(description, []byte("https://example.com"), []byte(srv.url+"/dev/inbox/fuzz"))
	description = bytes.ReplaceAll(description, []byte("2030-12-24T09:00:00Z"), []byte(time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	file := filepath.Join(t.TempDir(), "openapi.json")
	if err := os.WriteFile(file, description, 0o600); err != nil {
		t.Fatal(err)
	}

	seed := os.Getenv("SCHEMATHESIS_SEED")
	if seed == "" {
		seed = "1"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "run", file, "--url", srv.url, "--max-time", "40", "--seed", seed,
		"--phases", "examples,coverage,fuzzing", "--workers", "2", "--request-timeout", "40", "--continue-on-failure",
		"--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
		"--header", "Authorization: Bearer "+srv.token, "--suppress-health-check", "all", "--warnings", "off", "--no-color")
	cmd.Dir = t.TempDir()
	cmd.Env = srv.environ("HOME="+t.TempDir(), "PYTHONDONTWRITEBYTECODE=1")
	out, err = cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// On an idle machine there are thousands.
	const least = 100
	cases := regexp.MustCompile(`(\d+) generated, (\d+) passed`).FindSubmatch(out)
	if cases == nil {
		t.Fatalf("no case was tested:\n%s", out)
	}
	if n, err := strconv.Atoi(string(cases[2])); err != nil || n < least {
		t.Errorf("got %s cases, want %d at least:\n%s", cases[2], least, out)
	}
	t.Logf("%s", cases[0])
}
