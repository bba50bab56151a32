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
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"example.org/meshd/configs"
	"example.org/meshd/internal/nstest"
)

const prefix = "meshdemo"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo FOLDER-OF-BINARIES")
		os.Exit(2)
	}
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string) (err error) {
	if err := nstest.Available(); err != nil {
		return err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "mesh.toml")
	doc, err := configs.Files.ReadFile("demo.toml")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, doc, 0o644); err != nil {
		return err
	}

	nstest.Sweep(prefix)
	lab, err := nstest.NewLab(fmt.Sprintf("%s%d", prefix, os.Getpid()))
	if err != nil {
		return err
	}
	d := &demo{ctx: ctx, bin: bin, file: file, dir: dir}
	err = d.play(lab)
	if errors.Is(err, errInterrupted) {
		fmt.Println("\ninterrupted: cleaning up")
		err = nil
	}
	err = errors.Join(err, nstest.StopAll(d.daemons...), lab.Close())
	if err == nil {
		fmt.Println("\n== everything is removed again")
	}
	return err
}

var errInterrupted = errors.New("interrupted")

type demo struct {
	ctx            context.Context
	bin, file, dir string
	daemons        []*nstest.Daemon
}

func (d *demo) play(lab *nstest.Lab) error {
	fmt.Printf("== one mesh.toml for all\n\n%s\n", read(d.file))
	r, err := nstest.NewReference(lab, 1472)
	if err != nil {
		return err
	}
	fmt.Printf("== three hosts, a real meshd on each\n\n")
	for _, h := range r.Hosts() {
		daemon, err := h.Meshd(filepath.Join(d.bin, "meshd"), d.file, d.dir)
		if err != nil {
			return err
		}
		d.daemons = append(d.daemons, daemon)
		if err := errors.Join(daemon.WaitReady(), d.stopped()); err != nil {
			return err
		}
		fmt.Print(daemon.Log())
	}
	fmt.Println()

	if err := d.show(r); err != nil || !isTerminal(os.Stdin) || !isTerminal(os.Stdout) {
		return err
	}
	return d.dashboard(r)
}

// dashboard shows meshtui on worker2 while pods send a little, until somebody quits.
func (d *demo) dashboard(r *nstest.Reference) (err error) {
	ctx, cancel := context.WithCancel(d.ctx)
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
	fmt.Printf("# meshtui --socket %s\n", d.daemons[2].Socket)
	tui := r.Worker2.Command(filepath.Join(d.bin, "meshtui"), "--socket", d.daemons[2].Socket)
	tui.Stdin, tui.Stdout, tui.Stderr = os.Stdin, os.Stdout, os.Stderr
	return tui.Run()
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// show runs what a person would type.
func (d *demo) show(r *nstest.Reference) error {
	steps := []struct {
		title string
		in    *nstest.Namespace
		args  []string
	}{
		{"the TUN of worker2", r.Worker2.Namespace, []string{"ip", "addr", "show", "mesh0"}},
		{"its routes", r.Worker2.Namespace, []string{"ip", "route"}},
		{"pod 10.244.2.3 to a pod on the same host: bridged, ttl=64", r.PodW2b, []string{"ping", "-c", "2", "-i", "0.2", "10.244.2.2"}},
		{"pod 10.244.2.3 to a pod on worker: through the mesh, ttl=60", r.PodW2b, []string{"ping", "-c", "2", "-i", "0.2", "10.244.1.2"}},
		{"pod 10.244.0.2 to a pod on worker2", r.PodCP, []string{"ping", "-c", "2", "-i", "0.2", "10.244.2.2"}},
		{"the largest packet that fits, and one byte more", r.PodW2b, []string{"ping", "-c", "1", "-M", "do", "-s", "1444", "10.244.1.2"}},
		{"", r.PodW2b, []string{"sh", "-c", "ping -c 1 -M do -s 1445 10.244.1.2 || true"}},
		{"every hop shows", r.PodW2b, []string{"traceroute", "-n", "-q", "1", "-w", "2", "10.244.1.2"}},
		{"an address nobody has: refused at once", r.PodW2b, []string{"sh", "-c", "ping -c 1 10.244.9.9 || true"}},
		{"host worker2 to a pod on worker: from 10.244.2.0", r.Worker2.Namespace, []string{"ping", "-c", "1", "10.244.1.2"}},
	}
	for _, step := range steps {
		if err := d.stopped(); err != nil {
			return err
		}
		if step.title != "" {
			fmt.Printf("== %s\n\n", step.title)
		}
		fmt.Printf("# %s\n", strings.Join(step.args, " "))
		out, err := step.in.Run(step.args[0], step.args[1:]...)
		if stopped := d.stopped(); stopped != nil {
			return stopped
		}
		if err != nil {
			return err
		}
		fmt.Println(out)
	}
	for _, question := range [][]string{{"status"}, {"route", "10.244.1.2"}} {
		fmt.Printf("# meshd %s\n", strings.Join(question, " "))
		out, err := d.daemons[2].Ask(question...)
		if err != nil {
			return errors.Join(d.stopped(), err)
		}
		fmt.Println(out)
	}
	return nil
}

func (d *demo) stopped() error {
	if d.ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

func read(file string) []byte {
	doc, err := os.ReadFile(file)
	if err != nil {
		return []byte(err.Error())
	}
	return doc
}
