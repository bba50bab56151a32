package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// manifestFile is what people give to kubectl.
const manifestFile = "../../packaging/kubernetes/meshd.yaml"

// A daemonSet is what the test has to know of an object of the manifest; tools/manifest knows all of it.
type daemonSet struct {
	Kind string
	Spec struct {
		Template struct {
			Spec struct {
				HostNetwork bool
				Containers  []container
				Volumes     []struct {
					Name      string
					HostPath  *struct{ Path, Type string }
					ConfigMap *struct{ Name string }
				}
			}
		}
	}
}

// A container is one of its pods'.
type container struct {
	Image           string
	Args            []string
	SecurityContext struct {
		RunAsUser, RunAsGroup    int
		ReadOnlyRootFilesystem   bool
		AllowPrivilegeEscalation *bool
		Capabilities             struct{ Add, Drop []string }
	}
	ReadinessProbe, LivenessProbe struct{ Exec struct{ Command []string } }
	VolumeMounts                  []struct {
		Name, MountPath string
		ReadOnly        bool
	}
}

// manifest returns the DaemonSet, once the types of the API have judged the whole file.
func manifest(t *testing.T) (set daemonSet) {
	t.Helper()
	doc, err := os.ReadFile(manifestFile)
	if err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(t.TempDir(), "manifest")
	build := exec.Command("go", "build", "-o", tool, ".")
	build.Dir = "../../tools/manifest"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	judge := func(doc []byte) ([]byte, error) {
		cmd := exec.Command(tool)
		cmd.Stdin = bytes.NewReader(doc)
		return cmd.Output()
	}
	out, err := judge(doc)
	if err != nil {
		exit, _ := errors.AsType[*exec.ExitError](err)
		t.Fatalf("%v\n%s", err, exit.Stderr)
	}
	for _, fault := range []struct{ old, new string }{
		{"hostNetwork:", "hostnetworks:"}, {"periodSeconds: 5", "periodSeconds: soon"},
		{"kind: DaemonSet", "kind: Daemon"},
	} {
		if _, err := judge(bytes.Replace(doc, []byte(fault.old), []byte(fault.new), 1)); err == nil {
			t.Errorf("%q is taken for good", fault.new)
		}
	}
	var all []daemonSet
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Kind != "Namespace" || all[1].Kind != "DaemonSet" ||
		!all[1].Spec.Template.Spec.HostNetwork || len(all[1].Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("%+v", all)
	}
	return all[1]
}

// A kubelet runs the pod of a DaemonSet on a host, by podman. Folders of the host are below one of the test.
type kubelet struct {
	*world
	host   *nstest.Host
	set    daemonSet
	podman []string // with the options that come before the command
	file   int      // how many versions the ConfigMap had
}

// at returns where a path of the host is.
func (k *kubelet) at(path string) string { return filepath.Join(k.dir, "root", path) }

// configure writes a version of the ConfigMap as a kubelet does: a new folder, to which a link leads in the
// place of the one before (AtomicWriter of Kubernetes).
func (k *kubelet) configure(doc string) {
	k.t.Helper()
	k.file++
	volume, now := filepath.Join(k.dir, "configmap"), fmt.Sprintf("..version%d", k.file)
	err := os.MkdirAll(filepath.Join(volume, now), 0o755)
	err = errors.Join(err, os.WriteFile(filepath.Join(volume, now, "mesh.toml"), []byte(onEngine(k.t, doc)),
		0o644))
	if k.file == 1 {
		err = errors.Join(err, os.Symlink("..data/mesh.toml", filepath.Join(volume, "mesh.toml")))
	}
	err = errors.Join(err, os.Symlink(now, filepath.Join(volume, "..data_tmp")),
		os.Rename(filepath.Join(volume, "..data_tmp"), filepath.Join(volume, "..data")),
		os.RemoveAll(filepath.Join(volume, fmt.Sprintf("..version%d", k.file-1))))
	if err != nil {
		k.t.Fatal(err)
	}
}

