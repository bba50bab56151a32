// Command screenshots is `make screenshots`: it starts a mesh of seven hosts, as the
// demo does, lets some things go wrong in it, and takes a picture of each screen of
// meshtui. tmux drives, xterm under Xvfb shows, ImageMagick saves.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"example.org/meshd/configs"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/tools/show"
)

// main makes the stage, plays on it, and takes the pictures; show.Run removes all of it.
func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: screenshots FOLDER-OF-BINARIES FOLDER-FOR-PICTURES")
		os.Exit(2)
	}
	err := show.Run("meshshot", os.Args[1], func(on *show.Stage) error {
		s := &stage{Stage: on, out: os.Args[2]}
		if err := s.play(); err != nil {
			return err
		}
		return s.take()
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "screenshots: %v\n", err)
		os.Exit(1)
	}
}

// A picture is what to press, what must be on the screen then, and where it is saved.
type picture struct {
	name          string
	width, height int
	keys          []string
	shows         string
}

// background is what a terminal draws on. Nothing tells a program which one that is, so pictures have to be
// readable on both.
type background struct{ suffix, back, front string }

var (
	dark  = background{"", "#101418", "#d0d4d8"}
	white = background{"-white", "#ffffff", "#101418"}
)

// The flagship: a mesh in which every host is up.
var healthy = picture{"healthy", 140, 40, nil, "edge-4"}

// The same mesh after trouble.
var pictures = []picture{
	{"dashboard", 140, 40, nil, "events"},
	{"overview", 80, 24, nil, "TRAFFIC"},
	{"peers", 80, 24, []string{"2"}, "[2 Peers"},
	{"detail", 80, 24, []string{"/", "edge-2", "Enter", "Enter"}, "PEERS > edge-2"},
	{"events", 80, 24, []string{"Escape", "Escape", "3"}, "events"},
	{"node", 80, 24, []string{"4"}, "ENGINE"},
	{"flows", 80, 24, []string{"F"}, "SHARE"},
	{"help", 80, 24, []string{"Escape", "?"}, "MOVE"},
	{"config", 80, 24, []string{"Escape", "1", "c"}, "would change"},
}

// stage is a mesh with seven hosts, seen from worker2.
type stage struct {
	*show.Stage
	out       string // folder for pictures
	self      *nstest.Daemon
	hosts     []*nstest.Host
	reference *nstest.Reference
	doc       string // the file
}

// far are the hosts that the demo does not have.
const far = 4

