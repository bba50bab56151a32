package main

import (
	"context"
	"fmt"
	"os"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/tui"
)

// framesPerSecond bounds how often the screen is looked at; what changes is drawn.
const framesPerSecond = 10

// quitTimeout is how long a terminal may take nothing, after ^S or behind an ssh that
// stands still, before the program ends without drawing it anew.
const quitTimeout = time.Second

// runDashboard runs the dashboard until the user quits or ctx ends. The terminal's settings
// are as they were before in either case.
func runDashboard(ctx context.Context, o tui.Options, stdin, stdout *os.File) error {
	before, err := unix.IoctlGetTermios(int(stdin.Fd()), unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the terminal's settings: %w", err)
	}
	model := tui.New(o)
	defer model.Close()
	// Signals are ours (main): Bubble Tea's own handler would leave SIGHUP out.
	program := tea.NewProgram(model, tea.WithInput(stdin), tea.WithOutput(stdout), tea.WithAltScreen(),
		tea.WithFPS(framesPerSecond), tea.WithoutSignalHandler())
	ended := make(chan error, 1) // nobody reads it if the terminal is stuck
	go func() {
		_, err := program.Run()
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		go program.Quit() // which waits for a terminal that takes nothing
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(quitTimeout):
		// Run still waits to write. The process ends, so nothing but the settings is left to do.
		return unix.IoctlSetTermios(int(stdin.Fd()), unix.TCSETS, before)
	}
}
