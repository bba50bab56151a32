package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// init is the first program of the machine, which initramfs makes; guest is what it runs once it has its
// root.
var (
	//go:embed initramfs.sh
	initramfsScript []byte
	//go:embed init.sh
	initScript []byte
	//go:embed guest.sh
	guestScript []byte
)

// patience is how long one boot may take; minutes, where nothing else runs.
const patience = time.Hour

// initramfs makes the first root of the machine: busybox, the modules that it needs to see this one's, and a
// copy of what may run there.
func (k kernel) initramfs(ctx context.Context) (string, error) {
	root := filepath.Join(k.dir, "initramfs")
	if err := errors.Join(os.RemoveAll(root), os.MkdirAll(filepath.Join(root, "bin"), 0o755),
		os.WriteFile(filepath.Join(root, "init"), initScript, 0o755)); err != nil {
		return "", err
	}
	image := root + ".cpio"
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", string(initramfsScript), k.dir, k.version, image)
	cmd.Dir = root
	_, err := output(cmd)
	return image, err
}

// boot boots the kernel with further arguments, has it run the guest's script with the programs in bin and
// some words, and returns what the machine said.
//
// The machine has no clock but its own work: each instruction takes a nanosecond of its time (-icount), and
// while it waits for a timer, the time jumps there (sleep=off). So it cannot stand still, however busy this
// machine is, its times are counts of instructions, and a wait of minutes takes a moment.
func (k kernel) boot(ctx context.Context, args, bin string, words ...string) (said string, err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return "", err
	}
	image, err := k.initramfs(ctx)
	if err != nil {
		return "", err
	}
	guest := filepath.Join(k.dir, "guest.sh")
	if err := os.WriteFile(guest, guestScript, 0o755); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The words behind "--" of a kernel's command line are the arguments of its first program.
	line := slices.Concat([]string{"console=ttyS0 quiet panic=-1 clocksource=tsc tsc=reliable mitigations=off",
		"norandmaps", args, "--", guest, bin}, words)
	// TCG, since CI's machines are virtual themselves and have no KVM; it counts each byte of `rep movsb` as an
	// instruction, so the processor has no fast one (-erms, -fsrm). The root is read only, and multidevs=remap
	// keeps inodes of its several file systems apart. -no-reboot with panic=-1 makes an end of a kernel's panic.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-cpu",
		"max,-erms,-fsrm,-x2apic,-la57", "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off",
		"-m", "3072", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", filepath.Join(k.dir, "boot", "vmlinuz-"+k.version), "-initrd", image, "-virtfs",
		"local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap", "-append",
		strings.Join(line, " "))
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, os.Stdout)
	cmd.Stderr = cmd.Stdout
	err = cmd.Run()
	return out.String(), err
}

// test boots the kernel and has it run tests.
func (k kernel) test(ctx context.Context, b boot, bin string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	words := []string{"tests"}
	for _, s := range b.suites {
		words = append(words, filepath.Join(here, s.room), filepath.Base(s.binary(bin)), s.flag())
	}
	out, err := k.boot(ctx, b.args, bin, words...)
	if err != nil {
		return err
	}
	if strings.Count(out, "tests ended with 0") != len(b.suites) || !strings.Contains(out, b.says) ||
		strings.Contains(out, "no tests to run") {
		return errors.New("the tests have not passed")
	}
	if strings.Contains(out, "the kernel complains") {
		return errors.New("the tests have passed, and the kernel complains")
	}
	return nil
}