// play starts the mesh and lets it run for a while, in which one host dies, another
// loses packets, and a third gets another file.
func (s *stage) play() error {
	demo, err := configs.Files.ReadFile("demo.toml")
	if err != nil {
		return err
	}
	var doc strings.Builder
	doc.Write(demo)
	for i := 1; i <= far; i++ {
		fmt.Fprintf(&doc, "\n[[node]]\nname    = \"edge-%d\"\naddress = \"172.18.0.%d\"\n"+
			"subnets = [\"10.244.%d.0/24\"]\n", i, 10+i, 10+i)
	}
	r, err := nstest.NewReference(s.Lab, 1472)
	if err != nil {
		return err
	}
	hosts := r.Hosts()
	for i := 1; i <= far; i++ {
		h, err := s.Lab.Host(fmt.Sprintf("edge-%d", i), fmt.Sprintf("172.18.0.%d/16", 10+i))
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	for i, h := range hosts {
		file := filepath.Join(s.Dir, fmt.Sprintf("%d.toml", i))
		if err := os.WriteFile(file, []byte(doc.String()), 0o644); err != nil {
			return err
		}
		if _, err := s.Start(h, file); err != nil {
			return err
		}
	}
	s.self, s.reference, s.hosts, s.doc = s.Daemons[2], r, hosts, doc.String()
	return s.traffic([]ping{
		{r.PodW2b, "-i 0.002 -s 1400 10.244.1.2"},
		{r.PodW2a, "-i 0.01 -s 900 10.244.0.2"},
		{r.PodW, "-i 0.005 -s 1200 10.244.2.2"},
		{r.PodW2a, "-i 0.02 -s 600 10.244.11.0"},
		{r.PodW2b, "-i 0.004 -s 1000 10.244.12.0"},
		{r.PodW2a, "-i 0.03 -s 300 10.244.13.0"},
		{r.PodW2b, "-i 0.008 -s 700 10.244.14.0"},
	})
}

// A ping is what a pod sends in the background.
type ping struct {
	in   *nstest.Namespace
	args string
}

// traffic starts pings that last until the end.
func (s *stage) traffic(pings []ping) error {
	var errs []error
	for _, p := range pings {
		errs = append(errs, p.in.Background(s.Ctx, "ping",
			append([]string{"-q", "-w", "600"}, strings.Fields(p.args)...)...))
	}
	return errors.Join(errs...)
}

// pass lets time go by: a chart is made of it.
func (s *stage) pass(d time.Duration) error {
	fmt.Printf("the mesh runs for %v\n", d)
	select {
	case <-s.Ctx.Done():
		return s.Ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// trouble kills edge-4, drains edge-3, makes edge-2 lose packets, gives edge-1 another file, sends to an
// address that no node has, and writes an invalid file on worker2.
func (s *stage) trouble() error {
	// On edge-2, where the kernel engine hands probes to the stack: on worker2 its programs take
	// the answers before any rule.
	if out, err := s.hosts[4].Run("nft", "add table ip lossy; "+
		"add chain ip lossy in { type filter hook prerouting priority raw; }; "+
		"add rule ip lossy in ip saddr 172.18.0.3 udp dport 8285 numgen random mod 100 < 10 drop"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	another := []byte(s.doc + "# a change that the others do not have\n")
	if err := os.WriteFile(s.Daemons[3].Config, another, 0o644); err != nil {
		return err
	}
	if err := s.traffic([]ping{{s.reference.PodW2b, "-i 3 10.244.99.1"}}); err != nil {
		return err
	}
	drain := exec.CommandContext(s.Ctx, filepath.Join(s.Bin, "meshd"), "drain", "--reason", "new disk",
		"--socket", s.Daemons[5].Socket)
	if out, err := drain.CombinedOutput(); err != nil {
		return fmt.Errorf("drain edge-3: %w: %s", err, out)
	}
	s.Daemons[6].Kill()
	if err := s.pass(60 * time.Second); err != nil {
		return err
	}
	invalid := strings.Replace(s.doc, "10.244.13.0/24", "10.244.12.0/24", 1)
	return os.WriteFile(s.self.Config, []byte(invalid), 0o644)
}

// take takes all pictures.
func (s *stage) take() error {
	display, end, err := xvfb(s.Ctx)
	if err != nil {
		return err
	}
	defer end()
	terminal, err := nstest.NewTerminal(s.Dir, 80, 24)
	if err != nil {
		return err
	}
	defer terminal.Close()
	// A path as on an installed host.
	command := "exec " + filepath.Join(s.Bin, "meshtui") + " --socket " + s.self.Socket
	if err := terminal.Type(command); err != nil {
		return err
	}
	if err := s.pass(100 * time.Second); err != nil {
		return err
	}
	if err := s.shoot(terminal, display, healthy); err != nil {
		return err
	}
	if err := s.trouble(); err != nil {
		return err
	}
	for _, p := range pictures {
		if p.name == "config" { // what is not applied since it was not read
			p.shows = "cannot be applied"
		}
		if err := s.shoot(terminal, display, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	s.self.Kill()
	return s.shoot(terminal, display, picture{"disconnected", 80, 24, []string{"Escape", "1"}, "not answering"})
}

// shoot takes one picture on each background.
func (s *stage) shoot(terminal *nstest.Terminal, display string, p picture) error {
	if err := terminal.Resize(p.width, p.height); err != nil {
		return err
	}
	for _, k := range p.keys {
		if err := terminal.Press(k); err != nil {
			return err
		}
		if err := s.pass(300 * time.Millisecond); err != nil { // Escape and a key are two
			return err
		}
	}
	shown := func(screen string) bool { return strings.Contains(screen, p.shows) }
	if _, err := terminal.Wait(p.name, shown); err != nil {
		return err
	}
	for _, on := range []background{dark, white} {
		if err := s.save(terminal, display, p, on); err != nil {
			return err
		}
	}
	return nil
}

// save has an xterm show the terminal, and saves what it draws.
func (s *stage) save(terminal *nstest.Terminal, display string, p picture, on background) error {
	args := append([]string{
		"-geometry", fmt.Sprintf("%dx%d+0+0", p.width, p.height), "-fa", "DejaVu Sans Mono", "-fs", "11",
		"-bg", on.back, "-fg", on.front, "-b", "6", "+sb", "-T", p.name, "-e",
	}, terminal.Attach()...)
	xterm := exec.CommandContext(s.Ctx, "xterm", args...)
	xterm.Env = append(os.Environ(), "DISPLAY="+display, "LC_ALL=C.UTF-8")
	if err := xterm.Start(); err != nil {
		return err
	}
	defer func() {
		_ = xterm.Process.Kill()
		_ = xterm.Wait()
	}()
	if err := s.pass(4 * time.Second); err != nil { // it tells nobody when it has drawn
		return err
	}
	file := filepath.Join(s.out, "meshtui-"+p.name+on.suffix+".png")
	shot := exec.CommandContext(s.Ctx, "import", "-window", p.name, "-depth", "8", "-colors", "64", file)
	shot.Env = append(os.Environ(), "DISPLAY="+display)
	if out, err := shot.CombinedOutput(); err != nil {
		return fmt.Errorf("import: %w\n%s", err, out)
	}
	fmt.Println(file)
	return nil
}

// xvfb starts an X server without a screen.
func xvfb(ctx context.Context) (display string, end func(), err error) {
	tell, told, err := os.Pipe()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, "Xvfb", "-displayfd", "3", "-screen", "0", "1600x1200x24",
		"-nolisten", "tcp")
	cmd.ExtraFiles = []*os.File{told}
	if err := errors.Join(cmd.Start(), told.Close()); err != nil {
		return "", nil, err
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	number := make([]byte, 16)
	n, err := tell.Read(number)
	if err != nil && !errors.Is(err, io.EOF) || n == 0 {
		end()
		return "", nil, fmt.Errorf("start Xvfb: %w", err)
	}
	return ":" + strings.TrimSpace(string(number[:n])), end, nil
}
