package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"example.org/meshd/configs"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/migrate"
)

// initCommand returns `meshd init`. It writes to stdout and never to /etc/mesh.toml, since a file that
// is there must not be lost; only --add changes a file, and keeps what is in it.
func initCommand(g *globals) *cobra.Command {
	var flannel, kubernetes, wireGuard []string
	var minimal, add bool
	var key string
	cmd := &cobra.Command{
		Use:   "init [--minimal | --from-{flannel,kubernetes,wg} FILE... | --add NAME ADDRESS...]",
		Short: "Print a starter file, or one drafted from flannel, Kubernetes or WireGuard; or add a node",
		Long: `Print a commented file to start from, with the name and the address of this host; --minimal
leaves out what has a default. --from-flannel drafts it from flannel's net-conf.json and a list of its
hosts: leases from etcd, or nodes of Kubernetes; it also reads kube-flannel.yml and what kubectl prints,
as JSON or YAML. --from-kubernetes drafts it from a list of nodes, for a cluster without a network plugin,
and from the ConfigMap kubeadm-config, which has the pod network. --from-wg drafts it from wg-quick files:
one of them, or one of each host. "-" stands for standard input. The file and standard error say what
could not be carried over. Exit code 1: the draft is incomplete.

--add adds a node to the file of --config, which keeps its comments. Without a SUBNET the node gets the
next free one. An invalid node changes nothing.

--public-key is what "meshd key" prints on the host of the node. With it, the starter file encrypts packets,
and --add takes a node without an ADDRESS, which calls the others.`,
		Example: `  meshd init > /etc/mesh.toml
  meshd init --public-key "$(meshd key)" > /etc/mesh.toml
  meshd init --add edge-2 172.18.0.4
  meshd init --add edge-2 172.18.0.4 --public-key "$(ssh edge-2 sudo meshd key)"
  etcdctl get --prefix /coreos.com/network | meshd init --from-flannel - > mesh.toml
  kubectl get nodes -o yaml > nodes.yml && meshd init --from-flannel kube-flannel.yml nodes.yml > mesh.toml
  kubectl get nodes -o json | meshd init --from-kubernetes - > mesh.toml
  meshd init --from-wg edge-1/wg0.conf edge-2/wg0.conf > mesh.toml`,
		Args: cobra.ArbitraryArgs, // more FILEs: a flag takes the first one only
		RunE: func(cmd *cobra.Command, args []string) error {
			var draft drafter
			switch {
			case key != "" && alternatives(flannel != nil, kubernetes != nil, wireGuard != nil) > 0:
				return fmt.Errorf("%w: --public-key is of a starter file, or of a node to --add", errUsage)
			case alternatives(minimal, add, flannel != nil, kubernetes != nil, wireGuard != nil) > 1:
				return fmt.Errorf("%w: use one of --minimal, --add, --from-flannel, --from-kubernetes and --from-wg",
					errUsage)
			// nil tells a flag that was not given; one that was given has at least a file.
			case flannel != nil:
				draft = migrate.FromFlannel
			case kubernetes != nil:
				draft = migrate.FromKubernetes
			case wireGuard != nil:
				draft = migrate.FromWireGuard
			case add:
				return addNode(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), g, key, args)
			case len(args) > 0:
				return fmt.Errorf("%w: `meshd init` alone takes no arguments: files need --from-flannel, "+
					"--from-kubernetes or --from-wg, a node needs --add", errUsage)
			default:
				doc, isExample, err := starter(minimal, key)
				if err != nil {
					return err
				}
				if isExample {
					fmt.Fprintln(cmd.ErrOrStderr(), exampleNodes)
				}
				_, err = cmd.OutOrStdout().Write(doc)
				return err
			}
			return printDrafted(cmd, draft, slices.Concat(flannel, kubernetes, wireGuard, args))
		},
	}
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		if add { // a name, an address and subnets, and no file
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
	cmd.Flags().BoolVar(&minimal, "minimal", false, "print what has no default, without explanations")
	cmd.Flags().BoolVar(&add, "add", false, "add a node to the file of --config")
	cmd.Flags().StringVar(&key, "public-key", "", "the `key` of the node that is printed or added")
	cmd.Flags().StringArrayVar(&flannel, "from-flannel", nil, "draft from the `FILE`s of flannel")
	cmd.Flags().StringArrayVar(&kubernetes, "from-kubernetes", nil, "draft from the `FILE`s of kubectl")
	cmd.Flags().StringArrayVar(&wireGuard, "from-wg", nil, "draft from the `FILE`s of wg-quick")
	return cmd
}

