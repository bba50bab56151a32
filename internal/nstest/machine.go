package nstest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine describes this machine as far as figures depend on its kind: "2 CPUs, virtual, Linux 6.18".
func Machine() string {
	var name unix.Utsname
	_ = unix.Uname(&name) // it fails for a bad pointer alone
	version := unix.ByteSliceToString(name.Release[:])
	if parts := strings.SplitN(version, ".", 3); len(parts) > 2 { // what follows is about who built it
		version = parts[0] + "." + strings.TrimRight(parts[1], "+-")
	}
	kind := ""
	// The processor's bit 31 of CPUID leaf 1 (arch/x86/kernel/cpu/hypervisor.c).
	if info, _ := os.ReadFile("/proc/cpuinfo"); strings.Contains(string(info), " hypervisor") {
		kind = "virtual, "
	}
	return fmt.Sprintf("%d CPUs, %sLinux %s", runtime.NumCPU(), kind, version)
}

// Measured tells where figures of a page come from: day, machine, its load over 15 minutes with all that
// others ran on it, and the command that measures again.
func Measured(command string) string {
	var minute, five, load float64
	text, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(text), &minute, &five, &load) // 0 if it is not there: it judges nothing
	return fmt.Sprintf("Measured %s; %s; load average %.1f; `%s`.", time.Now().UTC().Format("2006-01-02"),
		Machine(), load, command)
}

// Between replaces what a page has between the two marks of a name, which programs write; the rest is
// written by people. The marks are comments: <!-- NAME --> and <!-- /NAME -->.
func Between(page, name, text string) (string, error) {
	begin, end := fmt.Sprintf("<!-- %s -->\n", name), fmt.Sprintf("<!-- /%s -->\n", name)
	head, rest, begun := strings.Cut(page, begin)
	_, tail, ended := strings.Cut(rest, end)
	if !begun || !ended {
		return "", fmt.Errorf("find the marks of %q: the page has no %q with %q behind it", name, begin, end)
	}
	return head + begin + text + end + tail, nil
}

// Rewrite replaces what a file has between the two marks of a name; see Between.
func Rewrite(path, name, text string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed, err := Between(string(page), name, text)
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	return os.WriteFile(path, []byte(changed), 0o644)
}
