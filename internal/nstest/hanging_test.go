package nstest

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// hangs blocks for ever, for a test that has it killed.
func hangs(ready func()) {
	ready()
	select {}
}

// A process that is ended by SIGQUIT says on one line where its goroutines are.
func TestHangingIsNamed(t *testing.T) {
	const child = "MESH_TEST_HANGS"
	if os.Getenv(child) != "" {
		go hangs(func() { os.Stdout.WriteString("ready\n") })
		hangs(func() {})
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHangingIsNamed$")
	cmd.Env = append(os.Environ(), child+"=1")
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Error(err)
	}
	if cmd.Wait() == nil {
		t.Error("SIGQUIT has not ended it")
	}
	if got := hanging(log.String()); !strings.Contains(got, "nstest.hangs [select (no cases)]") ||
		strings.Contains(got, "\n") || strings.Count(got, "hangs") != 1 {
		t.Errorf("%q of\n%s", got, &log)
	}
}