// do runs podman.
func (k *kubelet) do(args ...string) (string, error) {
	k.t.Helper()
	// Not by `ip netns exec`, which hides the cgroups that a container needs.
	line := append([]string{"60", "nsenter", "--net=/run/netns/" + k.host.Namespace.Name}, k.podman...)
	cmd := exec.Command("timeout", append(line, args...)...)
	// Not a pipe, which the pod's monitor would keep open.
	out, err := os.CreateTemp(k.dir, "out")
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	if err = errors.Join(err, readErr); err != nil {
		err = fmt.Errorf("podman %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return string(text), err
}

// load makes the image of the programs under test, as `make image` does, and returns its name.
func (k *kubelet) load() string {
	k.t.Helper()
	// Static programs, which those under test need not be.
	bin := filepath.Join(k.dir, "bin")
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "amd64")+"/", "example.org/meshd/cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		k.t.Fatalf("%v\n%s", err, out)
	}
	if err := errors.Join(os.Symlink("amd64", filepath.Join(bin, "arm64")),
		os.Symlink("amd64", filepath.Join(bin, "arm"))); err != nil {
		k.t.Fatal(err)
	}
	pack := exec.Command("go", "run", "example.org/meshd/tools/image", "-version", "test", "-bin", bin,
		"-out", k.dir)
	if out, err := pack.CombinedOutput(); err != nil {
		k.t.Fatalf("%v\n%s", err, out)
	}
	if _, err := k.do("load", "-i", filepath.Join(k.dir, "meshd-test-amd64.image.tar")); err != nil {
		k.t.Fatal(err)
	}
	return "meshd:test"
}

// run starts the pod with an image.
func (k *kubelet) run(image string) {
	k.t.Helper()
	c, spec := k.set.Spec.Template.Spec.Containers[0], k.set.Spec.Template.Spec
	s := c.SecurityContext
	args := []string{"run", "-d", "--name", "meshd", "--network", "host", "--user",
		fmt.Sprintf("%d:%d", s.RunAsUser, s.RunAsGroup)}
	for _, name := range s.Capabilities.Drop {
		args = append(args, "--cap-drop", name)
	}
	for _, name := range s.Capabilities.Add {
		args = append(args, "--cap-add", name)
	}
	if s.ReadOnlyRootFilesystem {
		args = append(args, "--read-only", "--read-only-tmpfs=false")
	}
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		args = append(args, "--security-opt", "no-new-privileges")
	}
	// Podman's profile refuses bpf(2) and Kubernetes has none by default.
	args = append(args, "--security-opt", "seccomp=unconfined")
	from := map[string]string{}
	for _, v := range spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			from[v.Name] = filepath.Join(k.dir, "configmap")
		case v.HostPath.Type == "DirectoryOrCreate":
			from[v.Name] = k.at(v.HostPath.Path)
			if err := os.MkdirAll(from[v.Name], 0o755); err != nil {
				k.t.Fatal(err)
			}
		default:
			args = append(args, "--device", v.HostPath.Path)
		}
	}
	for _, m := range c.VolumeMounts {
		if from[m.Name] == "" { // a device
			continue
		}
		volume := from[m.Name] + ":" + m.MountPath
		if m.ReadOnly {
			volume += ":ro"
		}
		args = append(args, "-v", volume)
	}
	if _, err := k.do(append(append(args, image), c.Args...)...); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		if k.t.Failed() {
			log, _ := k.do("logs", "meshd")
			k.t.Logf("the pod:\n%s", log)
		}
		if _, err := k.do("rm", "--force", "--time", "10", "meshd"); err != nil {
			k.t.Error(err)
		}
	})
}

// probe runs the command of a probe in the pod.
func (k *kubelet) probe(command []string) error {
	_, err := k.do(append([]string{"exec", "meshd"}, command...)...)
	return err
}

