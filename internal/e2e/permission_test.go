package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/nstest"
)

// Users and groups of a system of its own.
const (
	gidMesh, gidAdmin             = 60001, 60002
	uidNobody, uidReader, uidBoss = 61000, 61001, 61002
)

// systemFiles lets daemons of the world see other users and groups than this machine
// has, and everybody see the daemon's files. It returns the path of a meshd that
// all may run.
func (w *world) systemFiles(groups, users string) (shared string) {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "meshd")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	binary, err := os.ReadFile(w.binary)
	shared = filepath.Join(dir, "meshd")
	launcher := filepath.Join(dir, "launch")
	script := fmt.Sprintf(
		"#!/bin/sh\nexec unshare -m sh -c 'mount --bind %[1]s/group /etc/group && "+
			"mount --bind %[1]s/passwd /etc/passwd && exec %[2]s \"$@\"' sh \"$@\"\n",
		dir, shared)
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(shared, binary, 0o755), os.WriteFile(launcher,
		[]byte(script), 0o755),
		os.WriteFile(filepath.Join(dir, "group"), []byte("root:x:0:\n"+groups), 0o644),
		os.WriteFile(filepath.Join(dir, "passwd"), []byte("root:x:0:0::/:/bin/sh\n"+users), 0o644)); err != nil {
		w.t.Fatal(err)
	}
	w.binary, w.dir = launcher, dir
	return shared
}

// as runs a command of meshd as another user.
func as(t *testing.T, meshd string, d *nstest.Daemon, uid, gid int,
	groups, command string) (code int, said string) {
	t.Helper()
	args := []string{fmt.Sprintf("--reuid=%d", uid), fmt.Sprintf("--regid=%d", gid)}
	if groups == "" {
		args = append(args, "--clear-groups")
	} else {
		args = append(args, "--groups="+groups)
	}
	cmd := d.Host.Command("setpriv", append(args, meshd, command, "--socket", d.Socket)...)
	out, err := cmd.CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// The group mesh may read, mesh-admin may write, others neither.
func TestPermissions(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	meshd := w.systemFiles(fmt.Sprintf("mesh:x:%d:\nmesh-admin:x:%d:boss\n", gidMesh, gidAdmin),
		fmt.Sprintf("boss:x:%d:%d::/:/bin/sh\n", uidBoss, uidBoss))
	d := w.own(w.Worker2, demoFile(t))
	info, err := os.Stat(d.Socket)
	if err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != gidMesh {
		t.Fatalf("%+v, %v", info, err)
	}
	mesh, admin := fmt.Sprint(gidMesh), fmt.Sprint(gidAdmin)
	for _, test := range []struct {
		who      string
		uid, gid int
		groups   string
		command  string
		code     int
		says     string
	}{
		{"a stranger", uidNobody, uidNobody, "", "status", 4, "for root and the group \"mesh\""},
		{"a reader", uidReader, uidReader, mesh, "status", 0, "worker2  "},
		{"a reader", uidReader, uidReader, mesh, "peers", 0, "worker"},
		{"a reader", uidReader, uidReader, mesh, "reload", 4, "members of the group mesh-admin"},
		{"an administrator by the file", uidBoss, uidBoss, mesh, "reload", 0, "generation 1 applied"},
		{"an administrator by his group", uidReader, gidAdmin, mesh, "reload", 0, "generation 1 applied"},
		{"root", 0, 0, "", "reload", 0, "generation 1 applied"},
		{"an administrator who may not read", uidNobody, uidNobody, admin, "status", 4, "not permitted"},
	} {
		t.Run(test.who+", "+test.command, func(t *testing.T) {
			code, said := as(t, meshd, d, test.uid, test.gid, test.groups, test.command)
			if code != test.code || !strings.Contains(said, test.says) {
				t.Errorf("exit code %d, want %d: %s", code, test.code, said)
			}
		})
	}
}

// Without the group the socket is root's, and the log says how to have one.
func TestNoGroup(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	meshd := w.systemFiles("", "")
	d := w.own(w.Worker2, demoFile(t))
	if told := d.Events("no_group", "group", "mesh"); len(told) != 1 || told[0].Level != "WARN" ||
		!strings.Contains(told[0].Message, "`groupadd --system mesh`") {
		t.Errorf("%v", told)
	}
	if code, said := as(t, meshd, d, uidReader, uidReader, fmt.Sprint(gidMesh), "status"); code != 4 {
		t.Errorf("exit code %d: %s", code, said)
	}
	if code, said := as(t, meshd, d, 0, 0, "", "status"); code != 0 {
		t.Errorf("exit code %d: %s", code, said)
	}
}
