// Command demo is `make demo`: three hosts made of network namespaces, joined
// by one mesh.toml and three real meshd processes, with pods that reach each
// other. It shows what happens, on a terminal ends with the dashboard of one of the
// hosts, and removes everything again, also on Ctrl-C.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"example.org/meshd/configs"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/text"
	"example.org/meshd/tools/show"
)

// main plays the demo in a lab that show.Run makes and removes. Ctrl-C is a way to end it, and no
// failure.
func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo FOLDER-OF-BINARIES")
		os.Exit(2)
	}
	err := show.Run("meshdemo", os.Args[1], func(s *show.Stage) error {
		err := play(s)
		if errors.Is(err, context.Canceled) {
			fmt.Println("\ninterrupted: cleaning up")
			return nil
		}
		return err
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
	fmt.Println("\n== everything is removed again")
}

// A demo is the three hosts, with their daemons in the order of Reference.Hosts.
type demo struct{ *show.Stage }

// play starts the mesh and shows it: commands first, then the dashboard if this is a terminal.
func play(s *show.Stage) error {
	doc, err := configs.Files.ReadFile("demo.toml")
	if err != nil {
		return err
	}
	file := filepath.Join(s.Dir, "mesh.toml")
	if err := os.WriteFile(file, doc, 0o644); err != nil {
		return err
	}
	fmt.Printf("== one mesh.toml for all\n\n%s\n", doc)
	r, err := nstest.NewReference(s.Lab, 1472)
	if err != nil {
		return err
	}
	fmt.Printf("== three hosts, a real meshd on each\n\n")
	for _, h := range r.Hosts() {
		daemon, err := s.Start(h, file)
		if err := errors.Join(s.Interrupted(), err); err != nil {
			return err
		}
		fmt.Print(daemon.Log())
	}
	fmt.Println()

	d := demo{s}
	if err := d.show(r); err != nil || !text.IsTerminal(os.Stdin) || !text.IsTerminal(os.Stdout) {
		return err
	}
	return d.dashboard(r)
}

// dashboard shows meshtui on worker2 while pods send a little, until somebody quits.
func (d demo) dashboard(r *nstest.Reference) (err error) {
	ctx, cancel := context.WithCancel(d.Ctx)
	defer cancel()
	for _, p := range []struct {
		in   *nstest.Namespace
		args []string
	}{
		{r.PodW2b, []string{"-i", "0.01", "-s", "1400", "10.244.1.2"}},
		{r.PodW2a, []string{"-i", "0.05", "-s", "300", "10.244.0.2"}},
		{r.PodW, []string{"-i", "0.03", "-s", "900", "10.244.2.2"}},
	} {
		if err := p.in.Background(ctx, "ping", append([]string{"-q", "-w", "3600"}, p.args...)...); err != nil {
			return err
		}
	}
	fmt.Printf("# meshtui --socket %s\n", d.Daemons[2].Socket)
	tui := r.Worker2.Command(filepath.Join(d.Bin, "meshtui"), "--socket", d.Daemons[2].Socket)
	tui.Stdin, tui.Stdout, tui.Stderr = os.Stdin, os.Stdout, os.Stderr
	return tui.Run()
}

// A step is a command that a person would type, and what it shows.
type step struct {
	title string // empty: the title of the step before stands for it
	in    *nstest.Namespace
	args  []string
}

// stepsOn returns what is to be seen on the hosts and pods of the reference.
func stepsOn(r *nstest.Reference) []step {
	return []step{
		{"the TUN of worker2", r.Worker2.Namespace, []string{"ip", "addr", "show", "mesh0"}},
		{"its routes", r.Worker2.Namespace, []string{"ip", "route"}},
		{
			"pod 10.244.2.3 to a pod on the same host: bridged, ttl=64",
			r.PodW2b,
			[]string{"ping", "-c", "2", "-i", "0.2", "10.244.2.2"},
		},
		{
			"pod 10.244.2.3 to a pod on worker: through the mesh, ttl=60",
			r.PodW2b,
			[]string{"ping", "-c", "2", "-i", "0.2", "10.244.1.2"},
		},
		{"pod 10.244.0.2 to a pod on worker2", r.PodCP, []string{"ping", "-c", "2", "-i", "0.2", "10.244.2.2"}},
		{
			"the largest packet that fits, and one byte more",
			r.PodW2b,
			[]string{"ping", "-c", "1", "-M", "do", "-s", "1444", "10.244.1.2"},
		},
		// These two fail on purpose, so a shell makes a success of it: what they print is the point.
		{"", r.PodW2b, []string{"sh", "-c", "ping -c 1 -M do -s 1445 10.244.1.2 || true"}},
		{"every hop shows", r.PodW2b, []string{"traceroute", "-n", "-q", "1", "-w", "2", "10.244.1.2"}},
		{"an address nobody has: refused at once", r.PodW2b, []string{"sh", "-c", "ping -c 1 10.244.9.9 || true"}},
		{
			"host worker2 to a pod on worker: from 10.244.2.0",
			r.Worker2.Namespace,
			[]string{"ping", "-c", "1", "10.244.1.2"},
		},
	}
}

// show runs what a person would type.
func (d demo) show(r *nstest.Reference) error {
	for _, step := range stepsOn(r) {
		if err := d.Interrupted(); err != nil {
			return err
		}
		if step.title != "" {
			fmt.Printf("== %s\n\n", step.title)
		}
		fmt.Printf("# %s\n", strings.Join(step.args, " "))
		out, err := step.in.Run(step.args[0], step.args[1:]...)
		// A command that Ctrl-C has ended failed, too; the interruption is what to report.
		if stopped := d.Interrupted(); stopped != nil {
			return stopped
		}
		if err != nil {
			return err
		}
		fmt.Println(out)
	}
	for _, question := range [][]string{{"status"}, {"route", "10.244.1.2"}} {
		fmt.Printf("# meshd %s\n", strings.Join(question, " "))
		out, err := d.Daemons[2].Ask(question...)
		if err != nil {
			return errors.Join(d.Interrupted(), err)
		}
		fmt.Println(out)
	}
	return nil
}