// newKubelet prepares podman on a host.
func newKubelet(t *testing.T, w *world, h *nstest.Host) *kubelet {
	t.Helper()
	nstest.RequirePrograms(t, "run `make engines`", "podman", "runc")
	dir, err := os.MkdirTemp("", "pm") // it wants a short path
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(w.dir, "containers.conf")
	if err := os.WriteFile(conf, []byte("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", "+
		"\"nproc=1024:1024\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	k := &kubelet{world: w, host: h, podman: []string{"env", "CONTAINERS_CONF=" + conf, "podman", "--root",
		dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp", "--storage-driver", "vfs",
		"--runtime", "runc"}}
	t.Cleanup(func() {
		_, _ = k.do("system", "reset", "--force") // os.RemoveAll fails if that did
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return k
}

// The manifest is one that the API takes, and its pod joins a host to the mesh: with the network of the host,
// two capabilities, and no file that it may write but in folders of the host. Pods of the host are attached
// by the configuration that it writes, and an edit of the ConfigMap is a reload.
func TestManifest(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	nstest.RequireCNI(t)
	set := manifest(t)
	hosts, err := nstest.NewHosts(nstest.LabForTest(t))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Reference: hosts, t: t, dir: t.TempDir(), binary: shipped}
	k := newKubelet(t, w, w.Worker2)
	k.set = set
	doc := demoFile(t) + "[container]\ncni_conf = \"/etc/cni/net.d/10-mesh.conflist\"\n"
	k.configure(doc)
	k.run(k.load())
	other := w.own(w.Worker, strings.Replace(doc, "/etc/cni/net.d", "/run/flannel", 1))
	c := set.Spec.Template.Spec.Containers[0]
	eventually(t, "the pod is ready", func() bool { return k.probe(c.ReadinessProbe.Exec.Command) == nil },
		func() string { log, _ := k.do("logs", "meshd"); return log })
	if err := k.probe(c.LivenessProbe.Exec.Command); err != nil {
		t.Error(err)
	}
	d := &nstest.Daemon{Host: w.Worker2, Binary: shipped, Socket: k.at("/run/meshd/meshd.sock")}
	s := waitStatus(t, d, "the other host is up", func(s control.Status) bool {
		return peer(t, s, "worker").State == control.Up
	})
	t.Logf("engine %s %s: %s", s.Dataplane.Engine, s.Dataplane.Receive, s.Dataplane.Reason)
	if _, err := os.Stat(k.at("/run/flannel/subnet.env")); err != nil {
		t.Error(err)
	}

	// Real pods on both hosts.
	m := &cniMesh{mesh: &mesh{world: w}, runtimes: map[*nstest.Host]*nstest.CNI{}}
	for h, conf := range map[*nstest.Host]string{w.Worker2: k.at("/etc/cni/net.d"), w.Worker: other.Run} {
		m.runtimes[h] = &nstest.CNI{Host: h, Tool: goProgram(t, cnitool), Network: "mesh", Conf: conf,
			Data: filepath.Join(w.dir, h.Name+".cni"), Run: other.Run}
	}
	here, addresses := m.pod(w.Worker2, "pod-a")
	_, there := m.pod(w.Worker, "pod-w")
	if got := addresses[0].String(); got != "10.244.2.2/24" {
		t.Errorf("the pod has %s", got)
	}
	contains(t, run(t, here, "ping", "-c", "1", "-w", "20", there[0].Addr().String()), "ttl=60")

	k.configure(doc + fourth)
	waitStatus(t, d, "the edit", func(s control.Status) bool { return len(s.Peers) == 3 })
	k.configure(doc + badLine)
	waitStatus(t, d, "rejected", func(s control.Status) bool {
		return len(s.Peers) == 3 && strings.Contains(strings.Join(problems(s), " "), "file_rejected")
	})
}
