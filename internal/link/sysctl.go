package link

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Settings of the host that decide whether pods' packets pass at all. meshd
// reads them, and writes them only when told to.

const (
	forward4 = "/proc/sys/net/ipv4/ip_forward"
	forward6 = "/proc/sys/net/ipv6/conf/all/forwarding"
)

// Forwarding tells whether the host forwards packets of a family.
func Forwarding(v6 bool) (bool, error) {
	path := forward4
	if v6 {
		path = forward6
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read whether the host forwards: %w", err)
	}
	return !bytes.Equal(bytes.TrimSpace(value), []byte("0")), nil
}

// SetForwarding makes the host forward packets of a family. For IPv6 it first
// sees to it that interfaces keep listening to router advertisements, which the
// kernel otherwise stops when a host becomes a router
// (Documentation/networking/ip-sysctl.rst, accept_ra): their default route
// would go.
func SetForwarding(v6 bool) error {
	if !v6 {
		return write(forward4, "1")
	}
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		if value, err := os.ReadFile(file); err == nil && bytes.Equal(bytes.TrimSpace(value), []byte("1")) {
			errs = append(errs, write(file, "2"))
		}
	}
	return errors.Join(append(errs, write(forward6, "1"))...)
}

func write(path, value string) error {
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("let the host forward: %w", err)
	}
	return nil
}
