// Command kernels is `make test-kernels`: it boots Debian's kernels in a virtual machine,
// without help of the processor, and runs end-to-end tests of the kernel engine on each. The
// machine's root is this one's, over 9p, with an overlay that takes what is written.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// init is the first program of the machine, guest what it runs once it has its root.
var (
	//go:embed init.sh
	initScript []byte
	//go:embed guest.sh
	guestScript []byte
)

// A boot is one run of a kernel.
type boot struct {
	kernel string  // beginning of the package's name
	suites []suite // that have to pass, one after another
	args   string  // for the kernel
	says   string  // what the tests' output has to show
	bench  bool    // it measures, and proves nothing
}

// A suite is some tests of a room. BIN has the room's tests, linked, under the room's last name.
type suite struct {
	room  string
	tests []string // without the "Test" or "Benchmark" of their names
}

var boots = []boot{
	{kernel: "linux-image-6.1.", suites: []suite{{engineRoom, anyKernel}, {endToEnd, telling}}},
	{kernel: "linux-image-6.1.", suites: encrypted},
	{
		kernel: "linux-image-6.1.",
		suites: []suite{{endToEnd, []string{"EngineByItself"}}},
		args:   "module_blacklist=sch_ingress",
		says:   "engine user: ",
	},
	{
		kernel: "linux-image-6.12.",
		suites: []suite{{engineRoom, slices.Concat(anyKernel, withTCX)}, {endToEnd, telling}},
	},
	{kernel: "linux-image-6.12.", suites: encrypted},
	{kernel: "linux-image-6.12.", suites: []suite{{endToEnd, []string{"RekeyLosesNothing"}}}},
	{
		kernel: "linux-image-6.12.",
		suites: []suite{{endToEnd, []string{"BesideByHand"}}},
		says:   "x-speed",
		bench:  true,
	},
	{
		kernel: "linux-image-6.12.",
		suites: []suite{{endToEnd, []string{"EngineByItself"}}},
		says:   "engine kernel",
	},
}

const (
	engineRoom = "internal/dataplane/kernel"
	endToEnd   = "internal/e2e"
)

var (
	// encrypted are those of the kernel's WireGuard, also against the helper in user space.
	encrypted = []suite{
		{"internal/wireguard", []string{"RandomStatesOfKernel"}}, {"internal/wireguard/user", []string{"Helpers"}},
		{"internal/seal", []string{"ServiceLoadsModule", "ThousandPeers"}},
		{endToEnd, []string{"NothingLeavesBare", "SealedLossless", "KeysOfThisHost"}},
	}
	// telling are tests that the machine can do at its speed.
	telling = []string{
		"EnginesCountTheSame", "Lies", "Families", "IPsecPolicyHolds",
		"KernelEngineInMixedMesh", "KernelEngineOnVLAN", "KernelEngineUnderESP",
		"KernelEngineFollowsUnderlay", "KernelEngineMerges", "KernelEngineSpreads",
	}
	// anyKernel are those that hold on each kernel that meshd supports. Verifiers differ between
	// kernels, and take less of a program without CAP_PERFMON, so LoadAsService is the first.
	anyKernel = []string{
		"LoadAsService", "Filters", "SentVerdicts", "PathsChangeUnderLoad", "CaptureOnUnderlay", "Merger",
		"KernelBefore",
	}
	// withTCX are those that need links of tcx (Linux 6.6), or a superpacket of UDP by a packet
	// socket (VIRTIO_NET_HDR_GSO_UDP_L4, Linux 6.2: Whole).
	withTCX = []string{"TakeOver", "Repair", "Undo", "FallBackToTCX", "FramesOfOthers", "Whole"}
)

// flag is what has the room's binary run them.
func (s suite) flag(bench bool) string {
	names := strings.Join(s.tests, "|")
	if bench {
		return "-test.bench=^Benchmark(" + names + ")$"
	}
	return "-test.run=^Test(" + names + ")$"
}

// binary is the file with the room's tests in a folder.
func (s suite) binary(bin string) string { return filepath.Join(bin, filepath.Base(s.room)+".test") }

// patience is how long one boot may take.
const patience = 25 * time.Minute

// main reads the flags. A signal ends the machine that runs, through the context of its command.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	bin := flag.String("bin", "bin", "where meshd, meshtui and e2e.test are")
	work := flag.String("work", "/var/tmp/meshd-kernels",
		"where kernels are unpacked; they are kept for the next time")
	only := flag.String("only", "", "kernels to boot, by the beginning of their version: 6.1.")
	bench := flag.Bool("bench", false, "measure, and test nothing")
	tests := flag.String("tests", "", "tests to run, separated by commas, without \"Test\"; the default is all")
	flag.Parse()
	if err := run(ctx, *bin, *work, chosen(*bench, *only, *tests)); err != nil {
		fmt.Fprintf(os.Stderr, "kernels: %v\n", err)
		os.Exit(1)
	}
}

// chosen returns the boots of some kernels, by the beginning of their version, with some tests; empty: with
// all.
func chosen(bench bool, version, tests string) (some []boot) {
	for _, b := range boots {
		if b.bench != bench || !strings.HasPrefix(strings.TrimPrefix(b.kernel, "linux-image-"), version) {
			continue
		}
		var suites []suite
		for _, s := range b.suites {
			names := slices.DeleteFunc(slices.Clone(s.tests), func(name string) bool {
				return tests != "" && !slices.Contains(strings.Split(tests, ","), name)
			})
			if len(names) > 0 {
				suites = append(suites, suite{s.room, names})
			}
		}
		if b.suites = suites; len(suites) > 0 {
			some = append(some, b)
		}
	}
	return some
}