// A drafter makes a draft of files, as migrate.FromFlannel does.
type drafter func([]migrate.File) (*migrate.Draft, error)

// printDrafted drafts a file from others.
func printDrafted(cmd *cobra.Command, draft drafter, paths []string) error {
	files, err := readAll(cmd.InOrStdin(), paths)
	if err != nil {
		return err
	}
	d, err := draft(files)
	if err != nil {
		return err
	}
	return printDraft(cmd.OutOrStdout(), cmd.ErrOrStderr(), d)
}

// alternatives counts the flags that were given.
func alternatives(given ...bool) (n int) {
	for _, g := range given {
		if g {
			n++
		}
	}
	return n
}

// exampleNodes warns of a file that passes `meshd check` and is about other hosts.
const exampleNodes = "meshd: this host has no default route and not exactly one address, so the file is an " +
	"example: replace its nodes edge-1 and edge-2 by your hosts"

// starter returns the file to start with: about this host, as far as it knows itself, or an example. With a
// key, packets are encrypted, and a host whose address is not certain has none in the file.
func starter(minimal bool, key string) (doc []byte, isExample bool, err error) {
	name, address, ok := thisHost()
	switch {
	case !ok && key == "" && minimal:
		return configs.MinimalExample, true, nil
	case !ok && key == "":
		return configs.Starter, true, nil
	case minimal:
		doc = configs.Minimal(name, address)
	default:
		doc = configs.For(name, address)
	}
	if key != "" {
		if _, err := mesh.ParseKey(key); err != nil { // not repeated: it may be the private one
			return nil, false, fmt.Errorf("%w: --public-key: %w", errUsage, err)
		}
		doc = configs.Encrypted(doc, key)
	}
	return doc, false, nil
}

// readAll reads files; "-" stands for standard input.
func readAll(stdin io.Reader, paths []string) (files []migrate.File, err error) {
	for _, path := range paths {
		f := migrate.File{Name: path}
		if path == "-" {
			f.Name = "standard input"
			f.Content, err = io.ReadAll(io.LimitReader(stdin, migrate.MaxInput+1)) // the draft refuses one more
		} else {
			f.Content, err = readBounded(path)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// readBounded reads a file, which may be a pipe of a shell, as far as a draft takes it.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, migrate.MaxInput+1))
}

// printDraft prints a draft on stdout and what is missing in it on stderr, so that the draft can be
// redirected into a file. It returns an error if the draft is incomplete.
func printDraft(stdout, stderr io.Writer, d *migrate.Draft) error {
	doc := d.TOML()
	// An incomplete draft is printed all the same: filling gaps is less work than starting over.
	if _, err := stdout.Write(doc); err != nil {
		return err
	}
	for _, n := range d.Notes {
		fmt.Fprintf(stderr, "meshd: not carried over: %s\n", n)
	}
	// The draft is judged by the same rules as any file: here they say what is left to fill in.
	_, err := config.Parse("mesh.toml", doc)
	faults, bad := errors.AsType[config.Faults](err)
	if !bad {
		return err
	}
	fmt.Fprintln(stderr, faults)
	return errors.New("draft incomplete: fix the errors above, then run `meshd check`")
}
