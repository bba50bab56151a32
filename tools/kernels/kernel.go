package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

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
