package auto

import (
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/kernel"
)

// OpenTap begins to copy the packets of an interface of the mesh. It works beside either engine, where the
// kernel has programs with rings (Linux 5.8). The error of a kernel that has none wraps ebpf.ErrNotSupported.
func OpenTap(device string, o dataplane.TapOptions) (dataplane.Tap, error) {
	return kernel.OpenTap(device, o)
}
