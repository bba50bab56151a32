package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ownGroups makes control groups for a machine, in each hierarchy by which systemd tells units apart. Without
// them all machines would share this process's, since no service manager makes one for each: systemd on one
// machine would remove the group of a unit that another is about to start (status=219/CGROUP), and kill its
// processes.
func ownGroups(name string) (folders []string, err error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		// proc(5): the fifth field is the mount point; behind the dash are type, source and options.
		before, after, _ := strings.Cut(lines.Text(), " - ")
		kind, at := strings.Fields(after), strings.Fields(before)
		if kind[0] != "cgroup2" && !(kind[0] == "cgroup" && strings.Contains(after, "name=systemd")) {
			continue
		}
		folder := filepath.Join(at[4], fmt.Sprintf("meshd-install-%d-%s", os.Getpid(), name))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return folders, err
		}
		folders = append(folders, folder)
	}
	if len(folders) == 0 {
		return nil, fmt.Errorf("make a control group for %s: no hierarchy of systemd is mounted", name)
	}
	return folders, nil
}

// removeGroups removes what ownGroups has made, with what the machine's systemd has made in it.
func removeGroups(folders []string) {
	for _, folder := range folders {
		var all []string
		_ = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, path := range slices.Backward(all) {
			_ = os.Remove(path) // the kernel says no while something runs there
		}
	}
}
