package kernel

import (
	"os"
	"os/exec"
	"testing"

	"example.org/meshd/internal/nstest"
)

// The service has CAP_BPF and CAP_NET_ADMIN alone: without CAP_PERFMON the verifier takes
// less of a program.
func TestLoadAsService(t *testing.T) {
	nstest.Require(t)
	if os.Getenv("MESH_AS_SERVICE") != "" {
		p := programsOf(t, meshOver(false))
		if _, err := p.xdpProgram(); err != nil {
			t.Error(err)
		}
		return
	}
	cmd := exec.Command("setpriv", "--bounding-set", "-all,+net_admin,+bpf", os.Args[0], "-test.run", "^TestLoadAsService$")
	cmd.Env = append(os.Environ(), "MESH_AS_SERVICE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