// run boots all kernels, also after one has failed: which of them fail says what is wrong.
func run(ctx context.Context, bin, work string, boots []boot) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range boots {
		began := time.Now()
		k, err := unpack(ctx, work, b.kernel)
		if err == nil {
			err = k.run(ctx, b, bin)
		}
		verdict := "ok "
		if err != nil {
			verdict = "BAD"
			errs = append(errs, fmt.Errorf("%s %s: %w", b.kernel, b.args, err))
		}
		fmt.Printf("%s %s %s %s (%v)\n", verdict, k.version, b.suites, b.args, time.Since(began).Round(time.Second))
	}
	return errors.Join(errs...)
}

// kernel is an unpacked package.
type kernel struct{ dir, version string }

// unpack gets the newest package whose name begins so.
func unpack(ctx context.Context, work, begins string) (k kernel, err error) {
	out, err := output(exec.CommandContext(ctx, "apt-cache", "pkgnames", begins))
	if err != nil {
		return k, err
	}
	// 6.12.101+deb12 is newer than 6.12.9: the shorter numbers first.
	name := ""
	for _, n := range strings.Fields(out) {
		plain := regexp.MustCompile(`^linux-image-[0-9.]+(-[0-9]+|\+deb[0-9]+)-amd64$`)
		if plain.MatchString(n) && (len(n) > len(name) || len(n) == len(name) && n > name) {
			name = n
		}
	}
	if name == "" {
		return k, fmt.Errorf("apt offers no kernel whose name begins with %s: run `apt-get update`", begins)
	}
	k = kernel{dir: filepath.Join(work, name), version: strings.TrimPrefix(name, "linux-image-")}
	if _, err := os.Stat(filepath.Join(k.dir, "ready")); err == nil {
		return k, nil
	}
	if err := errors.Join(os.RemoveAll(k.dir), os.MkdirAll(k.dir, 0o755)); err != nil {
		return k, err
	}
	// As whoever owns the folder: apt's own user may not write there.
	for _, line := range [][]string{
		{"sh", "-c", `apt-get download -o APT::Sandbox::User=root "$0" && dpkg-deb -x ./*.deb . && rm ./*.deb`,
			name},
		{"depmod", "-b", k.dir, k.version},
		{"touch", "ready"},
	} {
		cmd := exec.CommandContext(ctx, line[0], line[1:]...)
		cmd.Dir = k.dir
		if _, err := output(cmd); err != nil {
			return k, err
		}
	}
	return k, nil
}

// output runs a command; the error has what it said.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return string(out), nil
}

// initramfs makes the first root of the machine: busybox, and the modules that it needs to
// see this one's.
func (k kernel) initramfs(ctx context.Context) (string, error) {
	root := filepath.Join(k.dir, "initramfs")
	if err := errors.Join(os.RemoveAll(root), os.MkdirAll(filepath.Join(root, "bin"), 0o755),
		os.WriteFile(filepath.Join(root, "init"), initScript, 0o755)); err != nil {
		return "", err
	}
	image := root + ".cpio"
	script := `cp "$(command -v busybox)" bin/ && for module in virtio_pci 9pnet_virtio 9p overlay; do
  modprobe -d "$0" -S "$1" --show-depends $module || exit 1
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' > order &&
n=100; while read -r file; do n=$((n+1)); cp "$file" "$n-${file##*/}" || exit 1; done < order &&
find . | cpio -o -H newc --quiet > "$2"`
	cmd := exec.CommandContext(ctx, "sh", "-c", script, k.dir, k.version, image)
	cmd.Dir = root
	_, err := output(cmd)
	return image, err
}

// run boots the kernel and has it run tests.
func (k kernel) run(ctx context.Context, b boot, bin string) error {
	image, err := k.initramfs(ctx)
	if err != nil {
		return err
	}
	guest := filepath.Join(k.dir, "guest.sh")
	if err := os.WriteFile(guest, guestScript, 0o755); err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	// The words behind "--" of a kernel's command line are the arguments of its first program.
	var suites strings.Builder
	for _, s := range b.suites {
		fmt.Fprintf(&suites, " %s %s %s", filepath.Join(here, s.room), s.binary(bin), s.flag(b.bench))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// TCG, since CI's machines are virtual themselves and have no KVM. The root is read only, and
	// multidevs=remap keeps inodes of its several file systems apart. -no-reboot with panic=-1 makes an
	// end of a kernel's panic.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-accel",
		"tcg,thread=multi", "-smp", "2", "-m", "3072", "-nodefaults", "-no-reboot", "-display", "none", "-serial",
		"stdio", "-kernel", filepath.Join(k.dir, "boot", "vmlinuz-"+k.version), "-initrd", image, "-virtfs",
		"local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap", "-append",
		fmt.Sprintf("console=ttyS0 quiet panic=-1 %s -- %s %s %s%s", b.args, guest, k.dir, bin, suites.String()))
	var said bytes.Buffer
	cmd.Stdout = io.MultiWriter(&said, os.Stdout)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return err
	}
	if out := said.String(); strings.Count(out, "tests ended with 0") != len(b.suites) ||
		!strings.Contains(out, b.says) || strings.Contains(out, "no tests to run") {
		return errors.New("the tests have not passed")
	}
	return nil
}
