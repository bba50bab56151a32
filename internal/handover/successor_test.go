package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/nstest"
)

// program writes a shell script that can be run.
func program(t *testing.T, script string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "meshd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func fits() error { return nil }

// The program that is installed takes over only if it says of itself that it can.
func TestTry(t *testing.T) {
	unfit := errors.New("the file was rejected")
	said := filepath.Join(t.TempDir(), "arguments")
	for _, test := range []struct {
		name, script string
		fits         func() error
		asked        bool // the program was run
		err          error
	}{
		{"it can", "exit 0", fits, true, nil},
		{"the file is not in force", "exit 0", func() error { return unfit }, false, unfit},
		{"it cannot", "echo why; exit 78", fits, true, new(exec.ExitError)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := NewSuccessor(nil, test.fits, slog.New(slog.DiscardHandler))
			s.program = program(t, `echo "$@" > `+said+"\n"+test.script)
			err := s.try(t.Context())
			if failure, ok := test.err.(*exec.ExitError); ok {
				if !errors.As(err, &failure) || failure.ExitCode() != 78 || !strings.Contains(err.Error(), "why") {
					t.Errorf("%v", err)
				}
			} else if !errors.Is(err, test.err) {
				t.Errorf("%v, want %v", err, test.err)
			}
			arguments, err := os.ReadFile(said)
			if asked := err == nil; asked != test.asked {
				t.Fatalf("the program was run: %v", asked)
			}
			if words := strings.Fields(string(arguments)); test.asked && words[len(words)-1] != "--check" {
				t.Errorf("it was run with %q", words)
			}
			os.Remove(said)
		})
	}
}

func TestTryOfNoProgram(t *testing.T) {
	s := NewSuccessor(nil, fits, slog.New(slog.DiscardHandler))
	s.program = filepath.Join(t.TempDir(), "gone")
	if err := s.try(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// It is asked as often as somebody likes, until it can.
func TestSuccessorRuns(t *testing.T) {
	ask, log := make(chan os.Signal), &nstest.Events{}
	refused := errors.New("refused")
	answers := make(chan error, 2)
	answers <- refused
	answers <- nil
	s := NewSuccessor(ask, func() error { return <-answers }, slog.New(log))
	s.program = program(t, "exit 0")
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	ask <- unix.SIGUSR2
	ask <- unix.SIGUSR2
	if err := <-done; !errors.Is(err, ErrReplaced) {
		t.Errorf("%v", err)
	}
	if got := log.Take(); !slices.Equal(got, []string{"replace_failed", "replaced"}) {
		t.Errorf("logged %q", got)
	}
}

func TestSuccessorThatIsNotAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewSuccessor(nil, fits, slog.New(slog.DiscardHandler)).Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestReplaced(t *testing.T) {
	for _, test := range []struct {
		name  string
		cause error
		want  bool
	}{
		{"for the successor", fmt.Errorf("successor: %w", ErrReplaced), true},
		{"by SIGTERM", nil, false},
		{"for another error", errors.New("x"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			if Replaced(ctx) {
				t.Error("it has not ended yet")
			}
			if cancel(test.cause); Replaced(ctx) != test.want {
				t.Errorf("%v, want %v", !test.want, test.want)
			}
		})
	}
}

// role is the environment variable that has this binary play a daemon or its successor.
const role = "HANDOVER_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "predecessor":
		predecessor(context.Background())
	case "predecessor that ends":
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		predecessor(ctx)
	case "successor":
		successor()
	case "started again":
		startedAgain()
	default:
		os.Exit(m.Run())
	}
}

// predecessor leaves a pipe with a packet in it, and becomes the successor.
func predecessor(ctx context.Context) {
	r, w, err := os.Pipe()
	check(err)
	_, err = w.WriteString("packet")
	check(err)
	log := slog.New(slog.DiscardHandler)
	check(New(log).Bequeath(map[string]dataplane.Descriptor{"tun-0": descriptor{r}}))
	check(os.Setenv(role, "successor"))
	check(NewSuccessor(nil, nil, log).Replace(ctx))
	fmt.Println("it stays")
}

// successor tells what it found. Signals that come before it listens must not end it.
func successor() {
	for _, signal := range []unix.Signal{unix.SIGHUP, unix.SIGUSR2} {
		check(unix.Kill(os.Getpid(), signal))
	}
	for _, f := range New(slog.New(slog.DiscardHandler)).Left() {
		waiting, err := io.ReadAll(f)
		check(err)
		fmt.Printf("%d %s %s", os.Getpid(), f.Name(), waiting)
	}
}

// startedAgain uses one of the descriptors that the service manager has kept.
func startedAgain() {
	check(os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid())))
	m := New(slog.New(slog.DiscardHandler))
	used := map[string]dataplane.Descriptor{}
	for _, f := range m.Left() {
		content := make([]byte, 16)
		n, err := f.ReadAt(content, 0)
		if !errors.Is(err, io.EOF) {
			check(err)
		}
		fmt.Printf("%s %s\n", f.Name(), content[:n])
		used["udp-0"] = descriptor{f}
	}
	check(m.Keep(used))
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// The installed program becomes this process: its id and what waits in its descriptors stay.
func TestReplace(t *testing.T) {
	environment(t, nil)
	run := func(as string) (pid int, out string) {
		t.Helper()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), role+"="+as)
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return cmd.Process.Pid, strings.TrimSpace(string(text))
	}
	t.Run("it takes over", func(t *testing.T) {
		pid, out := run("predecessor")
		if want := fmt.Sprintf("%d tun-0 packet", pid); out != want {
			t.Errorf("%q, want %q", out, want)
		}
	})
	t.Run("it was stopped meanwhile", func(t *testing.T) {
		if _, out := run("predecessor that ends"); out != "it stays" {
			t.Errorf("%q", out)
		}
	})
}

// What the service manager has kept is there in the next run, which tells it what to keep instead.
func TestStartedAgain(t *testing.T) {
	in := newInbox(t)
	_, open := files(t, "udp-0", "tun-0")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=started again", "LISTEN_FDS=2", "LISTEN_FDNAMES=udp-0:tun-0")
	for _, name := range []string{"udp-0", "tun-0"} {
		if _, err := open[name].WriteString("of " + name); err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, open[name])
	}
	out, err := cmd.CombinedOutput()
	if want := "udp-0 of udp-0\ntun-0 of tun-0\n"; err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
	in.hears("it kept one",
		[]string{"FDSTOREREMOVE=1", "FDNAME=udp-0"}, []string{"FDSTOREREMOVE=1", "FDNAME=tun-0"},
		[]string{"FDSTORE=1", "FDPOLL=0", "FDNAME=udp-0"})
}
